"""Several pictures of a text: each is looked at with the text, the results stand in a row."""

from typing import Any

import jax.numpy as jnp

from mmjax.models.interfaces import Fused
from mmjax.typing import Array, Float, Int

__all__ = ["each", "judged", "numbered", "pair", "together"]


def each(words: dict[str, Any], pictures: int, several: tuple[str, ...]) -> dict[str, Any]:
    """Words of a batch whose rows are single pictures, a text's own one after another.

    Args:
      words: {word: array with the batch first, or None}.
      pictures: number of pictures of each text.
      several: words with an axis of pictures after the batch; the others are repeated.
    """
    made = {}
    for name, x in words.items():
        if x is None:
            made[name] = None
        elif name in several:
            made[name] = x.reshape(-1, *x.shape[2:])  # [b, p, ...] -> [b * p, ...]
        else:
            made[name] = jnp.repeat(x, pictures, axis=0)
    return made


def numbered(row: Int[Array, " batch"] | None, pictures: int) -> Int[Array, " all"] | None:
    """A number for each single picture, by its row's, so that each draws for itself."""
    if row is None:
        return None
    return jnp.repeat(row, pictures) * pictures + jnp.tile(jnp.arange(pictures), row.shape[0])


def together(fused: Fused, pictures: int) -> Fused:
    """One row for each text again: what its pictures gave, one after another along the next axis.

    Args:
      fused: of rows as `each` makes them.
      pictures: number of pictures of each text.
    """

    def row(x: Any) -> Any:
        if x is None:
            return None
        if x.ndim == 2:  # [b * p, n] -> [b, p * n]: masks and pooled vectors
            return x.reshape(-1, pictures * x.shape[1])
        return x.reshape(-1, pictures * x.shape[1], x.shape[2])

    return Fused(*(row(x) for x in fused))


def pair(pooled: Float[Array, "batch dim"], dim: int) -> Float[Array, "batch both"]:
    """Pooled vectors of two pictures in a row.

    Args:
      pooled: of `together`.
      dim: width of one picture's vector.

    Raises:
      ValueError: they are of another number of pictures.
    """
    if pooled.shape[-1] != 2 * dim:
        raise ValueError(
            f"reasoning is over two pictures, and a row has {pooled.shape[-1] // dim}; give "
            "regions and boxes of [batch, pictures, regions, ...]."
        )
    return pooled


def judged(pooled: Float[Array, "batch all"], dim: int, pictures: int) -> Float[Array, "batch all"]:
    """Pooled vectors of so many pictures in a row.

    Args:
      pooled: of `together`.
      dim: width of one picture's vector.
      pictures: how many the head judges.

    Raises:
      ValueError: they are of another number of pictures.
    """
    if pooled.shape[-1] != pictures * dim:
        raise ValueError(
            f"the 'reasoning' head judges {pictures} pictures a row, and there are "
            f"{pooled.shape[-1] // dim}; give images of shape [batch, {pictures}, height, width, "
            "channels]."
        )
    return pooled
