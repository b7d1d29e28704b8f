"""The product of dense layers: the same numbers in either layout, each on its platform."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.models.layers import dense
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations


def arrays():
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.normal(size=(3, 5, 8)), jnp.float32),
        jnp.asarray(rng.normal(size=(8, 4)), jnp.float32),
    )


def products(x, kernel):
    """Shapes of the operands of all matrix products in the program of value and gradient."""

    def loss(x, kernel):
        return jnp.sum(dense.product(x, kernel) ** 2)

    traced = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(x, kernel)
    return [
        tuple(variable.aval.ndim for variable in equation.invars)
        for equation in traced.jaxpr.eqns
        if equation.primitive.name == "dot_general"
    ]


def test_value_and_gradient_are_those_of_the_plain_product():
    x, kernel = arrays()

    def ours(x, kernel):
        return jnp.sum(jnp.sin(dense.product(x, kernel)))

    def plain(x, kernel):
        return jnp.sum(jnp.sin(jnp.einsum("bnd,df->bnf", x, kernel)))

    found = jax.value_and_grad(ours, argnums=(0, 1))(x, kernel)
    wanted = jax.value_and_grad(plain, argnums=(0, 1))(x, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, wanted)


def test_rows_are_flattened_on_a_cpu_and_stay_on_other_devices(monkeypatch):
    x, kernel = arrays()
    monkeypatch.setattr(dense, "platform", lambda: "cpu")
    assert set(products(x, kernel)) == {(2, 2)}
    monkeypatch.setattr(dense, "platform", lambda: "tpu")
    assert (3, 3) in products(x, kernel)  # the kernel's gradient sums over two axes


@pytest.mark.parametrize("shape", [(8,), (5, 8), (2, 3, 5, 8)])
def test_any_number_of_axes_may_stand_before_the_last(shape):
    x = jnp.ones(shape, jnp.float32)
    layer = dense.Dense(4)
    params = layer.init(jax.random.key(0), x)
    wanted = nn.Dense(4).apply(params, x)
    np.testing.assert_allclose(layer.apply(params, x), wanted, rtol=1e-6)


@pytest.mark.parametrize(
    "spec", [("fsdp", "tensor"), ("tensor", "fsdp"), (("fsdp", "tensor"), None)]
)
@pytest.mark.parametrize("shape", [(8, 5, 8), (8, 8)])
def test_a_kernel_in_parts_gives_the_same_and_its_gradient_comes_in_parts(spec, shape):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(8, 4)), jnp.float32)
    mesh, spec = make_mesh(2, 2, 2), PartitionSpec(*spec)
    place = NamedSharding(mesh, spec)

    def loss(x, kernel, path=""):
        return jnp.sum(jnp.sin(dense.product(x, kernel, path)))

    wanted = jax.value_and_grad(loss, argnums=(0, 1))(x, kernel)
    with activations(mesh, params={"up/kernel": spec}):
        step = jax.jit(
            jax.value_and_grad(lambda x, kernel: loss(x, kernel, "up/kernel"), argnums=(0, 1)),
            in_shardings=(NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), place),
        )
        found = step(x, kernel)
        text = step.lower(x, kernel).compile().as_text()
    assert found[1][1].sharding.is_equivalent_to(place, 2)
    assert " reduce-scatter(" in text
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, wanted)


@pytest.mark.parametrize("spec", [("tensor", "fsdp"), (None, "fsdp"), (None, None)])
def test_scores_of_a_table_in_parts_are_the_plain_products(spec):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(8, 5, 4)), jnp.float32)
    table = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    mesh, spec = make_mesh(2, 2, 2), PartitionSpec(*spec)
    place = NamedSharding(mesh, spec)

    def loss(scores):
        return lambda *arrays: jnp.sum(jnp.sin(scores(*arrays)))

    plain = loss(lambda x, table: jnp.einsum("bnd,wd->bnw", x, table))
    wanted = jax.value_and_grad(plain, (0, 1))(x, table)
    with activations(mesh, params={"text/token_embedding": spec}):
        step = jax.jit(
            jax.value_and_grad(
                loss(lambda x, table: dense.scores(x, table, "text/token_embedding")), (0, 1)
            ),
            in_shardings=(NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), place),
        )
        found = step(x, table)
        text = step.lower(x, table).compile().as_text()
    if "fsdp" in spec:
        assert found[1][1].sharding.is_equivalent_to(place, 2)
        assert " reduce-scatter(" in text
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, wanted)


def test_scores_of_bfloat16_are_float32_and_have_gradients():
    x, table = jnp.ones((2, 3, 4), jnp.bfloat16), jnp.ones((6, 4), jnp.float32)
    value, gradients = jax.value_and_grad(lambda *a: dense.scores(*a).sum(), (0, 1))(x, table)
    assert value.dtype == jnp.float32
    assert [x.dtype for x in gradients] == [jnp.bfloat16, jnp.float32]


def test_a_layer_is_flax_s_with_the_same_first_values():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 8)), jnp.float32)
    for how in ({}, {"use_bias": False}, {"dtype": jnp.bfloat16}):
        ours, theirs = dense.Dense(4, name="up", **how), nn.Dense(4, name="up", **how)
        params = ours.init(jax.random.key(0), x)
        jax.tree.map(np.testing.assert_array_equal, params, theirs.init(jax.random.key(0), x))
        params = jax.tree.map(lambda leaf: leaf + 0.1, params)
        found, wanted = ours.apply(params, x), theirs.apply(params, x)
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


def test_a_bias_gradient_of_bfloat16_is_summed_in_float32():
    # 0.01 is lost beside 4: in bfloat16 the sum would stay there.
    x, bias = jnp.zeros((1000, 3, 2), jnp.bfloat16), jnp.zeros((2,), jnp.float32)
    _, back = jax.vjp(dense.plus, x, bias)
    by_x, by_bias = back(jnp.full(x.shape, 0.01, jnp.bfloat16))
    assert (by_x.dtype, by_bias.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(by_bias, 3000 * float(jnp.bfloat16(0.01)), rtol=1e-5)
    traced = jax.make_jaxpr(lambda x, b: jax.vjp(dense.plus, x, b)[1](x))(x, bias)
    sums = [e for e in traced.jaxpr.eqns if e.primitive.name == "reduce_sum"]
    assert sums
    assert all(e.invars[0].aval.dtype == jnp.float32 for e in sums)


def test_a_table_is_added_to_each_row_as_plain_addition_does_forwards_and_backwards():
    rng = np.random.default_rng(0)
    x, table = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((4, 5, 3), (5, 3)))

    def loss(add):
        return lambda x, table: jnp.sum(jnp.sin(add(x, table)))

    wanted = jax.value_and_grad(loss(jnp.add), (0, 1))(x, table)
    found = jax.value_and_grad(loss(dense.plus), (0, 1))(x, table)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, wanted)
    slopes = (jnp.ones_like(x), table)
    found, wanted = (jax.jvp(loss(add), (x, table), slopes) for add in (dense.plus, jnp.add))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_kernel_knows_its_path():
    class Tower(nn.Module):
        @nn.compact
        def __call__(self, x):
            return dense.Dense(4, name="up")(x)

    class Model(nn.Module):
        def setup(self):
            self.image = Tower()

        def __call__(self, x):
            return self.image(x)

    mesh, spec = make_mesh(1, 8, 1), PartitionSpec("fsdp", None)
    x = jnp.ones((8, 8))
    params = Model().init(jax.random.key(0), x)
    with activations(mesh, params={"image/up/kernel": spec}):
        text = jax.jit(jax.grad(lambda p: Model().apply(p, x).sum())).lower(params).as_text()
    assert "reduce_scatter" in text
