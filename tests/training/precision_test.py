"""Parameters in bfloat16 within the step, beside a float32 master."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import paths
from mmjax.data.sources.base import CAUSES
from mmjax.models.dual.features import FeatureTowers
from mmjax.objectives.contrastive import Contrastive
from mmjax.parallel.mesh import make_mesh
from mmjax.preprocess import Contract
from mmjax.training.compiled import Compiled
from mmjax.training.optimizers.sgd import SGD
from mmjax.training.precision import in_forward
from mmjax.training.schedules import constant
from mmjax.training.step import Goal, Recipe
from mmjax.typing import View

VIEWS = {
    "image": View("encode_image", ("image_features",)),
    "text": View("encode_text", ("text_features",)),
}
RATE = 1e-4  # far too little for bfloat16 to notice the update of a weight


def batch(rows=16):
    rng = np.random.default_rng(0)
    return {
        "image_features": rng.normal(size=(rows, 12)).astype(np.float32),
        "text_features": rng.normal(size=(rows, 10)).astype(np.float32),
        "row": np.arange(rows, dtype=np.int32),
        "valid": np.ones(rows, bool),
        "bad_samples": np.zeros((rows, len(CAUSES)), np.int32),
        "sample_id": np.stack([np.zeros(rows), np.arange(rows)], 1).astype(np.int32),
    }


def compiled(params_dtype):
    recipe = Recipe(
        model=FeatureTowers(embed_dim=8),
        goals={"contrastive": Goal(Contrastive(**VIEWS))},
        optimizer=SGD(constant(RATE), momentum=0.0, weight_decay=0.0),
        contract=Contract(image_size=16, sequence_length=6),
        seed=0,
        params_dtype=params_dtype,
    )
    shapes = {word: (value.shape, value.dtype) for word, value in batch().items()}
    mesh = make_mesh(devices=jax.devices()[:2])
    return Compiled(recipe, mesh, {"main": shapes}, ((".*", ()),))


@pytest.fixture(scope="module")
def runs():
    """{params_dtype: (first parameters, parameters after 20 steps, first loss)}."""
    made = {}
    for kind in ("float32", "bfloat16"):
        run = compiled(kind)
        state = run.init()
        first, losses = paths.flatten(jax.device_get(state.params)), []
        placed = jax.device_put({"main": batch()}, jax.tree.map(lambda s: s.sharding, run.batches))
        for _ in range(20):
            state, metrics = run.step(state, placed, jnp.zeros(2, jnp.int32))
            losses.append(float(metrics["loss"]))
        made[kind] = (first, paths.flatten(jax.device_get(state.params)), losses[0])
    return made


def test_the_master_stays_float32_and_the_loss_is_nearly_that_of_float32(runs):
    for first, last, _ in runs.values():
        assert {leaf.dtype for leaf in (first | last).values()} == {np.dtype("float32")}
    exact, found = runs["float32"][2], runs["bfloat16"][2]
    assert found != exact
    assert found == pytest.approx(exact, rel=2e-3)


def test_updates_too_small_for_bfloat16_add_up(runs):
    first, last, _ = runs["bfloat16"]
    exact = runs["float32"][1]
    for path in (path for path in first if path.endswith("kernel")):
        one = (last[path] - first[path]) / 20
        weights = jnp.asarray(first[path], jnp.bfloat16)
        lost = (weights + jnp.asarray(one, jnp.bfloat16)) == weights
        assert np.mean(lost) > 0.9, path  # kept in bfloat16, most weights would never move
        moved, wanted = last[path] - first[path], exact[path] - first[path]
        assert np.linalg.norm(moved - wanted) < 0.05 * np.linalg.norm(wanted), path


def test_matrix_products_take_bfloat16_kernels_and_gradients_come_back_float32():
    run = compiled("bfloat16")
    text = str(run.step.trace(run.state, run.batches, run.stop).jaxpr)
    assert re.search(r"bf16\[12,8\] = convert_element_type\[new_dtype=bfloat16", text)
    assert re.search(r"f32\[12,8\] = convert_element_type\[new_dtype=float32", text)
    plain = compiled("float32")
    assert "bf16" not in str(plain.step.trace(plain.state, plain.batches, plain.stop).jaxpr)


def test_kernels_of_the_towers_alone_are_cast():
    one = jnp.ones((2, 2))
    params = {
        "image": {
            "blocks": {"mlp": {"kernel": one, "bias": one}, "norm": {"scale": one}},
            "position_embedding": one,
        },
        "text": {"token_embedding": one, "pool": {"probe": one, "mlp": {"kernel": one}}},
        "text_projection": {"kernel": one, "bias": one},
        "log_scale": one,
        "objectives": {"teacher": {"kernel": one}},
    }
    cast = paths.flatten(in_forward(params, "bfloat16"))
    assert {path for path, leaf in cast.items() if leaf.dtype == jnp.bfloat16} == {
        "image/blocks/mlp/kernel",
        "text/pool/mlp/kernel",
    }
    assert in_forward(params, "float32") is params


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="params_dtype='float16' is none of float32, bfloat16"):
        in_forward({}, "float16")
