"""Rows of a cut batch, by their numbers, from whichever device has them.

An ordinary index into an array that is cut by rows makes XLA bring all of it to each device. A ring
of the blocks would move as much. Here each device tells the others which of their rows it wants,
and gets those alone, in rounds of as many rows as fit into a small fixed buffer: shapes are fixed
when a program is compiled, and how many rows are wanted of one device is not known before. Where
the wishes are spread evenly one or two rounds are enough; were all wishes for one device, there
would be more rounds, never more memory.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from mmjax.parallel.ring import ROW_AXES, row_shards
from mmjax.typing import Array, Int, PyTree

# Of one device's wishes, so many times their even share per other device fit into one round.
ROOM = 2


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def take_rows(tree: PyTree, rows: Int[Array, "batch"], mesh: Mesh | None) -> PyTree:
    """`tree[rows]` for arrays that are cut by rows; the result is cut the same.

    Gradients go back to the rows they came from, those of a row that was taken several times
    added up.

    Args:
      tree: arrays with the global batch as first axis.
      rows: number of a row for each row of the result; a number below 0 gives zeros.
      mesh: the run's mesh, whose batch axes divide the batch; None for one device.
    """
    return _move(tree, rows, mesh, back=False)


def _keep(tree: PyTree, rows: Any, mesh: Mesh | None) -> tuple[PyTree, PyTree]:
    return take_rows(tree, rows, mesh), rows


def _backward(mesh: Mesh | None, rows: Any, slopes: PyTree) -> tuple[PyTree, None]:
    leaves, structure = jax.tree.flatten(slopes)
    real = [x for x in leaves if x.dtype != jax.dtypes.float0]  # of integers there is none
    moved = iter(_move(real, rows, mesh, back=True))
    leaves = [x if x.dtype == jax.dtypes.float0 else next(moved) for x in leaves]
    return jax.tree.unflatten(structure, leaves), None


take_rows.defvjp(_keep, _backward)


def _move(tree: PyTree, rows: Any, mesh: Mesh | None, back: bool) -> PyTree:
    """The wanted rows of the tree, or, back, the sum of what was made of each row."""
    shards = row_shards(mesh)
    if shards == 1:
        return jax.tree.map(lambda x: _alone(x, rows, back), tree)
    part = functools.partial(_part, shards=shards, back=back)
    cut = PartitionSpec(ROW_AXES)
    return jax.shard_map(part, mesh=mesh, in_specs=(cut, cut), out_specs=cut, check_vma=False)(
        tree, rows
    )


def _alone(x: Any, rows: Any, back: bool) -> Any:
    there = _like(rows >= 0, x)
    if back:
        return jnp.zeros_like(x).at[jnp.maximum(rows, 0)].add(jnp.where(there, x, 0))
    return jnp.where(there, x[jnp.maximum(rows, 0)], jnp.zeros_like(x))


def _part(tree: PyTree, rows: Any, shards: int, back: bool) -> PyTree:
    local = rows.shape[0]
    room = -(-ROOM * local // shards)
    owner = jnp.where(rows >= 0, rows // local, shards)
    turn = _turns(owner)
    most = jnp.max(jnp.where(owner < shards, turn, -1)) + 1
    rounds = -(-jax.lax.pmax(most, ROW_AXES) // room)

    def exchange(x: Any) -> Any:
        return jax.lax.all_to_all(x, ROW_AXES, 0, 0)

    def one_round(number: Any, result: PyTree) -> PyTree:
        slot = turn - number * room
        now = (owner < shards) & (slot >= 0) & (slot < room)
        place = jnp.where(now, owner, shards), jnp.clip(slot, 0, room - 1)  # dropped where not now
        wishes = jnp.full((shards, room), -1, jnp.int32).at[place].set(rows % local, mode="drop")
        wishes = exchange(wishes)  # [asking device, slot] -> row of mine, -1 for none
        if back:

            def add(sums: Any, x: Any) -> Any:
                sent = (
                    jnp.zeros((shards, room, *x.shape[1:]), x.dtype).at[place].set(x, mode="drop")
                )
                asked = jnp.where(wishes >= 0, wishes, local)
                return sums.at[asked].add(exchange(sent), mode="drop")

            return jax.tree.map(add, result, tree)

        def fill(made: Any, x: Any) -> Any:
            got = exchange(x[jnp.maximum(wishes, 0)])  # [owner, slot, ...]
            return jnp.where(_like(now, x), got[jnp.minimum(place[0], shards - 1), place[1]], made)

        return jax.tree.map(fill, result, tree)

    return jax.lax.fori_loop(0, rounds, one_round, jax.tree.map(jnp.zeros_like, tree))


def _turns(owner: Any) -> Any:
    """For each wish, how many wishes before it have the same owner; a TPU sorts less gladly."""
    place = jnp.arange(owner.shape[0])
    before = (owner[:, None] == owner[None]) & (place[:, None] > place[None])
    return jnp.sum(before, axis=1, dtype=jnp.int32)


def _like(mask: Any, x: Any) -> Any:
    return mask.reshape(-1, *(1,) * (x.ndim - 1))
