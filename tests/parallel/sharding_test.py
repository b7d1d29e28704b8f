"""Constraints on activations, on eight simulated devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mmjax.parallel import sharding
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations, constrain, on_each_device, used_and_stored


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


def test_an_axis_that_does_not_divide_what_a_layer_has_is_refused_with_those_that_do():
    with (
        activations(make_mesh(2, 1, 4)),
        pytest.raises(
            ValueError, match=r"tensor = 4 does not divide the model's 6 'heads'.*1, 2, 3, 6"
        ),
    ):
        constrain(jnp.zeros((8, 5, 6, 2)), "batch", None, "heads", None)


def test_a_single_row_passes_on_any_mesh():
    with activations(make_mesh()):
        assert jax.jit(lambda x: constrain(x, "batch", None))(jnp.zeros((1, 4))).shape == (1, 4)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (8, 1, 1), (2, 2, 2)])
def test_on_a_gpu_rows_lie_in_order_forwards_and_backwards_and_nothing_is_gathered(
    sizes, monkeypatch
):
    monkeypatch.setattr(sharding, "platform", lambda: "gpu")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 5, 4)), jnp.float32)
    mesh = make_mesh(*sizes, devices=jax.devices()[: np.prod(sizes)])

    def loss(x):
        return jnp.sum(jnp.sin(constrain(jnp.cos(x), "batch", None, "mlp")))

    with activations(mesh):
        step = jax.jit(jax.value_and_grad(loss), in_shardings=sharding.batch_sharding(mesh))
        lowered = step.lower(x)
    assert lowered.as_text().count("@LayoutConstraint") == 2
    text = lowered.compile().as_text()
    assert "all-gather" not in text or sizes == (2, 2, 2)  # there x is cut by 'tensor' too
    wanted = jax.value_and_grad(lambda x: jnp.sum(jnp.sin(jnp.cos(x))))(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), step(x), wanted)


def test_a_single_row_passes_on_a_mesh_of_gpus(monkeypatch):
    monkeypatch.setattr(sharding, "platform", lambda: "gpu")
    with activations(make_mesh()):
        made = jax.jit(lambda x: constrain(x, "batch", None, None))(jnp.zeros((1, 2, 4)))
    assert made.shape == (1, 2, 4)


def test_a_parameter_is_gathered_along_fsdp_alone():
    stored = {
        "up/kernel": PartitionSpec(None, "fsdp", "tensor"),
        "both/kernel": PartitionSpec(("fsdp", "tensor"), None),
        "wide/kernel": PartitionSpec(None, None, "tensor"),
        "whole/kernel": PartitionSpec(),
    }
    assert used_and_stored("up/kernel", 2) is None
    with activations(make_mesh(2, 2, 2), params=stored):
        used, kept = used_and_stored("up/kernel", 2)
        assert (used.spec, kept.spec) == (
            PartitionSpec(None, "tensor"),
            PartitionSpec("fsdp", "tensor"),
        )
        used, kept = used_and_stored("both/kernel", 2)
        assert used.spec == PartitionSpec(("tensor",), None)
        assert used_and_stored("wide/kernel", 2) is None
        assert used_and_stored("whole/kernel", 2) is None
        assert used_and_stored("unknown/kernel", 2) is None


def test_a_function_for_each_device_sees_its_own_rows_alone():
    mesh = make_mesh(data=4, fsdp=2)
    x = jnp.arange(16.0).reshape(16, 1)

    def total(x):
        return jnp.full_like(x, x.sum())  # of the rows that it sees

    with activations(mesh):
        found = jax.jit(on_each_device(total, ("batch", None)))(x)
    np.testing.assert_array_equal(found[:, 0], np.repeat(np.arange(16).reshape(8, 2).sum(1), 2))
    np.testing.assert_array_equal(on_each_device(total, ("batch", None))(x), jnp.full((16, 1), 120))
