"""`BatchNorm`: what PyTorch computes, over the global batch, or by what it has kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.layers.batch_norm import FIXED, BatchNorm
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import batch_sharding

X = jnp.asarray(np.random.default_rng(0).normal(3.0, 2.0, (16, 5, 3, 4)), jnp.float32)


def variables(norm=None, x=X):
    """Random parameters and statistics of a layer."""
    rng = np.random.default_rng(1)
    made = (norm or BatchNorm()).init(jax.random.key(0), x)
    return jax.tree.map(lambda a: jnp.asarray(rng.uniform(0.5, 1.5, a.shape), a.dtype), made)


def train(norm, given, x=X):
    return norm.apply(given, x, train=True, mutable=["batch_stats"])


def test_it_begins_as_a_plain_normalisation_and_init_counts_no_batch():
    made = BatchNorm().init(jax.random.key(0), X, train=True)
    np.testing.assert_array_equal(made["batch_stats"]["mean"], np.zeros(4))
    np.testing.assert_array_equal(made["batch_stats"]["var"], np.ones(4))
    y, _ = train(BatchNorm(), made)
    np.testing.assert_allclose(y.mean((0, 1, 2)), np.zeros(4), atol=1e-6)
    np.testing.assert_allclose(y.std((0, 1, 2)), np.ones(4), atol=1e-5)


def test_the_batch_divides_by_the_biased_variance_and_keeps_the_unbiased_one():
    given = variables()
    y, after = train(BatchNorm(), given)
    x, params = np.float64(X), given["params"]
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    wanted = (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, wanted, atol=1e-5)
    old, new = given["batch_stats"], after["batch_stats"]
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-6)
    unbiased = x.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * unbiased, rtol=1e-6)


def test_evaluation_uses_the_running_statistics():
    given = variables()
    kept, params = given["batch_stats"], given["params"]
    factor = params["scale"] / np.sqrt(kept["var"] + 1e-5)
    wanted = (X - kept["mean"]) * factor + params["bias"]
    np.testing.assert_allclose(BatchNorm().apply(given, X), wanted, rtol=1e-5, atol=1e-5)


def test_fixed_statistics_are_used_in_training_and_stay():
    given = variables()
    y, after = train(BatchNorm(), {**given, FIXED: given["batch_stats"]})
    np.testing.assert_allclose(y, BatchNorm().apply(given, X), rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, after["batch_stats"], given["batch_stats"])


@pytest.mark.parametrize("shape", [(16, 4), (16, 5, 4)])
def test_it_takes_vectors_and_sequences_and_may_have_no_parameters(shape):
    x, norm = X.reshape(-1, 4)[: np.prod(shape[:-1])].reshape(shape), BatchNorm(affine=False)
    made = norm.init(jax.random.key(0), x)
    assert set(made) == {"batch_stats"}
    y, _ = train(norm, made, x)
    np.testing.assert_allclose(y.reshape(-1, 4).std(0), np.ones(4), atol=1e-4)


def test_statistics_are_float32_whatever_is_computed_in():
    norm = BatchNorm(dtype="bfloat16")
    given = variables(norm)
    x = X.astype(jnp.bfloat16)
    y, after = train(norm, given, x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((given, after))} == {jnp.dtype("float32")}
    _, wide = train(BatchNorm(), given, x.astype(jnp.float32))
    jax.tree.map(np.testing.assert_array_equal, after, wide)


def test_a_mean_that_is_large_beside_the_spread_costs_no_digits():
    y, _ = train(BatchNorm(), BatchNorm().init(jax.random.key(0), X), X + 1000)
    wanted, _ = train(BatchNorm(), BatchNorm().init(jax.random.key(0), X))
    np.testing.assert_allclose(y, wanted, atol=5e-4)  # 1000 itself is known to 6e-5


def test_eight_devices_normalise_by_the_global_batch():
    given, norm = variables(), BatchNorm()
    one = jax.jit(lambda x: train(norm, given, x))(X)
    mesh = make_mesh()
    assert mesh.size == 8
    many = jax.jit(lambda x: train(norm, given, x))(jax.device_put(X, batch_sharding(mesh)))
    assert len(many[0].sharding.device_set) == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, many)
