import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.layers.attention import Attention, attend


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reference(query, key, value, mask):
    """Equation 1, one head of one row at a time, in float64."""
    out = np.zeros(query.shape)
    for row in range(query.shape[0]):
        for head in range(query.shape[2]):
            q, k, v = (np.float64(x[row, :, head]) for x in (query, key, value))
            scores = q @ k.T / np.sqrt(q.shape[1])
            weights = np.exp(scores - scores.max()) * mask[row]
            out[row, :, head] = weights / weights.sum(axis=1, keepdims=True) @ v
    return out


@pytest.mark.parametrize("length", [5, 3])
def test_attention_is_equation_one(length):
    query, key, value = random(2, 4, 3, 8), random(2, length, 3, 8, seed=1), random(2, length, 3, 8)
    mask = np.random.default_rng(2).random((2, 4, length)) < 0.7
    mask[:, :, 0] = True
    out = attend(jnp.asarray(query), jnp.asarray(key), jnp.asarray(value), jnp.asarray(mask))
    np.testing.assert_allclose(out, reference(query, key, value, mask), atol=1e-5)


def test_a_mask_of_one_query_holds_for_all():
    query, key, value = (jnp.asarray(random(2, 4, 3, 8, seed=seed)) for seed in range(3))
    mask = jnp.asarray([[[True, True, False, False]], [[True, False, True, True]]])
    whole = attend(query, key, value, jnp.broadcast_to(mask, (2, 4, 4)))
    np.testing.assert_array_equal(attend(query, key, value, mask), whole)


def test_a_row_without_any_real_key_stays_finite():
    x = jnp.asarray(random(2, 4, 3, 8))
    mask = jnp.zeros((2, 1, 4), bool)

    def total(x):
        return attend(x, x, x, mask).sum()

    value, gradient = jax.value_and_grad(total)(x)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(attend(x, x, x, mask)[:, 0], x.mean(axis=1), atol=1e-6)


def test_the_softmax_is_float32_when_inputs_are_bfloat16():
    # The scores are 256 and 257, and bfloat16 has nothing between 256 and 258.
    query = jnp.full((1, 1, 1, 4), 8.0, jnp.bfloat16)
    key = jnp.asarray([16.0, 16.0, 16.0, 16.0, 16.0, 16.0, 16.0, 16.25]).reshape(1, 2, 1, 4)
    value = jnp.asarray([0.0, 1.0]).reshape(1, 2, 1, 1) * jnp.ones((1, 2, 1, 4))
    out = attend(query, key.astype(jnp.bfloat16), value.astype(jnp.bfloat16))
    expected = 1 / (1 + np.exp(-1.0))  # scores 256 and 257
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(out).mean(), expected, atol=0.005)


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
