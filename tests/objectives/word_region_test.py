"""Word-region alignment beside numpy and the published loss, on parts of a batch and on devices."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.interfaces import Fused
from mmjax.objectives.base import Forward, check_needs
from mmjax.objectives.word_region import WordRegion
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import batch_sharding
from mmjax.typing import View

PUBLISHED = pathlib.Path(__file__).parents[1] / "golden" / "published"
ROWS, PHRASES, REGIONS = 8, 3, 4
LOW = np.finfo(np.float32).min


def score(batch):
    """The loss of a model whose scores are in the batch, where 'fuse' finds them."""

    def apply(method, variables, inputs, train, rngs):
        if method == "fuse":
            scores, mask = inputs["regions"], inputs["region_mask"]
            return Fused(None, None, scores, mask, None), {}
        fused = inputs["fused"]
        scores = jnp.where(fused.image_mask[:, None], fused.image, LOW)
        return scores + 0.0 * inputs["phrases"][..., None], {}

    view = View("fuse", ("regions", "region_mask"))
    return WordRegion(view)(Forward(apply, {}, {}, False, None), batch, ())


losses = jax.jit(score)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    real = np.arange(REGIONS) < rng.integers(2, REGIONS + 1, ROWS)[:, None]
    meant = (rng.random((ROWS, PHRASES, REGIONS)) < 0.5) * real[:, None]
    meant = meant / np.maximum(meant.sum(axis=-1, keepdims=True), 1)
    meant[0, 0] = 0
    phrases = rng.integers(0, 9, (ROWS, PHRASES))
    phrases[1:4, 2] = -1
    return {
        "regions": rng.normal(size=(ROWS, PHRASES, REGIONS)).astype(np.float32),
        "region_mask": real,
        "phrases": phrases.astype(np.int32),
        "phrase_regions": meant.astype(np.float32),
        "valid": np.arange(ROWS) != 5,
    }


def test_it_is_the_divergence_summed_over_phrases_and_the_mean_over_rows(batch):
    total = right = number = 0
    for row, phrase in np.ndindex(ROWS, PHRASES):
        meant = batch["phrase_regions"][row, phrase].astype(float)
        if batch["phrases"][row, phrase] < 0 or not batch["valid"][row] or not meant.any():
            continue
        scores = batch["regions"][row, phrase].astype(float)[batch["region_mask"][row]]
        logs = scores - np.log(np.exp(scores).sum())
        total += sum(m * (np.log(m) - log) for m, log in zip(meant, logs) if m > 0)
        number, right = number + 1, right + (meant[scores.argmax()] > 0)
    made = losses(batch)
    assert 0 < right < number
    np.testing.assert_allclose(made.total, total, rtol=1e-5)
    assert float(made.count) == batch["valid"].sum()
    assert [float(x) for x in made.metrics["accuracy"]] == [right, number]


def test_padding_and_rows_that_fill_up_change_nothing(batch):
    other = {word: x.copy() for word, x in batch.items()}
    other["regions"] += 100 * ~batch["region_mask"][:, None]
    away = (batch["phrases"] < 0) | ~batch["valid"][:, None]
    other["regions"][away] *= -3
    other["phrase_regions"][away] = 1
    assert losses(other).total == losses(batch).total


def test_parts_of_a_batch_and_devices_give_the_same_sums(batch):
    whole, half = losses(batch), ROWS // 2
    parts = [
        losses({word: x[rows] for word, x in batch.items()})
        for rows in (slice(0, half), slice(half, ROWS))
    ]
    rows = batch_sharding(make_mesh(8, 1, 1))
    cut = losses({word: jax.device_put(x, rows) for word, x in batch.items()})
    for made in (jax.tree.map(lambda *sums: sum(sums), *parts), cut):
        np.testing.assert_allclose(made.total, whole.total, rtol=1e-5)
        assert float(made.count) == float(whole.count)


def test_a_region_that_was_not_kept_does_not_pass_unseen(batch):
    row = int(np.flatnonzero(~batch["region_mask"][:, -1] & batch["valid"])[0])
    wrong = {**batch, "phrase_regions": batch["phrase_regions"].copy()}
    wrong["phrase_regions"][row, 0] = np.eye(REGIONS)[-1]
    assert np.isnan(losses(wrong).total)


def test_the_published_loss_is_ours():
    folder = PUBLISHED / "visualbert_phrases"
    with np.load(folder / "inputs.npz") as given, np.load(folder / "outputs.npz") as wanted:
        inputs, outputs = dict(given), dict(wanted)
    made = losses(
        {
            "regions": outputs["logits"],
            "region_mask": inputs["visual_attention_mask"].astype(bool),
            # The reference reads the first token for padding, and counts it.
            "phrases": np.maximum(inputs["region_to_phrase_position"], 0).astype(np.int32),
            "phrase_regions": inputs["labels"],
            "valid": np.ones(len(inputs["labels"]), bool),
        }
    )
    np.testing.assert_allclose(made.mean(), outputs["loss"], rtol=1e-6)


def test_what_does_not_fit_is_refused_and_what_it_needs_is_named(batch):
    with pytest.raises(ValueError, match=r"'phrase_regions' is \(8, 3, 2\).*they are alike"):
        losses({**batch, "phrase_regions": batch["phrase_regions"][..., :2]})
    with pytest.raises(ValueError, match=r"needs 'phrases'.*Add Stored\('phrases'"):
        check_needs({"x": WordRegion()}, ("token_ids", "text_mask", "regions", "region_mask"))
