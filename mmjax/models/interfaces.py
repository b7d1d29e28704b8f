"""What other rooms may call on a model; everything else about a model is its own business.

A model is a flax module. Objectives and evaluators name one of the methods below and hand it
Batch words as keyword arguments (`model.apply(variables, **words, method='encode_image')`).
Randomness is asked for with `train=True` and an rng named 'dropout'; `row` carries the rows' global
numbers, so that what a row draws depends on neither sharding nor micro-batches. A tower, or an
`encode_*`, that takes `tokens` can be told that nobody reads them (`tokens=False`): it may then run
no more of its last block than its pooled vector needs, and give None for tokens and mask.

Parameters are float32 and lie at the same paths whatever a model's `scan`, `remat` and `dtype` are:

    image/...                  the image tower
    text/...                   the text tower
    image_projection/...       dense layer into the shared space, where the model has one
    text_projection/...
    log_scale                  logarithm of the similarities' scale, or
    temperature                what they are divided by
    bias                       added to the scaled similarities, where the model has one
    stream/...                 the one tower over words and picture of a model that fuses them

Blocks of a tower are stacked under `blocks`, with the depth as first axis of every array.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from mmjax.typing import Array, Bool, Encoded, Float, Int

__all__ = ["DualEncoder", "Fused", "GridTower", "ImageTower", "TextTower", "TowerOutput"]


class TowerOutput(NamedTuple):
    """What a tower returns, before any shared space.

    Attributes:
      tokens: the last sequence of vectors, normalised, [batch, length, dim].
      mask: True where a token is real, [batch, length], or None when all are.
      pooled: one vector a row, [batch, dim].
    """

    tokens: Any
    mask: Any
    pooled: Any


class Fused(NamedTuple):
    """What a model that looks at text and picture together makes of them; its heads read this.

    Of several pictures the places stand one after another along the same axis.

    Attributes:
      text: a vector for each word that knows of the picture, [batch, length, dim].
      text_mask: True where a word is real, [batch, length].
      image: a vector for each region or patch that knows of the text, [batch, places, dim].
      image_mask: True where a place is real, [batch, places], or None when all are.
      pooled: one vector for both, [batch, dim], float32.
    """

    text: Any
    text_mask: Any
    image: Any
    image_mask: Any
    pooled: Any


class ImageTower(Protocol):
    """Pictures to vectors: what `TwoTower(image=...)` calls."""

    def __call__(
        self,
        image: Float[Array, "batch height width channels"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> TowerOutput:
        """Tokens and one pooled vector for each normalised picture."""


@runtime_checkable
class GridTower(Protocol):
    """An `ImageTower` whose tokens are the cells of a grid over the picture, in reading order."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the tokens of a picture of so many pixels."""


class TextTower(Protocol):
    """Texts to vectors: what `TwoTower(text=...)` calls."""

    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> TowerOutput:
        """Tokens and one pooled vector for each text."""


@runtime_checkable
class DualEncoder(Protocol):
    """Two encoders into one space; the words they take are the keyword arguments' names."""

    def encode_image(self, *args: Any, **words: Any) -> Encoded:
        """Pictures, or their features, in the shared space."""

    def encode_text(self, *args: Any, **words: Any) -> Encoded:
        """Texts, or their features, in the shared space."""

    def scalars(self) -> dict[str, Float[Array, ""]]:
        """'log_scale', and 'bias' where the model has one; float32."""
