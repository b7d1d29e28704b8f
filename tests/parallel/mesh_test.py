"""Meshes, rules and constraints on eight simulated devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mmjax.parallel.mesh import AXES, check_batch, make_mesh
from mmjax.parallel.sharding import activations, constrain, on_each_device, shardings


def test_data_takes_the_devices_left_over():
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(fsdp=2, tensor=2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert make_mesh().axis_names == AXES


@pytest.mark.parametrize("sizes", [(3, 1, 1), (8, 2, 1), (-1, 3, 1)])
def test_a_mesh_that_does_not_fit_names_sizes_that_do(sizes):
    with pytest.raises(ValueError, match=r"does not fit 8 devices.*8x1x1, 4x2x1"):
        make_mesh(*sizes)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (8, 0, 1), (8, 1, -1), (-2, 1, 1)])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match="1 or more"):
        make_mesh(*sizes)


def test_an_indivisible_batch_names_its_neighbours():
    with pytest.raises(ValueError, match=r"batch_size=100 is no multiple of 8.*Take 96 or 104"):
        check_batch(100, make_mesh(), processes=1)
    with pytest.raises(ValueError, match="Take 24"):
        check_batch(3, make_mesh(), processes=3)
    check_batch(104, make_mesh(), processes=2)


def test_rules_are_for_trailing_dimensions():
    tree = {
        "blocks": {"kernel": jnp.zeros((3, 8, 6))},
        "kernel": jnp.zeros((8, 6)),
        "b": jnp.zeros(3),
    }
    placed = shardings(tree, make_mesh(4, 2), [(".*kernel", ("data", "fsdp")), (".*", ())])
    assert placed["kernel"].spec == PartitionSpec("data", "fsdp")
    assert placed["blocks"]["kernel"].spec == PartitionSpec(None, "data", "fsdp")
    assert placed["b"].is_fully_replicated


def test_a_rule_that_does_not_fit_its_array_is_named():
    mesh = make_mesh(4, 2)
    with pytest.raises(ValueError, match="data=4 does not divide 6"):
        shardings({"kernel": jnp.zeros((6, 8))}, mesh, [(".*", ("data", None))])
    with pytest.raises(ValueError, match="has 2 dimensions"):
        shardings({"bias": jnp.zeros(8)}, mesh, [(".*", ("data", None))])
    with pytest.raises(ValueError, match="none matches 'bias'"):
        shardings({"bias": jnp.zeros(8)}, mesh, [("kernel", ())])


def test_constrain_is_a_no_op_without_a_mesh_and_lays_out_with_one():
    x = jnp.zeros((16, 4))
    assert constrain(x, "batch", None) is x
    with activations(make_mesh()):
        placed = jax.jit(lambda y: constrain(y * 2, "batch", "mlp"))(x)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 4)}
    assert constrain(x, "batch", None) is x


def test_constrain_needs_a_word_a_dimension():
    with activations(make_mesh()), pytest.raises(ValueError, match="2 dimensions"):
        constrain(jnp.zeros((16, 4)), "batch")


def test_the_values_stay_the_same():
    x = np.arange(32.0).reshape(16, 2)
    with activations(make_mesh()):
        np.testing.assert_array_equal(jax.jit(lambda y: constrain(y, None, None))(x), x)


def test_a_function_for_each_device_sees_its_own_rows_alone():
    mesh = make_mesh(data=4, fsdp=2)
    x = jnp.arange(16.0).reshape(16, 1)

    def total(x):
        return jnp.full_like(x, x.sum())  # of the rows that it sees

    with activations(mesh):
        found = jax.jit(on_each_device(total, ("batch", None)))(x)
    np.testing.assert_array_equal(found[:, 0], np.repeat(np.arange(16).reshape(8, 2).sum(1), 2))
    np.testing.assert_array_equal(on_each_device(total, ("batch", None))(x), jnp.full((16, 1), 120))
