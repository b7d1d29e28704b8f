import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.encoders.text_transformer import POOLING, TextTransformer

SMALL = {
    "vocab_size": 30,
    "length": 8,
    "dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_dim": 32,
    "eos_id": 29,
}
LENGTHS = np.asarray([8, 5, 2])
MASK = jnp.asarray(np.arange(8) < LENGTHS[:, None])


def texts(padding=0):
    """Three texts that end with 29, and padding after it."""
    ids = np.random.default_rng(0).integers(1, 29, (3, 8))
    ids[np.arange(3), LENGTHS - 1] = 29
    return jnp.asarray(np.where(MASK, ids, padding), jnp.int32)


@pytest.fixture
def make(random_variables):
    """A model and parameters."""

    def make(**fields):
        model = TextTransformer(**{**SMALL, **fields})
        return model, random_variables(model, texts(), MASK)

    return make


# All but 'last', which sees the padding: the test after the next one.
@pytest.mark.parametrize("pooling", sorted({*POOLING} - {"last"}))
@pytest.mark.parametrize("causal", [True, False])
def test_padding_does_not_change_the_embedding(make, pooling, causal):
    model, variables = make(pooling=pooling, causal=causal, mask_padding=True)
    out = jax.jit(model.apply)(variables, texts(), MASK)
    other = jax.jit(model.apply)(variables, texts(padding=7), MASK)
    assert out.pooled.shape == (3, 16)
    np.testing.assert_array_equal(other.pooled, out.pooled)
    short = jax.jit(model.apply)(variables, texts()[1:2, :5], MASK[1:2, :5])
    np.testing.assert_allclose(short.pooled[0], out.pooled[1], atol=2e-6)


@pytest.mark.parametrize("pooling", POOLING)
@pytest.mark.parametrize("causal", [True, False])
def test_the_pooled_vector_alone_is_the_same(make, pooling, causal):
    model, variables = make(pooling=pooling, causal=causal, mask_padding=pooling != "last")
    whole = jax.jit(model.apply)(variables, texts(), MASK)
    alone = jax.jit(lambda *given: model.apply(*given, tokens=False))(variables, texts(), MASK)
    assert (alone.tokens is None) == (pooling not in ("mean", "attention"))
    np.testing.assert_allclose(alone.pooled, whole.pooled, atol=2e-6)


def test_a_causal_text_needs_no_mask_to_leave_padding_out(make):
    model, variables = make(pooling="end_of_text", causal=True)
    out = jax.jit(model.apply)(variables, texts(), MASK)
    np.testing.assert_array_equal(
        jax.jit(model.apply)(variables, texts(7), MASK).pooled, out.pooled
    )


def test_last_pooling_sees_the_padding(make):
    model, variables = make(pooling="last")
    out = jax.jit(model.apply)(variables, texts(), MASK)
    np.testing.assert_array_equal(out.pooled, out.tokens[:, -1])
    other = jax.jit(model.apply)(variables, texts(7), MASK).pooled
    np.testing.assert_array_equal(other[0], out.pooled[0])
    assert not np.allclose(other[1:], out.pooled[1:], atol=1e-3)


@pytest.mark.parametrize("causal", [True, False])
def test_only_a_causal_token_ignores_what_comes_after_it(make, causal):
    model, variables = make(causal=causal)
    ids = texts()
    changed = ids.at[:, 4].set(3)
    difference = (
        jax.jit(model.apply)(variables, ids, MASK).tokens
        - jax.jit(model.apply)(variables, changed, MASK).tokens
    )
    assert (jnp.abs(difference[:, :4]).max() == 0) == causal
    assert jnp.abs(difference[:, 4:]).max() > 1e-3


@pytest.mark.optimised
@pytest.mark.parametrize("pooling", ["end_of_text", "highest_id"])
def test_the_end_of_the_text_is_pooled(make, pooling):
    model, variables = make(pooling=pooling)
    out = jax.jit(model.apply)(variables, texts(), MASK)
    np.testing.assert_array_equal(out.pooled, out.tokens[np.arange(3), LENGTHS - 1])
    np.testing.assert_array_equal(out.mask, MASK)


def test_an_id_outside_the_vocabulary_does_not_pass_unseen(make):
    model, variables = make()
    out = jax.jit(model.apply)(variables, texts().at[0, 3].set(30), MASK)
    assert not np.isfinite(out.pooled[0]).any()
    assert np.isfinite(out.pooled[1:]).all()


def test_a_text_of_nothing_but_padding_stays_finite(make):
    model, variables = make(pooling="attention", mask_padding=True)
    assert np.isfinite(jax.jit(model.apply)(variables, texts(), jnp.zeros_like(MASK)).pooled).all()


def test_bfloat16_is_close_to_float32(make):
    model, variables = make(pooling="mean")
    expected = jax.jit(model.apply)(variables, texts(), MASK).pooled
    half = TextTransformer(**SMALL, pooling="mean", dtype="bfloat16")
    out = jax.jit(half.apply)(variables, texts(), MASK).pooled
    assert out.dtype == jnp.bfloat16
    error = jnp.linalg.norm(out.astype(jnp.float32) - expected) / jnp.linalg.norm(expected)
    assert 0 < error < 0.02


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "first"}, "pooling='first' is none of"),
        ({"pooling": "end_of_text", "eos_id": None}, "needs eos_id"),
        ({"pooling": "last", "mask_padding": True}, "mask_padding must be False"),
        ({"pooling": "mean", "length": 7}, "8 tokens long, the model's length is 7"),
        ({"pooling": "last", "length": 9}, "8 tokens long, the model's length is 9"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TextTransformer(**{**SMALL, **fields}).init(jax.random.key(0), texts(), MASK)
