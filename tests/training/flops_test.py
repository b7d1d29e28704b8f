import functools

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.sharding import AxisType, PartitionSpec

from mmjax.objectives.contrastive import Contrastive
from mmjax.objectives.metric import Margin
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations
from mmjax.training.flops import count_flops, peak_flops, step_flops, utilisation


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_a_matrix_product_is_twice_its_three_sizes():
    assert step_flops(jnp.dot, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7
    batched = functools.partial(jnp.einsum, "bik,bkj->bij")
    assert step_flops(batched, shape(4, 3, 5), shape(4, 5, 7)) == 4 * 2 * 3 * 5 * 7


def test_elementwise_work_does_not_count():
    assert step_flops(lambda x: jnp.tanh(x).sum(), shape(100, 100)) == 0


def test_a_scanned_stack_counts_each_layer_and_equals_the_loop_written_out():
    def scanned(weights, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0].sum()

    def written_out(weights, x):
        for layer in range(6):
            x = jnp.tanh(x @ weights[layer])
        return x.sum()

    sizes = shape(6, 8, 8), shape(4, 8)
    assert step_flops(scanned, *sizes) == 6 * 2 * 4 * 8 * 8
    # backward: twice the forward
    assert step_flops(jax.grad(scanned, argnums=(0, 1)), *sizes) == 3 * 6 * 2 * 4 * 8 * 8
    assert step_flops(jax.grad(written_out, argnums=(0, 1)), *sizes) == 3 * 6 * 2 * 4 * 8 * 8


def test_jit_remat_and_custom_derivatives_are_looked_into():
    @jax.custom_vjp
    def own(x, w):
        return x @ w

    own.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))

    @jax.custom_jvp
    def relu(x):
        return jnp.maximum(x @ x, 0)

    relu.defjvp(lambda primals, tangents: (relu(primals[0]), tangents[0]))
    one = 2 * 8 * 8 * 8
    matrix = shape(8, 8)
    assert step_flops(jax.jit(own), matrix, matrix) == one
    assert step_flops(jax.jit(jax.checkpoint(own)), matrix, matrix) == one
    assert step_flops(jax.grad(lambda x, w: own(x, w).sum(), (0, 1)), matrix, matrix) == 3 * one
    assert step_flops(relu, matrix) == one


def test_of_a_condition_the_dearest_branch_counts():
    def choose(x):
        return jax.lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, lambda y: y @ y, x)

    assert step_flops(choose, shape(8, 8)) == 2 * 2 * 8 * 8 * 8


def test_convolutions_count_their_windows_and_the_gradients_cost_the_same():
    def patches(image, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            image, kernel, (4, 4), "VALID", dimension_numbers=numbers
        )

    sizes = shape(2, 16, 16, 3), shape(4, 4, 3, 10)
    once = 2 * (2 * 4 * 4 * 10) * (4 * 4 * 3)
    assert step_flops(patches, *sizes) == once
    both = jax.grad(lambda image, kernel: jnp.tanh(patches(image, kernel)).sum(), argnums=(0, 1))
    assert step_flops(both, *sizes) == 3 * once


def test_grouped_convolutions_count_their_own_channels_only():
    depthwise = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=6,
    )
    found = step_flops(depthwise, shape(2, 8, 8, 6), shape(3, 3, 1, 6))
    assert found == 2 * (2 * 8 * 8 * 6) * 9


def test_work_cut_over_devices_counts_over_all_of_them():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    cut = jax.shard_map(
        jnp.dot,
        mesh=mesh,
        in_specs=(PartitionSpec("data"), PartitionSpec()),
        out_specs=PartitionSpec("data"),
    )
    assert step_flops(cut, shape(16, 5), shape(5, 7)) == 2 * 16 * 5 * 7


@pytest.mark.parametrize(
    ("objective", "forward", "gradient"), [(Contrastive, 3, 8), (Sigmoid, 3, 5), (Margin, 1, 4)]
)
def test_a_ring_counts_all_its_hops_and_chunks_on_all_devices(objective, forward, gradient):
    # In products of all pairs. Similarities in double-float take three; the backward ring of the
    # softmax makes them again, that of the sigmoid is none; each gradient takes two more.
    batch, dim = 4096, 24  # local parts of 512 in two chunks
    words = {name: shape(batch, dim) for name in ("image", "text")}
    scalars = {name: shape() for name in ("log_scale", "bias")}
    who = {
        "valid": jax.ShapeDtypeStruct((batch,), bool),
        "sample_id": jax.ShapeDtypeStruct((batch, 2), jnp.int32),
    }
    once = 2 * batch * batch * dim

    def loss(comparison, words, scalars, who):
        with activations(make_mesh()):
            ready = objective(comparison=comparison)
            return ready.compare({**words, **who}, scalars, ()).total

    for comparison, plain, both in (("ring", forward, gradient), ("gather", 1, 3)):
        function = functools.partial(loss, comparison)
        assert step_flops(function, words, scalars, who) == plain * once
        assert step_flops(jax.grad(function), words, scalars, who) == both * once


def test_a_pallas_kernel_counts_each_cell_of_its_grid():
    def kernel(x, y, out):
        out[...] = x[...] @ y[...]

    product = pl.pallas_call(
        kernel,
        grid=(4,),
        in_specs=[pl.BlockSpec((8, 16), lambda i: (i, 0)), pl.BlockSpec((16, 8), lambda i: (0, 0))],
        out_specs=pl.BlockSpec((8, 8), lambda i: (i, 0)),
        out_shape=shape(32, 8),
    )
    assert step_flops(product, shape(32, 16), shape(16, 8)) == 2 * 32 * 16 * 8


def test_a_traced_function_can_be_counted_open_or_closed():
    closed = jax.make_jaxpr(jnp.dot)(shape(3, 5), shape(5, 7))
    assert count_flops(closed) == count_flops(closed.jaxpr) == 2 * 3 * 5 * 7


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("cpu", None),
        ("TPU v99", None),
    ],
)
def test_the_peak_is_known_or_none(kind, peak):
    assert peak_flops(kind) == peak


def test_utilisation_is_the_share_of_all_devices_peak():
    assert utilisation(197e12, 0.5, "TPU v5 lite", 4) == pytest.approx(0.5)
    assert utilisation(1e12, 0.5, "cpu", 1) is None
