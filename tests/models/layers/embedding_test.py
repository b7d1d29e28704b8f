"""Looking up in a table in parts gives what the whole table gives, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.models.layers.embedding import look_up
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations

TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(24, 16)), jnp.float32)
NUMBERS = jnp.asarray(np.random.default_rng(1).integers(0, 24, (8, 5)), jnp.int32)
TARGET = np.random.default_rng(2).normal(size=(8, 5, 16)).astype(np.float32)


def loss(table, numbers):
    return jnp.sum(look_up(table, numbers, "table") * TARGET)


@pytest.mark.parametrize(
    ("sizes", "spec"),
    [
        ((1, 8, 1), (None, "fsdp")),
        ((2, 2, 2), ("tensor", "fsdp")),
        ((2, 1, 4), ("tensor", None)),
        ((4, 2, 1), (("fsdp",), None)),
    ],
)
def test_a_table_in_parts_is_as_good_as_a_whole_one(sizes, spec):
    mesh, spec = make_mesh(*sizes), PartitionSpec(*spec)
    table = jax.device_put(TABLE, NamedSharding(mesh, spec))
    with activations(mesh, params={"table": spec}):
        found = jax.jit(lambda t, n: look_up(t, n, "table"))(table, NUMBERS)
        gradient = jax.jit(jax.grad(loss))(table, NUMBERS)
    np.testing.assert_array_equal(found, TABLE[NUMBERS])
    np.testing.assert_allclose(gradient, jax.grad(loss)(TABLE, NUMBERS), rtol=1e-6, atol=1e-6)


def test_a_number_outside_of_the_table_is_not_a_number_either_way():
    numbers = NUMBERS.at[3, 2].set(24)
    mesh, spec = make_mesh(2, 2, 2), PartitionSpec("tensor", "fsdp")
    with activations(mesh, params={"table": spec}):
        parts = jax.jit(lambda t, n: look_up(t, n, "table"))(TABLE, numbers)
    for found in (parts, look_up(TABLE, numbers)):
        bad = np.isnan(found).all(-1)
        assert bad[3, 2]
        assert bad.sum() == np.isnan(found).any(-1).sum() == 1
