"""Positions of patches: fixed sines and cosines, and learned tables for another picture size."""

import math

import jax
import jax.numpy as jnp

from mmjax.typing import Array, Float


def sincos_2d(
    rows: int, columns: int, dim: int, temperature: float = 10_000.0
) -> Float[Array, "patches dim"]:
    """Sines and cosines of the column and the row of each patch, in reading order.

    Args:
      rows: patches from top to bottom.
      columns: patches from left to right.
      dim: width of a token, a multiple of 4 and at least 8: a quarter each for sin and cos of the
        column, sin and cos of the row.
      temperature: wavelengths go from 2π to 2π times this, in patches.

    Raises:
      ValueError: a `dim` that is no multiple of 4, or below 8.

    Source: Beyer et al. 2022 (Better plain ViT baselines), section 3; big_vision,
    models/vit.py `posemb_sincos_2d`.
    """
    if dim % 4 or dim < 8:
        raise ValueError(
            f"sincos positions need a dim that is a multiple of 4 from 8 on, not {dim}."
        )
    omega = temperature ** -(jnp.arange(dim // 4, dtype=jnp.float32) / (dim // 4 - 1))
    row, column = jnp.mgrid[:rows, :columns]
    column = column.reshape(-1, 1) * omega
    row = row.reshape(-1, 1) * omega
    parts = [jnp.sin(column), jnp.cos(column), jnp.sin(row), jnp.cos(row)]
    return jnp.concatenate(parts, axis=1)  # 4 of [patches, dim/4] -> [patches, dim]


def resize(table: Float[Array, "old dim"], patches: int, extra: int = 0) -> Float[Array, "new dim"]:
    """A learned table of square pictures made fit for another number of patches.

    Args:
      table: one vector a position: first `extra` that are no patches, then the patches in reading
        order.
      patches: the wanted number of patches, a square number.
      extra: positions before the patches (1 for a class token); they stay as they are.

    Raises:
      ValueError: a number of patches, old or new, that is no square.

    Source: Dosovitskiy et al. 2020, section 3.2; bicubic as in open_clip,
    src/open_clip/model.py `resize_pos_embed`.
    """
    old = table.shape[0] - extra
    sides = [math.isqrt(number) for number in (old, patches)]
    if sides[0] ** 2 != old or sides[1] ** 2 != patches:
        raise ValueError(
            f"positions of {old} patches do not resize to {patches}: not both squares."
        )
    dim = table.shape[1]
    grid = table[extra:].reshape(sides[0], sides[0], dim)
    grid = jax.image.resize(grid, (sides[1], sides[1], dim), "bicubic")
    return jnp.concatenate([table[:extra], grid.reshape(patches, dim)])
