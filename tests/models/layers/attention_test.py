import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.layers import attend
from mmjax.models.layers.attention import Attention


def test_queries_and_keys_may_differ_in_length_and_width():
    layer = Attention(num_heads=2)
    queries, keys = jnp.ones((3, 1, 8)), jnp.ones((3, 5, 6))
    out, variables = layer.init_with_output(jax.random.key(0), queries, keys)
    assert out.shape == (3, 1, 8)
    assert variables["params"]["key"]["kernel"].shape == (6, 8)


def test_heads_that_do_not_divide_the_width_are_refused():
    x = jnp.ones((1, 2, 8))
    with pytest.raises(ValueError, match="num_heads=3 does not divide dim=8"):
        Attention(num_heads=3).init(jax.random.key(0), x, x)


def test_an_implementation_that_cannot_run_here_is_refused_when_the_model_is_made():
    x = jnp.ones((1, 2, 8))
    with pytest.raises(ValueError, match="attention='splash': splash runs on TPUs"):
        Attention(num_heads=2, implementation="splash").init(jax.random.key(0), x, x)


def test_initial_values_need_no_kernel_of_the_platform(monkeypatch):
    monkeypatch.setattr(attend, "platform", lambda: "tpu")
    layer, x = Attention(num_heads=2, implementation="splash"), jnp.ones((1, 2, 8))
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x, x)
    assert shapes == jax.eval_shape(Attention(num_heads=2).init, jax.random.key(0), x, x)


def test_recomputing_the_inside_changes_no_gradient_and_makes_the_scores_again():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 8)), jnp.float32)
    layers = [
        Attention(num_heads=2, causal=True, recompute=recompute)
        for recompute in (None, functools.partial(jax.checkpoint, prevent_cse=False))
    ]
    params = jax.jit(layers[0].init)(jax.random.key(0), x, x)
    grads, products = [], []
    for layer in layers:
        grad = jax.jit(jax.grad(lambda p, layer=layer: jnp.sum(layer.apply(p, x, x) ** 3)))
        grads.append(grad(params))
        products.append(str(jax.make_jaxpr(grad)(params)).count("dot_general"))
    assert products[0] < products[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *grads)
