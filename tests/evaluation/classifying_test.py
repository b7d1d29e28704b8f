"""Classes on worlds whose scores are given."""

import numpy as np
import pytest

from mmjax.evaluation.classifying import Classifying
from mmjax.evaluation.metrics.classification import average_precisions, cross_entropy

RNG = np.random.default_rng(0)
NAMES = tuple("abcdefg")
LABELS = np.arange(42) % 7


def test_right_classes_score_one(judged_context):
    context = judged_context(np.eye(7)[LABELS], {}, label=LABELS, classes=NAMES)
    found = Classifying()(context)
    assert found.metrics["top1"] == found.metrics["top5"] == found.metrics["mean_per_class"] == 1.0
    assert found.metrics["top1_chance"] == pytest.approx(1 / 7)
    assert found.artifact["worst"] == []
    assert found.artifact["matrix"].trace() == 42


def test_like_scores_and_no_numbers_score_nothing_and_random_ones_near_chance(judged_context):
    for scores in (np.ones((42, 7)), np.full((42, 7), np.nan)):
        context = judged_context(scores, {}, label=LABELS, classes=NAMES)
        assert Classifying()(context).metrics["top1"] == 0.0
    labels = np.arange(1400) % 7
    context = judged_context(RNG.normal(size=(1400, 7)), {}, 500, label=labels)
    found = Classifying()(context).metrics
    assert abs(found["top1"] - 1 / 7) < 3 * np.sqrt(1 / 7 * 6 / 7 / 1400)


def test_the_worst_is_the_one_whose_class_is_least_likely(judged_context):
    scores = np.eye(7)[LABELS] * 4
    scores[9] = -scores[9]
    scores[12, 0] = 5.0
    artifact = Classifying()(judged_context(scores, {}, label=LABELS, classes=NAMES)).artifact
    assert [one["position"] for one in artifact["worst"]] == [9, 12]
    assert (artifact["worst"][1]["told"], artifact["worst"][1]["right"]) == ("a", "f")
    losses = cross_entropy(scores, LABELS)
    by_hand = np.log(np.exp(scores).sum(1)) - scores[np.arange(42), LABELS]
    np.testing.assert_allclose(losses, by_hand, rtol=1e-12)


def test_several_classes_have_average_precision(judged_context):
    suits = (RNG.random((42, 7)) < 0.3).astype(np.float32)
    found = Classifying()(judged_context(suits * 2 - 1, {}, labels=suits, classes=NAMES))
    assert found.metrics["mean_average_precision"] == 1.0
    assert found.metrics["mean_average_precision_chance"] == pytest.approx(suits.mean())
    for scores in (-suits, np.full_like(suits, np.nan), np.ones_like(suits)):
        worse = Classifying()(judged_context(scores, {}, labels=suits, classes=NAMES)).metrics
        assert worse["mean_average_precision"] < 0.6
    large = RNG.random((900, 7)) < 0.3
    context = judged_context(RNG.normal(size=large.shape), {}, 300, labels=large.astype(float))
    assert abs(Classifying()(context).metrics["mean_average_precision"] - 0.3) < 0.04


def test_average_precision_is_the_mean_of_precisions_at_the_hits():
    scores = np.asarray([[4.0], [3.0], [2.0], [2.0], [np.nan]])
    suits = np.asarray([[True], [False], [True], [False], [True]])
    # ranks of the hits: 1, 4 (behind the miss that scores alike), 5
    assert average_precisions(scores, suits)[0] == pytest.approx((1 / 1 + 2 / 4 + 3 / 5) / 3)


@pytest.mark.parametrize(
    ("scores", "words", "message"),
    [
        (np.zeros((5, 3)), {}, "label_from"),
        (np.zeros((5, 3)), {"label": np.full(5, 3)}, "from 3 to 3"),
        (np.zeros((5, 3)), {"label": np.zeros(5), "classes": NAMES}, "7 class names"),
        (np.zeros((5, 3)), {"labels": np.zeros((5, 4))}, "'labels' of 4 classes"),
        (np.zeros((5, 3)), {"labels": np.zeros((5, 3))}, "no held-out sample is of any class"),
        (np.zeros(5), {"label": np.zeros(5)}, "no scores of classes"),
    ],
)
def test_what_does_not_fit_is_named(judged_context, scores, words, message):
    with pytest.raises(ValueError, match=message):
        Classifying()(judged_context(scores, {}, **words))
