"""A picture tower and one score for each class."""

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.interfaces import TowerOutput
from mmjax.models.layers.dense import Dense
from mmjax.typing import Array, Float, Int


class Classifier(nn.Module):
    """A dense layer on what a tower pools; parameters lie under 'image' and 'head'.

    Attributes:
      image: the picture tower, such as `ResNet`.
      num_classes: number of scores.
    """

    image: nn.Module
    num_classes: int

    def setup(self):
        """Makes the head; it and the scores are float32."""
        self.head = Dense(self.num_classes)

    def encode(
        self,
        image: Float[Array, "batch height width channels"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> TowerOutput:
        """What the tower gives of normalised pictures."""
        return self.image(image, row=row, train=train)

    def classify(
        self,
        image: Float[Array, "batch height width channels"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch classes"]:
        """Scores of each class, before any softmax, of normalised pictures."""
        return self.head(self.encode(image, row, train).pooled.astype(jnp.float32))

    def __call__(
        self,
        image: Float[Array, "batch height width channels"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch classes"]:
        """`classify`; this is what `init` runs."""
        return self.classify(image, row, train)
