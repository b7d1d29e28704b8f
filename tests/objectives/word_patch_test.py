import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.interfaces import Fused
from mmjax.objectives.base import Forward
from mmjax.objectives.matching import Matching
from mmjax.objectives.transport import transport_plan
from mmjax.objectives.word_patch import WordPatch

ROWS, LENGTH, PLACES, WIDTH = 4, 6, 5, 3
SEEN = ("fuse", ("token_ids", "text_mask", "image"))


def batch(**changes):
    rng = np.random.default_rng(0)
    made = {
        "token_ids": rng.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32),
        "text_mask": np.arange(LENGTH) < np.array([6, 4, 5, 3])[:, None],
        "image": rng.normal(size=(ROWS, PLACES, WIDTH)).astype(np.float32),
        "valid": np.ones(ROWS, bool),
        "sample_id": np.stack([np.arange(ROWS)] * 2, 1),
    } | changes
    return {word: jnp.asarray(value) for word, value in made.items()}


def towers(calls=None, mask=None):
    """Stands for a model that gives each token and place back as it came."""

    def apply(method, variables, inputs, train, rngs):
        if calls is not None:
            calls.append(method)
        if method == "fuse":
            pooled = jnp.zeros((ROWS, 1))
            text, image = inputs["token_ids"], inputs["image"]
            return Fused(text, inputs["text_mask"], image, mask, pooled), {}
        return inputs["fused"].pooled[:, 0], {}

    return Forward(apply, {}, {}, False, None)


def wanted_costs(batch, shift, image_mask=None):
    """Cost of each text with the picture `shift` rows further on, one row at a time."""
    costs = []
    for row in range(ROWS):
        text = np.array(batch["token_ids"][row])[1 : batch["text_mask"][row].sum() - 1]
        other = (row + shift) % ROWS
        image = np.array(batch["image"][other])[1:]
        if image_mask is not None:
            image = image[image_mask[row][1:]]
        text, image = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, image))
        cost = 1 - text @ image.T
        every = [jnp.ones((1, size), bool) for size in cost.shape]
        plan = transport_plan(jnp.asarray(cost)[None], *every)
        costs.append(np.sum(cost * np.array(plan)[0]))
    return np.array(costs)


@pytest.mark.parametrize("shift", [1, 3])
def test_right_pairs_are_near_and_wrong_ones_far(shift):
    given = batch()
    loss = WordPatch(SEEN, shift=shift)(towers(), given, ())
    right, wrong = wanted_costs(given, 0), wanted_costs(given, shift)
    assert float(loss.count) == 2 * ROWS
    assert loss.mean() == pytest.approx((right.sum() - wrong.sum()) / (2 * ROWS), abs=1e-6)
    assert float(loss.metrics["right"][0]) == pytest.approx(right.sum(), rel=1e-5)
    assert float(loss.metrics["wrong"][0]) == pytest.approx(wrong.sum(), rel=1e-5)


def test_costs_and_their_slopes_are_those_of_the_original():
    with np.load(pathlib.Path(__file__).parents[1] / "golden" / "word_patch.npz") as file:
        golden = dict(file)
    given = {name: jnp.asarray(golden[name]) for name in ("text", "text_mask", "image")}
    mask, weights = jnp.asarray(golden["image_mask"]), golden["weights"]

    def total(text, image):
        """Each row as the only one that counts: the sums of right pairs are its cost."""
        rows = {"token_ids": text, "text_mask": given["text_mask"], "image": image}
        costs = []
        for row in range(ROWS):
            alone = batch(valid=np.arange(ROWS) == row, **rows)
            loss = WordPatch(SEEN)(towers(mask=mask), alone, ())
            costs.append(loss.metrics["right"][0])
        return jnp.dot(jnp.stack(costs), weights), jnp.stack(costs)

    run = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
    (_, costs), slopes = run(given["text"], given["image"])
    np.testing.assert_allclose(costs, golden["costs"], atol=2e-6)
    np.testing.assert_allclose(slopes[0], golden["d_text"], atol=2e-6)
    np.testing.assert_allclose(slopes[1], golden["d_image"], atol=2e-6)
    assert np.abs(golden["d_text"]).max() > 0.05


def test_rows_that_fill_up_pairs_that_may_match_and_texts_without_a_word_count_nothing():
    given = batch(valid=np.array([1, 1, 1, 0], bool), sample_id=np.stack([[0, 0, 1, 2]] * 2, 1))
    loss = WordPatch(SEEN)(towers(), given, ())
    right, wrong = wanted_costs(given, 0)[:3].sum(), wanted_costs(given, 1)[1]
    assert float(loss.count) == 3 + 1
    assert loss.mean() == pytest.approx((right - wrong) / 4, abs=1e-6)

    mask = np.arange(LENGTH) < np.array([6, 4, 2, 3])[:, None]  # of row 2 only the two ends
    empty = batch(text_mask=mask)
    made, slope = jax.value_and_grad(
        lambda image: WordPatch(SEEN)(towers(), {**empty, "image": image}, ()).mean()
    )(empty["image"])
    assert float(WordPatch(SEEN)(towers(), empty, ()).count) == 2 * (ROWS - 1)
    assert np.isfinite(made)
    assert np.isfinite(slope).all()


def test_padding_of_pictures_is_no_patch():
    mask = np.arange(PLACES) < np.array([5, 3, 4, 2])[:, None]
    given = batch()
    loss = WordPatch(SEEN)(towers(mask=jnp.asarray(mask)), given, ())
    assert float(loss.metrics["right"][0]) == pytest.approx(
        wanted_costs(given, 0, mask).sum(), rel=1e-5
    )


def test_it_shares_the_passes_of_matching():
    calls, given = [], batch()
    forward = towers(calls)
    Matching(SEEN)(forward, given, ())
    WordPatch(SEEN)(forward, given, ())
    assert calls == ["fuse", "matching_logits", "fuse", "matching_logits"]
    WordPatch(SEEN, shift=2)(forward, given, ())
    assert calls.count("fuse") == 3  # the right pairs are the same


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="shift=0"):
        WordPatch(SEEN, shift=0)
    with pytest.raises(ValueError, match="class_tokens=-1"):
        WordPatch(SEEN, class_tokens=-1)
    with pytest.raises(ValueError, match=r"0\.05 or more"):
        WordPatch(SEEN, step=0.01)
    longer = batch(token_ids=np.zeros((ROWS, 2 * LENGTH, WIDTH), np.float32))
    with pytest.raises(ValueError, match="a row has 6 words and the model gives 12"):
        WordPatch(SEEN)(towers(), longer, ())
