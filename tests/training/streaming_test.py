"""Parameters of a checkpoint, array by array: those that a restore gives."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import paths
from mmjax.training.checkpoint import Checkpoints, find_checkpoint, restore_params
from mmjax.training.streaming import stream_params


def folder(tmp_path, ema):
    state = {
        "step": jnp.asarray(3),
        "params": {
            "image": {"blocks": {"kernel": jnp.arange(24.0).reshape(2, 3, 4)}, "bias": jnp.ones(4)},
            "objectives": {"a": {"kernel": jnp.ones(2)}},
        },
        "ema": {"image": {"bias": jnp.full(4, 7.0)}} if ema else {},
        "batch_stats": {"image": {"mean": jnp.zeros(5)}},
    }
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, state, {})
    checkpoints.wait()
    return find_checkpoint(tmp_path)


def streamed(given, which, dtype=np.float32):
    return {(c, path): array for c, path, array in stream_params(given, which, lambda _: dtype)}


@pytest.mark.parametrize("which", ["params", "ema"])
def test_they_are_those_of_a_restore_without_what_is_the_objectives(tmp_path, which):
    given = folder(tmp_path, ema=True)
    found = streamed(given, which)
    params, statistics = restore_params(given, which)
    del params["objectives"]
    expected = {("params", path): x for path, x in paths.flatten(params).items()}
    expected |= {("batch_stats", path): x for path, x in paths.flatten(statistics).items()}
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == np.float32
    assert found["params", "image/bias"][0] == (7 if which == "ema" else 1)


def test_they_come_in_the_type_asked_for(tmp_path):
    found = streamed(folder(tmp_path, ema=False), "params", jnp.bfloat16)
    assert found["params", "image/blocks/kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        found["params", "image/blocks/kernel"].astype(np.float32).ravel(), np.arange(24.0)
    )


def test_an_average_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ValueError, match="holds no 'ema'"):
        streamed(folder(tmp_path, ema=False), "ema")
