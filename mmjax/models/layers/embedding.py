"""Rows of a table by their numbers, of a table that may be stored in parts."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from mmjax.parallel.sharding import stored
from mmjax.typing import Array, Float, Int


def look_up(
    table: Float[Array, "rows dim"], numbers: Int[Array, "batch length"], path: str = ""
) -> Float[Array, "batch length dim"]:
    """The rows of a table; not-a-number for a number outside of it.

    A table in parts stays in parts, and so does its gradient: each device looks up its part of the
    columns for all rows of the batch of its `fsdp` group, then they exchange. What travels is as
    large as the result. Left to itself the compiler lays out the global batch on each device where
    both `data` and `fsdp` are above 1.

    Args:
      table: a vector for each number.
      numbers: which to take.
      path: of the table within the model.
    """
    place = stored(path, 2)
    if place is None:
        return jnp.take(table, numbers, axis=0)
    rows_cut, columns_cut = place.spec
    if rows_cut not in (None, "tensor") or columns_cut not in (None, "fsdp"):
        return jnp.take(table, numbers, axis=0)
    total = table.shape[0]

    def local(table: Any, numbers: Any) -> Any:
        if columns_cut:
            numbers = jax.lax.all_gather(numbers, "fsdp", axis=0, tiled=True)
        x = _part(table, numbers, total, "tensor" if rows_cut else None)
        if columns_cut:  # [fsdp * b, n, dim / fsdp] -> [b, n, dim]
            x = jax.lax.all_to_all(x, "fsdp", split_axis=0, concat_axis=2, tiled=True)
        return x

    batch = PartitionSpec(("data", "fsdp"))
    return jax.shard_map(local, mesh=place.mesh, in_specs=(place.spec, batch), out_specs=batch)(
        table, numbers
    )


def _part(table: Any, numbers: Any, total: int, axis: str | None) -> Any:
    """The rows of a table whose rows are dealt out along an axis, on each of its devices."""
    if axis is None:
        return jnp.take(table, numbers, axis=0)
    first = jax.lax.axis_index(axis) * table.shape[0]
    here = (numbers >= first) & (numbers < first + table.shape[0])
    taken = jnp.take(table, jnp.where(here, numbers - first, 0), axis=0)
    x = jax.lax.psum(jnp.where(here[..., None], taken, 0), axis)
    known = (numbers >= 0) & (numbers < total)
    return jnp.where(known[..., None], x, jnp.nan)
