import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.layers.mlp import ACTIVATIONS, Mlp, activation

POINTS = np.linspace(-6, 6, 49, dtype=np.float32)

REFERENCES = {
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "relu": lambda x: max(x, 0.0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_its_formula(name):
    expected = [REFERENCES[name](float(x)) for x in POINTS]
    np.testing.assert_allclose(activation(name)(jnp.asarray(POINTS)), expected, atol=2e-6)


@pytest.mark.optimised
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_s_slope_is_that_of_its_formula(name):
    points = [float(x) + 0.03 for x in POINTS]  # the kink of one of them is at 0
    formula, step = REFERENCES[name], 1e-4
    expected = [(formula(x + step) - formula(x - step)) / (2 * step) for x in points]
    slopes = jax.vmap(jax.grad(activation(name)))(jnp.asarray(points, jnp.float32))
    np.testing.assert_allclose(slopes, expected, atol=2e-6)
    _, forward = jax.jvp(activation(name), (jnp.asarray(points),), (jnp.ones(len(points)),))
    np.testing.assert_allclose(forward, expected, atol=2e-6)


def test_the_exact_gelu_keeps_bfloat16_s_precision_below_zero():
    points = jnp.asarray(POINTS[(POINTS > -4) & (POINTS != 0)], jnp.bfloat16)
    expected = [REFERENCES["gelu"](float(x)) for x in points]
    made = jax.jit(activation("gelu"))(points)
    assert made.dtype == jnp.bfloat16
    np.testing.assert_allclose(made.astype(jnp.float32), expected, rtol=2**-8)


def test_the_exact_gelu_stores_one_array_for_its_slope():
    x = jnp.ones((8, 16), jnp.bfloat16)
    stored = jax.tree.leaves(jax.vjp(activation("gelu"), x)[1])
    assert [(leaf.shape, leaf.dtype) for leaf in stored] == [(x.shape, x.dtype)]


def test_an_unknown_activation_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'swish' is none of gelu, gelu_tanh, quick_gelu, relu"):
        activation("swish")


def test_the_perceptron_widens_and_narrows():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
    out, variables = Mlp(mlp_dim=10, activation="relu").init_with_output(jax.random.key(0), x)
    up, down = variables["params"]["up"], variables["params"]["down"]
    assert up["kernel"].shape == (4, 10)
    expected = np.maximum(x @ up["kernel"] + up["bias"], 0) @ down["kernel"] + down["bias"]
    np.testing.assert_allclose(out, expected, atol=1e-6)
