"""Positions of patches: fixed sines and cosines, and learned tables for another picture size."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.typing import Array, Float, Int


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


def resample(
    table: Float[Array, "places dim"], grid: Int[Array, "batch 2"], length: int
) -> Float[Array, "batch length dim"]:
    """A learned table of square pictures made fit for pictures of any shape, each its own.

    Bilinear, and averaging where a picture has fewer patches than the table (antialiased): a patch
    sees the table through a triangle as wide as the coarser of the two grids. All shapes are
    static, so rows and columns may be traced. Padding gets the first patch's position.

    Args:
      table: one vector a patch of a square picture, in reading order.
      grid: rows and columns of patches of each picture; at most `length` patches.
      length: patches of a picture, with padding.

    Source: torch, aten/src/ATen/native/cpu/UpSampleKernel.cpp (bilinear, antialias,
    align_corners=False); transformers, models/siglip2/modeling_siglip2.py
    `resize_positional_embeddings`, for the padding.
    """
    side = math.isqrt(table.shape[0])
    grid = jnp.maximum(grid, 1)  # rows that only fill up have none
    number = jnp.arange(length)
    patches = grid[:, :1] * grid[:, 1:]
    number = jnp.where(number < patches, number, 0)  # [batch, length]
    row, column = number // grid[:, 1:], number % grid[:, 1:]

    def seen(place: Int[Array, "batch length"], count: Int[Array, "batch 1"]) -> Any:
        step = side / count  # places of the table from one patch to the next
        distance = jnp.arange(side) + 0.5 - (step * (place + 0.5))[..., None]
        triangle = 1 - jnp.abs(distance) / jnp.maximum(step, 1.0)[..., None]
        triangle = jnp.maximum(triangle, 0.0)
        return triangle / triangle.sum(axis=-1, keepdims=True)  # [batch, length, side]

    both = seen(row, grid[:, :1])[..., None] * seen(column, grid[:, 1:])[..., None, :]
    both = both.reshape(*number.shape, -1)  # [b, n, side, side] -> [b, n, side * side]
    return jnp.matmul(both, table.astype(jnp.float32), precision="highest")


def stretch(
    table: Float[Array, "places dim"],
    grid: Int[Array, "batch 2"],
    row: Int[Array, "batch length"],
    column: Int[Array, "batch length"],
) -> Float[Array, "batch length dim"]:
    """A learned table of square pictures laid over pictures of any shape, corner on corner.

    Bilinear, without averaging. All shapes are static, so rows and columns may be traced.

    Args:
      table: one vector a patch of a square picture, in reading order.
      grid: rows and columns of patches of each picture.
      row: of the patches that are asked for.
      column: of these patches; outside of the picture's grid their vector is zero.

    Source: torch, aten/src/ATen/native/UpSample.h (bilinear, align_corners=True); transformers,
    models/vilt/modeling_vilt.py `ViltEmbeddings.visual_embed`, for what lies outside.
    """
    side = math.isqrt(table.shape[0])

    def seen(place: Int[Array, "batch length"], count: Int[Array, "batch 1"]) -> Any:
        step = (side - 1) / jnp.maximum(count - 1, 1)  # places of the table between two patches
        distance = jnp.arange(side) - (step * place)[..., None]
        triangle = jnp.maximum(1 - jnp.abs(distance), 0.0)
        return jnp.where((place < count)[..., None], triangle, 0.0)  # [batch, length, side]

    both = seen(row, grid[:, :1])[..., None] * seen(column, grid[:, 1:])[..., None, :]
    both = both.reshape(*row.shape, -1)  # [b, n, side, side] -> [b, n, side * side]
    return jnp.matmul(both, table.astype(jnp.float32), precision="highest")


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
