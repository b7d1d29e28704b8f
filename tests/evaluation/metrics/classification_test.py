import numpy as np
import pytest

from mmjax.evaluation.metrics.classification import (
    confusion,
    label_ranks,
    mean_per_class,
    predictions,
)

SCORES = np.array(
    [[0.9, 0.1, 0.2], [0.1, 0.2, 0.7], [0.5, 0.5, 0.1], [0.3, 0.3, 0.3]], dtype=np.float32
)
LABELS = np.array([0, 1, 0, 2])


def test_ranks_count_other_classes_that_score_as_high():
    np.testing.assert_array_equal(label_ranks(SCORES, LABELS), [0, 1, 1, 2])


def test_a_tie_is_predicted_wrong():
    np.testing.assert_array_equal(predictions(SCORES, LABELS), [0, 2, 1, 0])


def test_a_score_that_is_not_a_number_is_never_right():
    scores = np.eye(3, dtype=np.float32)
    labels = np.arange(3)
    assert (label_ranks(np.full((3, 3), np.nan, np.float32), labels) == 2).all()
    assert (predictions(np.full((3, 3), np.nan, np.float32), labels) != labels).all()
    scores[0, 2] = np.nan
    np.testing.assert_array_equal(predictions(scores, labels), [2, 1, 2])
    assert (label_ranks(np.diag([np.inf] * 3).astype(np.float32), labels) == 2).all()


def test_predictions_agree_with_ranks_and_with_argmax():
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(200, 9)).astype(np.float32)
    labels = generator.integers(0, 9, size=200)
    np.testing.assert_array_equal(predictions(scores, labels), scores.argmax(axis=1))
    right = label_ranks(scores, labels) == 0
    np.testing.assert_array_equal(right, scores.argmax(axis=1) == labels)


def test_confusion_has_the_right_class_in_rows():
    counts = confusion(np.array([0, 0, 2]), np.array([0, 1, 1]), 3)
    np.testing.assert_array_equal(counts, [[1, 1, 0], [0, 0, 0], [0, 1, 0]])


def test_mean_per_class_weighs_classes_alike_and_leaves_out_empty_ones():
    counts = np.array([[90, 10, 0], [1, 1, 0], [0, 0, 0]])
    assert mean_per_class(counts) == pytest.approx((0.9 + 0.5) / 2)
