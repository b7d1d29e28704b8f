import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from mmjax.models.layers import attend as module
from mmjax.models.layers.attend import SPLASH_FROM, attend, choose


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


def test_causal_with_a_mask_is_both_masks():
    query, key, value = (jnp.asarray(random(2, 4, 3, 8, seed=seed)) for seed in range(3))
    real = jnp.asarray([[[True, True, True, False]], [[True, False, True, True]]])
    both = real & jnp.tril(jnp.ones((4, 4), bool))
    found = attend(query, key, value, real, causal=True)
    np.testing.assert_array_equal(found, attend(query, key, value, both))
    ones = jnp.ones((1, 4, 4), bool)
    np.testing.assert_allclose(
        attend(query, key, value, causal=True), attend(query, key, value, ones, causal=True)
    )


def shaped(length, keys=None, head_dim=64, dtype="bfloat16"):
    shapes = ((2, n, 4, head_dim) for n in (length, keys or length))
    return tuple(jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape in shapes)


MASK = jnp.ones((2, 1, 64), bool)
LONG = SPLASH_FROM


@pytest.fixture
def on(monkeypatch):
    """(platform) -> pretends to trace for it, with cuDNN where it is a GPU."""

    def pretend(platform):
        monkeypatch.setattr(module, "platform", lambda: platform)
        if platform == "gpu":
            monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91100)

    return pretend


@pytest.mark.parametrize(
    ("platform", "shapes", "mask", "chosen"),
    [
        ("cpu", shaped(197), None, "xla"),
        ("tpu", shaped(197), None, "xla"),
        ("tpu", shaped(LONG), None, "splash"),
        ("tpu", shaped(LONG), jnp.ones((2, 1, LONG), bool), "xla"),
        ("tpu", shaped(1, LONG), None, "xla"),
        ("gpu", shaped(197), None, "cudnn"),
        ("gpu", shaped(64), MASK, "cudnn"),
        ("gpu", shaped(77), jnp.ones((2, 1, 77), bool), "cudnn"),
        ("gpu", shaped(1, 77), jnp.ones((2, 1, 77), bool), "cudnn"),
        ("gpu", shaped(197, dtype="float32"), None, "xla"),
        ("gpu", shaped(197, head_dim=60), None, "xla"),
    ],
)
def test_auto_takes_what_suits_the_platform_and_can_run(on, platform, shapes, mask, chosen):
    on(platform)
    assert choose("auto", *shapes, mask, causal=False) == chosen


@pytest.mark.parametrize(
    ("platform", "name", "shapes", "mask", "message"),
    [
        ("cpu", "flash", shaped(64), None, "'flash' is none of auto, xla, cudnn, splash"),
        ("cpu", "cudnn", shaped(64), None, "cuDNN runs on GPUs, and this is for 'cpu'"),
        ("gpu", "cudnn", shaped(64, dtype="float32"), None, "not float32; set dtype"),
        ("gpu", "cudnn", shaped(64, head_dim=12), None, "head_dim=12 is no multiple of 8"),
        ("cpu", "splash", shaped(64), None, "splash runs on TPUs, and this is for 'cpu'"),
        ("tpu", "splash", shaped(64), MASK, "no mask of padding"),
        ("tpu", "splash", shaped(1, 64), None, "equal lengths, not 1 and 64"),
    ],
)
def test_a_choice_that_cannot_run_is_refused_with_its_reason(
    on, platform, name, shapes, mask, message
):
    on(platform)
    with pytest.raises(ValueError, match=message):
        choose(name, *shapes, mask, causal=False)


def test_a_missing_cudnn_is_refused_and_auto_does_without(monkeypatch):
    monkeypatch.setattr(module, "platform", lambda: "gpu")
    with pytest.raises(ValueError, match="attention='cudnn': cuDNN is not detected"):
        choose("cudnn", *shaped(64), None, causal=True)
    assert choose("auto", *shaped(64), None, causal=True) == "xla"
