import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.training.ema import ema_decay, ema_update


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    return {"tower": {"kernel": jnp.asarray(rng.normal(size=(3, 4, 5)), jnp.float32)}}


def test_the_moving_average_equals_numpy_and_keeps_small_steps():
    ema, new = parameters(), parameters(1)
    found = ema_update(ema, new, 0.75)
    expected = jax.tree.map(lambda a, b: 0.75 * np.float64(a) + 0.25 * np.float64(b), ema, new)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, expected
    )
    same = ema_update(new, new, 0.9999)
    jax.tree.map(np.testing.assert_array_equal, same, new)


def test_the_decay_of_the_moving_average_warms_up():
    decays = [float(ema_decay(0.999, count)) for count in (0, 10, 10_000)]
    np.testing.assert_allclose(decays, [0.1, 0.55, 0.999], rtol=1e-6)
    assert float(ema_decay(0.999, 0, warmup=False)) == pytest.approx(0.999)
