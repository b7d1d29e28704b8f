import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations, batch_sharding, replicated

SCALARS = {"log_scale": jnp.float32(np.log(1 / 0.07)), "bias": jnp.float32(-3.0)}


@pytest.fixture
def scalars():
    return dict(SCALARS)


@pytest.fixture
def make_embeddings():
    """Embeddings as `embed` returns them; some right, some wrong, all samples different."""

    def make(batch=16, dim=12, seed=0, **words):
        rng = np.random.default_rng(seed)
        image, text = rng.normal(size=(2, batch, dim))
        text = text + 0.6 * image
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
        numbers = np.stack([np.arange(batch), rng.integers(-(2**31), 2**31, batch)], axis=1)
        made = {
            "image": unit[0].astype(np.float32),
            "text": unit[1].astype(np.float32),
            "valid": np.ones(batch, bool),
            "sample_id": numbers.astype(np.int32),
            **words,
        }
        return {name: jnp.asarray(value) for name, value in made.items()}

    return make


@functools.cache
def compile_once(objective, devices):
    """value_and_grad of the objective's mean, compiled once for each shape in the whole session."""
    mesh = make_mesh(devices=jax.devices()[:devices])

    def mean(learned, scalars, given):
        with activations(mesh):
            loss = objective.compare({**learned, **given}, scalars, ())
        return loss.mean(), loss

    rows, whole = batch_sharding(mesh), replicated(mesh)
    return jax.jit(
        jax.value_and_grad(mean, argnums=(0, 1), has_aux=True), in_shardings=(rows, whole, rows)
    )


@pytest.fixture
def score():
    """(mean loss, gradients of it by both embeddings and the scalars, the Loss), under jit.

    With devices=8 the rows are cut over eight devices.
    """

    def run(objective, embeddings, scalars, devices=1):
        learned = {name: embeddings[name] for name in ("image", "text")}
        given = {name: value for name, value in embeddings.items() if name not in learned}
        function = compile_once(objective, devices)
        (value, loss), (by_embedding, by_scalar) = function(learned, scalars, given)
        return float(value), {**by_embedding, **by_scalar}, loss

    return run


@pytest.fixture
def compiled():
    """The jitted function behind `score`, by objective and number of devices."""
    return compile_once
