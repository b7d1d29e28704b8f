"""Each row meets each column once, and nothing a device needs grows with their number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.ring import chunk_width, meet_all, row_numbers, row_shards
from mmjax.parallel.sharding import batch_sharding

MESHES = [None, (8, 1, 1), (4, 2, 1), (2, 2, 2)]


def record(rows, columns, row_sums, column_sums, whole):
    """Counts meetings and adds up who was met."""
    real = (columns["number"] > 0)[None] & (rows["number"] > 0)[:, None]
    met = jnp.where(real, whole, 0.0)
    return (
        {"times": row_sums["times"] + met.sum(1), "who": row_sums["who"] + met @ columns["number"]},
        {
            "times": column_sums["times"] + met.sum(0),
            "who": column_sums["who"] + rows["number"] @ met,
        },
    )


def meet(mesh, chunk, batch):
    mesh = None if mesh is None else make_mesh(*mesh)
    numbers = jnp.arange(1.0, batch + 1)
    sums = {name: jnp.zeros(batch) for name in ("times", "who")}
    run = functools.partial(meet_all, record, mesh=mesh, chunk=chunk)
    sides = {"number": numbers}, {"number": 10 * numbers}
    return jax.jit(run)(*sides, sums, sums, jnp.float32(1))


@pytest.mark.parametrize("mesh", MESHES)
def test_each_row_meets_each_column_once_and_all_come_home(mesh):
    by_row, by_column = meet(mesh, chunk=3, batch=40)  # local parts of 40, 5 and 10 by threes
    for sums, everybody in ((by_row, 10 * 820), (by_column, 820)):
        np.testing.assert_array_equal(sums["times"], 40)
        np.testing.assert_array_equal(sums["who"], everybody)


def test_columns_get_their_own_sums_back():
    def recognise(rows, columns, row_sums, column_sums, whole):
        return row_sums, column_sums + columns

    numbers = jnp.arange(40.0)
    mesh = make_mesh(4, 2)
    run = jax.jit(lambda x: meet_all(recognise, x, x, x, jnp.zeros(40), (), mesh, 2))
    # five local columns: each meets the rows of eight devices, once
    np.testing.assert_array_equal(run(numbers)[1], 8 * numbers)


def test_chunks_are_even_and_little_is_filled_up():
    assert [chunk_width(local, 256) for local in (1, 13, 256, 257, 1000, 4096)] == [
        1,
        13,
        256,
        129,
        250,
        256,
    ]


def test_rows_are_numbered_over_the_global_batch():
    mesh = make_mesh(2, 2, 2)
    numbers = jax.jit(lambda: row_numbers(12, mesh))()
    np.testing.assert_array_equal(numbers, np.arange(12))
    assert numbers.sharding.is_equivalent_to(batch_sharding(mesh), 1)
    assert (row_shards(mesh), row_shards(None)) == (4, 1)
