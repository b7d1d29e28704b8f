"""Each row meets each column though no device holds more than its own of either.

The rows stay where they are. The columns go round the devices in a ring, block by block, together
with what is summed up for them, and are home again after as many hops as there are devices. The
ring is a loop of the compiled program, so what it needs depends on the local batch alone, however
many devices there are.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from mmjax.parallel.ring_order import ring_order
from mmjax.typing import Array, Int, PyTree

ROW_AXES = ("data", "fsdp")  # mesh axes that cut the batch; the others hold copies of it

# The columns of a passing block are met so many at a time: [local batch, 256] pairs are all that a
# device ever holds. Wide enough for a matrix unit, and a float32 sum over more of them loses more.
CHUNK_COLUMNS = 256

Meet = Callable[[PyTree, PyTree, PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


def row_shards(mesh: Mesh | None) -> int:
    """Into how many parts the batch is cut; 1 without a mesh."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def on_rows(function: Callable[..., Any], mesh: Mesh | None, whole_args: int, out: Any) -> Any:
    """`function` as the part of one device, over all of them; itself without a mesh.

    Differentiation must not go through it: what is whole on each device, and the copies along the
    axes that do not cut the batch, would be counted several times.

    Args:
      function: takes `whole_args` arguments whole on each device, then one that is cut by rows.
      mesh: the run's mesh.
      whole_args: how many leading arguments are whole on each device.
      out: True where the results are cut by rows, False where they are whole on each device.
    """
    if mesh is None:
        return function
    rows, whole = PartitionSpec(ROW_AXES), PartitionSpec()
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(whole,) * whole_args + (rows,),
        out_specs=rows if out else whole,
        check_vma=False,
    )


def meet_all(
    meet: Meet,
    rows: PyTree,
    columns: PyTree,
    row_sums: PyTree,
    column_sums: PyTree,
    whole: PyTree,
    mesh: Mesh | None,
    chunk: int = CHUNK_COLUMNS,
) -> tuple[PyTree, PyTree]:
    """Lets all rows meet all columns once and returns (row sums, column sums).

    Args:
      meet: (rows, columns, row sums, column sums, whole) -> (row sums, column sums) after some of
        this device's rows have met some columns. The order in which columns come differs from
        device to device, so what it gathers must not depend on it.
      rows: arrays with the batch as first axis.
      columns: the same of the other side. Columns that only fill a chunk are all zeros (False).
      row_sums: what `meet` gathers for the rows, as it is before the first meeting.
      column_sums: the same for the columns. Those that fill a chunk start at zero as well.
      whole: arrays that each device has whole.
      mesh: the run's mesh, whose batch axes must divide the batch; None for one device.
      chunk: so many columns at a time, at most; above 0.
    """

    def part(whole: PyTree, cut: tuple[PyTree, PyTree, PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        rows, columns, row_sums, column_sums = cut
        local = jax.tree.leaves(columns)[0].shape[0]
        width = chunk_width(local, chunk)
        passing = jax.tree.map(lambda x: _in_chunks(x, width), (columns, column_sums))

        def visit(row_sums: PyTree, piece: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
            return meet(rows, piece[0], row_sums, piece[1], whole)

        def hop(carry: tuple[PyTree, PyTree], _: None) -> tuple[tuple[PyTree, PyTree], None]:
            row_sums, (columns, column_sums) = carry
            row_sums, column_sums = jax.lax.scan(visit, row_sums, (columns, column_sums))
            return (row_sums, pass_on((columns, column_sums), mesh)), None

        carry, _ = jax.lax.scan(hop, (row_sums, passing), None, length=row_shards(mesh))
        row_sums, (_, column_sums) = carry
        return row_sums, jax.tree.map(lambda x: _out_of_chunks(x, local), column_sums)

    cut = rows, columns, row_sums, column_sums
    return on_rows(part, mesh, 1, out=True)(whole, cut)


def pass_on(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Hands each device's arrays to the next in the ring; inside `on_rows` only."""
    if row_shards(mesh) == 1:
        return tree
    order = ring_order(mesh)
    steps = list(zip(order, (*order[1:], order[0])))
    return jax.tree.map(lambda x: jax.lax.ppermute(x, ROW_AXES, steps), tree)


def row_numbers(batch: int, mesh: Mesh | None) -> Int[Array, "batch"]:
    """0, 1, ... of the global batch, cut as its rows are; inside jit."""
    numbers = jnp.arange(batch, dtype=jnp.int32)
    if mesh is None:
        return numbers
    sharding = jax.sharding.NamedSharding(mesh, PartitionSpec(ROW_AXES))
    return jax.lax.with_sharding_constraint(numbers, sharding)


def chunk_width(local: int, chunk: int) -> int:
    """Columns at a time: at most `chunk`, such that little of the last one is only filled up."""
    chunks = max(-(-local // chunk), 1)
    return max(-(-local // chunks), 1)


def _in_chunks(x: Any, width: int) -> Any:
    filling = -x.shape[0] % width
    x = jnp.pad(x, ((0, filling), *((0, 0),) * (x.ndim - 1)))
    return x.reshape(-1, width, *x.shape[1:])  # [local, ...] -> [chunks, width, ...]


def _out_of_chunks(x: Any, local: int) -> Any:
    return x.reshape(-1, *x.shape[2:])[:local]  # [chunks, width, ...] -> [local, ...]
