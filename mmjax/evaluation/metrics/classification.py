"""Accuracy from scores of classes: top-k, by class, and who is taken for whom."""

import numpy as np
from jaxtyping import Bool, Float, Int

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
    ranks = np.sum(~behind, axis=1) - 1
    return np.where(np.isfinite(right[:, 0]), ranks, scores.shape[1] - 1)


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


def cross_entropy(
    scores: Float[np.ndarray, "samples classes"], labels: Int[np.ndarray, " samples"]
) -> Float[np.ndarray, " samples"]:
    """-log of the softmax's share of the right class; infinite where a score is no number."""
    real = np.isfinite(scores).all(axis=1)
    known = np.where(real[:, None], scores, 0.0).astype(np.float64)
    known = known - known.max(axis=1, keepdims=True)
    right = np.take_along_axis(known, labels[:, None], axis=1)[:, 0]
    return np.where(real, np.log(np.exp(known).sum(axis=1)) - right, np.inf)


def average_precisions(
    scores: Float[np.ndarray, "samples classes"], suits: Bool[np.ndarray, "samples classes"]
) -> Float[np.ndarray, " classes"]:
    """Of each class the mean, over samples of it, of the precision at that sample's rank.

    Of samples that score alike those of the class stand last, and scores that are no number stand
    below all others, so neither helps. A class without samples has 0.

    Args:
      scores: higher is likelier.
      suits: whether a sample is of a class.
    """
    found = np.zeros(scores.shape[1])
    for number in range(scores.shape[1]):
        own = suits[:, number]
        if not own.any():
            continue
        values = np.where(np.isfinite(scores[:, number]), scores[:, number], -np.inf)
        hits = own[np.lexsort((own, -values))]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        found[number] = precision[hits].mean()
    return found
