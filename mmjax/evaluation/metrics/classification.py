"""Accuracy from scores of classes: top-k, by class, and who is taken for whom."""

import numpy as np
from jaxtyping import Float, Int

from mmjax.evaluation.metrics.retrieval import TIE


def label_ranks(
    scores: Float[np.ndarray, "samples classes"], labels: Int[np.ndarray, " samples"]
) -> Int[np.ndarray, " samples"]:
    """How many other classes score at least as high as the right one; 0 is a right answer.

    A tie, and a score that is not a number, count against the model, so a model that scores all
    classes alike is never right.

    Args:
      scores: similarities of unit vectors, higher is likelier.
      labels: the right class, 0 to classes − 1.
    """
    right = np.take_along_axis(scores, labels[:, None], axis=1)
    behind = scores < right - TIE  # the right class itself is never behind itself
    return np.sum(~behind, axis=1) - 1


def predictions(
    scores: Float[np.ndarray, "samples classes"], labels: Int[np.ndarray, " samples"]
) -> Int[np.ndarray, " samples"]:
    """The class each sample is taken for: the right one only where no other scores as high."""
    others = np.where(np.isnan(scores), np.inf, scores).astype(np.float64)
    np.put_along_axis(others, labels[:, None], -np.inf, axis=1)
    wrong = np.argmax(others, axis=1)
    return np.where(label_ranks(scores, labels) == 0, labels, wrong)


def confusion(
    labels: Int[np.ndarray, " samples"], predicted: Int[np.ndarray, " samples"], classes: int
) -> Int[np.ndarray, "classes classes"]:
    """Counts by (right class, predicted class)."""
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def mean_per_class(counts: Int[np.ndarray, "classes classes"]) -> float:
    """The mean of each class's own accuracy, over the classes that occur; from `confusion`."""
    total = counts.sum(axis=1)
    occurring = total > 0
    return float(np.mean(np.diag(counts)[occurring] / total[occurring]))
