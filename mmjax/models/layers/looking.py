"""Where in a picture the words of its text look: attention made to be seen, not to be trained.

Whoever wants it runs a model with the collection 'attention' mutable. Then `Attention` sows its
softmax, 'own' or 'other', and whoever makes tokens of a picture sows 'cells', where they lie.
Nothing of it is computed otherwise.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp

from mmjax.models.interfaces import Fused, GridTower
from mmjax.typing import Array, Float, Int

__all__ = ["COLLECTION", "Looks", "sow_cells", "sow_grid", "text_over_picture"]

COLLECTION = "attention"
LAYERS = 2  # the last ones, over which the mean is taken


class Looks(NamedTuple):
    """How much the words of a text look at each place of its picture.

    Attributes:
      values: 0 to 1, [batch, places].
      boxes: where the places are, x1, y1, x2, y2 as parts of the picture's width and height,
        [batch, places, 4]; without area where a place is no part of it. Several pictures stand
        beside each other.
    """

    values: Any
    boxes: Any


def sow_cells(
    module: nn.Module, place: Int[Array, "batch patches"], rows: int, columns: int, before: int = 0
) -> None:
    """Tells where a picture's tokens lie, where somebody asks for attention.

    Args:
      module: who makes the tokens.
      place: number of each token's cell of a grid, in reading order.
      rows: of the grid.
      columns: of the grid.
      before: tokens before these that lie nowhere, such as a class token.
    """
    if module.is_mutable_collection(COLLECTION) and not module.is_initializing():
        row, column = place // columns, place % columns
        sides = (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
        boxes = jnp.stack(sides, axis=-1)
        module.sow(COLLECTION, "cells", jnp.pad(boxes, ((0, 0), (before, 0), (0, 0))))


def sow_grid(
    module: nn.Module,
    tower: nn.Module,
    image: Float[Array, "batch height width channels"],
    tokens: Float[Array, "batch places dim"],
) -> None:
    """`sow_cells` for the tokens of an encoder that knows its grid; nothing for one that does not.

    Args:
      module: who makes the tokens.
      tower: the picture encoder.
      image: what it encoded.
      tokens: what it made of it, perhaps with a class token first.
    """
    if isinstance(tower, GridTower):
        rows, columns = tower.grid(*image.shape[1:3])
        before = tokens.shape[1] - rows * columns
        if before in (0, 1):
            place = jnp.broadcast_to(jnp.arange(rows * columns), (tokens.shape[0], rows * columns))
            sow_cells(module, place, rows, columns, before)


def text_over_picture(
    sown: dict[str, Any], fused: Fused, boxes: Float[Array, "batch *pictures regions _"] | None
) -> Looks | None:
    """The mean over words, heads and the last layers of attention to the picture's places.

    In a model with two streams it is the attention that crosses from text to picture; what runs
    in a module that is named for the image looks the other way and is left out. In one stream it
    is the part of words over places, the words standing first.

    Args:
      sown: the collection after a pass.
      fused: what the pass made.
      boxes: where regions are, in models that take regions.

    Returns:
      None where no attention of this kind was sown, or it is not known where the places are.
    """
    found = flax.traverse_util.flatten_dict(sown, sep="/")
    made = [(path, _first(weights, path, fused)) for path, weights in found.items()]
    made = [(path, values) for path, values in made if values is not None]
    crossing = [one for one in made if one[0].endswith("other")] or made
    chosen = [one for one in crossing if "image" not in one[0]] or crossing
    known = _known(found, fused, boxes)
    return Looks(chosen[-1][1], known) if chosen and known is not None else None


def _first(weights: tuple[Any, ...], path: str, fused: Fused) -> Float[Array, "..."] | None:
    """The first of what was sown at a path that is of words over places, as [batch, places]."""
    if not path.endswith(("own", "other")):
        return None
    batch, places = fused.image.shape[:2]
    for one in weights:
        one = one[-LAYERS:].mean(axis=0) if one.ndim == 5 else one  # a stack, or a single layer
        one = one.mean(axis=1)  # [b * pictures, heads, queries, keys] -> [b * pictures, q, k]
        rows, queries, keys = one.shape
        pictures = rows // batch
        words, seen = fused.text.shape[1] // pictures, places // pictures
        if path.endswith("own"):
            if queries not in (words + seen, words + seen + 1):
                continue
            before = queries - words - seen  # a token of the class stands first
            one = one[:, before : before + words, before + words :]
        elif keys != seen or queries not in (words, words + 1):
            continue
        elif queries == words + 1:  # a token of the task stands second
            one = jnp.concatenate([one[:, :1], one[:, 2:]], axis=1)
        real = fused.text_mask.reshape(rows, words).astype(jnp.float32)
        values = jnp.einsum("bwp,bw->bp", one, real) / jnp.maximum(real.sum(1), 1)[:, None]
        values = values.reshape(batch, places) / pictures
        return values if fused.image_mask is None else values * fused.image_mask
    return None


def _known(
    found: dict[str, Any], fused: Fused, boxes: Any
) -> Float[Array, "batch places four"] | None:
    """Where the places are, pictures beside each other."""
    batch, places = fused.image.shape[:2]
    if boxes is None:
        cells = [made[0] for path, made in found.items() if path.endswith("cells")]
        boxes = cells[-1] if cells else None
    if boxes is None:
        return None
    boxes = boxes.astype(jnp.float32)[..., :4].reshape(batch, -1, *boxes.shape[-2:-1], 4)
    pictures = boxes.shape[1]
    across = jnp.arange(pictures, dtype=jnp.float32)[:, None, None]
    x = (boxes[..., 0::2] + across * (boxes[..., 2:3] > boxes[..., 0:1])) / pictures
    boxes = jnp.stack([x[..., 0], boxes[..., 1], x[..., 1], boxes[..., 3]], axis=-1)
    boxes = boxes.reshape(batch, -1, 4)
    return boxes if boxes.shape[1] == places else None
