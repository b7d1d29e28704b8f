"""Models that look at regions, given whole pictures: the cells of an encoder's grid are regions."""

from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.fusion.delegates import Delegates
from mmjax.models.fusion.lxmert import Lxmert
from mmjax.models.fusion.pictures import numbered
from mmjax.models.fusion.vilbert_streams import VilbertStreams
from mmjax.models.fusion.visualbert import VisualBert
from mmjax.models.interfaces import Fused, GridTower
from mmjax.typing import Array, Bool, Float, Int, MadeOf, View


class Regions(NamedTuple):
    """A picture as a model of regions reads it.

    Attributes:
      regions: [batch, *pictures, regions, features].
      region_mask: [batch, *pictures, regions], True everywhere.
      boxes: [batch, *pictures, regions, places], or None where the model asks for none.
    """

    regions: Any
    region_mask: Any
    boxes: Any


class Pictured(Delegates):
    """A picture encoder before a model that fuses texts with regions; both are trained as one.

    Regions are the encoder's tokens, one for each cell of its grid; a class token is left out.
    Their boxes are the cells'. ViLBERT's region 0 is the mean of all. Parameters lie under 'image'
    and 'fusion', so the weights of either alone are a start for it.

    Attributes:
      image: the picture encoder: `ViT`, `Cnn`, `ResNet` or `ClipResNet`.
      fusion: a `VisualBert`, `Lxmert` or `Vilbert` whose regions are as wide as the encoder's
        tokens (`region_dim`, or `feature_dim` of its picture tower).
      image_size: side in pixels of the pictures that `example` gives.

    Source: cells of a grid in place of a detector's regions: Jiang et al. 2020, "In Defense of Grid
    Features for Visual Question Answering", section 3.
    """

    image: nn.Module
    fusion: nn.Module
    image_size: int = 224

    made_of: ClassVar[dict[str, MadeOf]] = {
        "fuse": MadeOf(
            "join",
            {"picture": View("look", ("image", "row"))},
            ("token_ids", "text_mask", "token_type", "task"),
        )
    }

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads of the model that fuses."""
        return self.fusion.heads

    @property
    def answers(self) -> int:
        """How many answers the 'answer' head of the model that fuses has scores of."""
        return self.fusion.answers

    @property
    def text(self) -> nn.Module:
        """The tower that reads the words, which says how many there are and how long a text is."""
        return self.fusion.stream if isinstance(self.fusion, VisualBert) else self.fusion.text

    def look(
        self,
        image: Float[Array, "batch *pictures height width channels"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> Regions:
        """Normalised pictures as regions.

        Args:
          image: normalised pixels; of several pictures of a text with an axis for them.
          row: the rows' global numbers.
          train: whether the encoder is in training.

        Raises:
          ValueError: an encoder without a grid, one that leaves tokens out, or a model that fuses
            that takes no regions.
        """
        places = _places(self.fusion)
        if not isinstance(self.image, GridTower):
            raise ValueError(
                f"image={type(self.image).__name__} does not tell the grid of its tokens; take "
                "ViT, Cnn, ResNet or ClipResNet."
            )
        pictures = image.shape[1:-3]
        flat = image.reshape(-1, *image.shape[-3:])  # [b, p, h, w, c] -> [b * p, h, w, c]
        row = numbered(row, pictures[0]) if pictures else row
        tokens = self.image(flat, row=row, train=train).tokens
        rows, columns = self.image.grid(*flat.shape[1:3])
        extra = tokens.shape[1] - rows * columns
        if extra not in (0, 1):
            raise ValueError(
                f"the encoder gives {tokens.shape[1]} tokens for a grid of {rows}x{columns}; all "
                "of its cells are regions, so patch_dropout must be 0."
            )
        tokens, boxes = tokens[:, extra:], cells(rows, columns)
        if places == 5:
            tokens = jnp.concatenate([tokens.mean(axis=1, keepdims=True), tokens], axis=1)
            boxes = jnp.concatenate([jnp.asarray([[0.0, 0.0, 1.0, 1.0]]), boxes])
            covered = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            boxes = jnp.concatenate([boxes, covered[:, None]], axis=1)
        shape = (image.shape[0], *pictures, tokens.shape[1])
        placed = jnp.broadcast_to(boxes, (*shape, boxes.shape[1]))
        return Regions(
            tokens.reshape(*shape, tokens.shape[-1]),
            jnp.ones(shape, bool),
            placed if places else None,
        )

    def join(
        self,
        picture: Regions,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        train: bool = False,
        token_type: Int[Array, "batch length"] | None = None,
        task: Int[Array, " batch"] | None = None,
    ) -> Fused:
        """Texts with pictures as `look` gives them; see the `fuse` of the model that fuses."""
        words = {"token_ids": token_ids, "text_mask": text_mask, "token_type": token_type}
        words |= {"regions": picture.regions, "region_mask": picture.region_mask}
        if picture.boxes is not None:
            words["boxes"] = picture.boxes
        if task is not None:
            words["task"] = task
        return self.fusion.fuse(**words, train=train)

    def fuse(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        image: Float[Array, "batch *pictures height width channels"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
        token_type: Int[Array, "batch length"] | None = None,
        task: Int[Array, " batch"] | None = None,
    ) -> Fused:
        """Texts with pictures: `look`, then `join`."""
        picture = self.look(image, row, train)
        return self.join(picture, token_ids, text_mask, train, token_type, task)

    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        image: Float[Array, "batch *pictures height width channels"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> tuple[Fused, dict[str, Any]]:
        """What the model that fuses gives when called, of each text's first picture."""
        first = image if image.ndim == 4 else image[:, 0]
        picture = self.look(first, row, train)
        words = {"regions": picture.regions, "region_mask": picture.region_mask}
        if picture.boxes is not None:
            words["boxes"] = picture.boxes
        return self.fusion(token_ids=token_ids, text_mask=text_mask, train=train, **words)

    def example(self) -> dict[str, Any]:
        """One row of zeros for each word that is needed."""
        words = self.fusion.example()
        side = getattr(self.image, "image_size", self.image_size)
        return {
            "token_ids": words["token_ids"],
            "text_mask": words["text_mask"],
            "image": jnp.zeros((1, side, side, 3)),
        }


def cells(rows: int, columns: int) -> Float[Array, "cells four"]:
    """x1, y1, x2, y2 of a grid's cells in reading order, as parts of the picture's sides."""
    y, x = jnp.divmod(jnp.arange(rows * columns), columns)
    return jnp.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], axis=1)


def _places(fusion: Any) -> int:
    """How many numbers say where a region is: 0 for VisualBERT, 4 for LXMERT, 5 for ViLBERT."""
    for kind, number in ((VisualBert, 0), (Lxmert, 4), (VilbertStreams, 5)):
        if isinstance(fusion, kind):
            return number
    raise ValueError(
        f"fusion={type(fusion).__name__} takes no regions; give a VisualBert, Lxmert or Vilbert."
    )
