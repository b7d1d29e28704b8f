import functools
import math

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


@pytest.fixture
def make_hard_batch():
    """What float32 is not enough for: 104 pairs, some rows not real, and who belongs together.

    'aligned' texts lie near their pictures, so that a large scale leaves next to nothing to learn,
    'half aligned' ones less so; 'grouped' rows have up to five positives.
    """

    def make(kind, batch=104, dim=24):
        rng = np.random.default_rng(len(kind))
        image, noise = rng.normal(size=(2, batch, dim))
        text = image + (1.5 if "half" in kind else 0.3) * noise if "aligned" in kind else noise
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
        valid = np.ones(batch, bool)
        valid[rng.permutation(batch)[: batch // 7]] = False
        group = rng.integers(0, batch // 2, batch) if "grouped" in kind else np.arange(batch)
        made = {
            "image": unit[0].astype(np.float32),
            "text": unit[1].astype(np.float32),
            "valid": valid,
            "sample_id": np.stack([np.arange(batch)] * 2, axis=1).astype(np.int32),
            "group": np.stack([group, -group], axis=1).astype(np.int32),
        }
        both = valid[:, None] & valid[None]
        positive = (group[:, None] == group[None]) & both
        return {name: jnp.asarray(x) for name, x in made.items()}, positive, both & ~positive

    return make


@functools.cache
def compile_once(objective, sizes):
    """value_and_grad of the objective's mean, compiled once for each shape in the whole session."""
    sizes = (sizes, 1, 1) if isinstance(sizes, int) else sizes
    mesh = make_mesh(*sizes, devices=jax.devices()[: math.prod(sizes)])

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

    With devices=8 the rows are cut over eight devices; a tuple gives the mesh's sizes.
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
