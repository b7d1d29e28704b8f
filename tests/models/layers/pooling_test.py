import jax
import jax.numpy as jnp
import numpy as np

from mmjax.models.layers.pooling import AttentionPooling, at, end_of_text, mean


def tokens(batch=3, length=5, dim=8):
    values = np.random.default_rng(0).normal(size=(batch, length, dim))
    return jnp.asarray(values, jnp.float32)


def test_the_mean_is_over_real_tokens():
    x = tokens()
    mask = jnp.arange(5)[None] < jnp.asarray([5, 2, 0])[:, None]
    out = mean(x, mask)
    np.testing.assert_allclose(out[0], x[0].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(out[1], x[1, :2].mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(out[2], np.zeros(8))
    np.testing.assert_allclose(mean(x), x.mean(axis=1), atol=1e-6)


def test_each_row_has_its_own_position():
    x = tokens()
    own = at(x, jnp.asarray([4, 0, 2]))
    np.testing.assert_array_equal(own, jnp.stack([x[0, 4], x[1, 0], x[2, 2]])[:, None])
    for place in (0, 3, -1, -2):
        np.testing.assert_array_equal(at(x, place)[:, 0], x[:, place])
    assert at(x, None) is x


def test_the_end_of_a_text_is_its_first_end_token():
    ids = jnp.asarray([[1, 9, 2, 9], [9, 9, 9, 9], [1, 2, 3, 9], [1, 2, 3, 4]])
    np.testing.assert_array_equal(end_of_text(ids, 9), [1, 0, 3, 0])


def test_attention_pooling_does_not_see_what_is_masked():
    x = tokens()
    mask = jnp.arange(5)[None] < jnp.asarray([5, 3, 1])[:, None]
    pool = AttentionPooling(num_heads=2, mlp_dim=16)
    variables = pool.init(jax.random.key(0), x, mask)
    out = pool.apply(variables, x, mask)
    other = jnp.where(mask[:, :, None], x, 100.0)
    np.testing.assert_array_equal(pool.apply(variables, other, mask), out)
    np.testing.assert_allclose(pool.apply(variables, x[1:2, :3])[0], out[1], atol=1e-5)
    assert out.shape == (3, 8)
