import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives.base import Forward
from mmjax.objectives.matching import Matching
from mmjax.training.accumulation import check_micro_batches

ROWS = 5


def batch(**changes):
    rng = np.random.default_rng(0)
    made = {
        "token_ids": np.arange(ROWS)[:, None] + np.zeros((1, 3), int),
        "text_mask": np.ones((ROWS, 3), bool),
        "regions": (10 * np.arange(ROWS))[:, None, None] + np.zeros((1, 2, 4)),
        "region_mask": np.ones((ROWS, 2), bool),
        "valid": np.ones(ROWS, bool),
        "sample_id": np.stack([np.arange(ROWS)] * 2, 1),
        "noise": rng.normal(size=ROWS),
    } | changes
    return {word: jnp.asarray(value) for word, value in made.items()}


def score(objective, batch):
    """(loss, calls of `fuse` as (first token, first feature)) of a model that sees what it gets."""
    calls = []

    def apply(method, variables, inputs, train, rngs):
        if method == "fuse":
            pair = inputs["token_ids"][:, 0], inputs["regions"][:, 0, 0]
            calls.append(pair)
            return pair, {}
        words, regions = inputs["fused"]
        return jnp.where(words * 10 == regions, 2.0, -3.0), {}

    return objective(Forward(apply, {}, {}, False, None), batch, ()), calls


def softplus(x):
    return np.log1p(np.exp(x))


def test_each_text_is_asked_with_its_own_picture_and_with_another_rows():
    plain = ("fuse", ("token_ids", "text_mask", "regions", "region_mask"))  # as a config gives it
    made, calls = score(Matching(plain, shift=2), batch())
    (words, own), (again, other) = calls
    np.testing.assert_array_equal(own, 10 * np.arange(ROWS))
    np.testing.assert_array_equal(again, words)
    np.testing.assert_array_equal(other, 10 * np.roll(np.arange(ROWS), -2))
    assert made.mean() == pytest.approx((softplus(-2) + softplus(-3)) / 2, rel=1e-6)
    assert float(made.metrics["accuracy"][0]) == 2 * ROWS


@pytest.mark.parametrize("word", ["sample_id", "caption_id", "group"])
def test_pairs_that_might_match_all_the_same_are_not_asked_about(word):
    same = np.stack([[0, 0, 1, 2, 3]] * 2, 1)
    made, _ = score(Matching(), batch(**{word: same}))
    assert float(made.count) == ROWS + ROWS - 1


def test_rows_that_only_fill_up_are_in_no_pair():
    valid = np.array([1, 1, 1, 0, 1], bool)
    made, _ = score(Matching(), batch(valid=valid))
    assert float(made.count) == 4 + 3  # neither row 2 with picture 3 nor row 3 with picture 4
    assert made.mean() == pytest.approx((4 * softplus(-2) + 3 * softplus(-3)) / 7, rel=1e-6)


def test_micro_batches_and_a_shift_beyond_the_batch_are_refused():
    with pytest.raises(ValueError, match="5 rows has none 5 further on"):
        score(Matching(shift=5), batch())
    with pytest.raises(ValueError, match="shift=0"):
        Matching(shift=0)
    with pytest.raises(ValueError, match="neither Coupled"):
        check_micro_batches(2, {"matching": Matching()}, {"main": 8}, 1, {})
