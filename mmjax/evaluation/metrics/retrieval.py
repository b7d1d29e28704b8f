"""Ranks of the right answer among a gallery, exact and in chunks, and what they come to.

The rank of a query is the number of wrong answers that are at least as similar as the best right
one. So a tie counts against the model, and embeddings that are all equal find nothing.
"""

import numpy as np
from jaxtyping import Float, Int

TIE = 1e-6
"""Similarities of unit float32 vectors that differ by less are equal: blocks of different sizes
round the same dot product differently by a few 1e-7."""


def ranks(
    queries: Float[np.ndarray, "queries dim"],
    gallery: Float[np.ndarray, "gallery dim"],
    query_groups: Int[np.ndarray, " queries"],
    gallery_groups: Int[np.ndarray, " gallery"],
    chunk: int = 4096,
) -> Int[np.ndarray, " queries"]:
    """How many wrong answers stand before (or level with) each query's best right answer.

    A gallery item is right where its group equals the query's. Other right answers never count
    against the best one. A similarity that is not a number counts against the model.

    Args:
      queries: unit vectors.
      gallery: unit vectors.
      query_groups: which gallery items are right, by group.
      gallery_groups: group of each gallery item.
      chunk: so many queries are compared at once that at most chunk × chunk similarities (at
        least those of one query) are held; changes no number.

    Returns:
      Ranks from 0 (found first) to the number of wrong answers.

    Raises:
      ValueError: a query has no right answer, or chunk is below 1.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}.")
    if len(queries) and positives(query_groups, gallery_groups).min() == 0:
        raise ValueError("A query has no right answer in the gallery. Leave it out of the queries.")
    result = np.zeros(len(queries), dtype=np.int64)
    at_once = max(1, chunk * chunk // max(1, len(gallery)))
    for start in range(0, len(queries), at_once):
        rows = slice(start, start + at_once)
        similarity = queries[rows] @ gallery.T  # → [rows, gallery]
        right = query_groups[rows, None] == gallery_groups[None, :]
        best = np.max(similarity, axis=1, initial=-np.inf, where=right, keepdims=True)
        behind = similarity < best - np.float32(TIE)  # False where either is not a number
        result[rows] = np.sum(~(behind | right), axis=1)
    return result


def positives(
    query_groups: Int[np.ndarray, " queries"], gallery_groups: Int[np.ndarray, " gallery"]
) -> Int[np.ndarray, " queries"]:
    """The number of right answers in the gallery for each query."""
    ordered = np.sort(gallery_groups)
    last = np.searchsorted(ordered, query_groups, side="right")
    return last - np.searchsorted(ordered, query_groups, side="left")


def summary(
    ranks: Int[np.ndarray, " queries"],
    positives: Int[np.ndarray, " queries"],
    gallery: int,
    ks: tuple[int, ...] = (1, 5, 10),
) -> dict[str, float]:
    """R@k, median and mean rank, each with what a random order of the gallery gives.

    Args:
      ranks: from `ranks`, 0 is first.
      positives: right answers in the gallery for each query.
      gallery: size of the gallery.
      ks: the k of R@k, the fraction of queries whose best right answer is among the first k.

    Returns:
      'R@k' (0 to 1), 'median_rank' and 'mean_rank' (from 1), and each of them with '_chance'.
    """
    found: dict[str, float] = {}
    at_least = _chance_of_rank(positives, gallery)
    for k in ks:
        found[f"R@{k}"] = float(np.mean(ranks < k))
        found[f"R@{k}_chance"] = float(1.0 - at_least[min(k, gallery)])
    found["median_rank"] = float(np.median(ranks)) + 1.0
    found["median_rank_chance"] = float(np.argmax(at_least[1:] <= 0.5 + 1e-9)) + 1.0
    found["mean_rank"] = float(np.mean(ranks)) + 1.0
    found["mean_rank_chance"] = float(np.mean((gallery - positives) / (positives + 1.0))) + 1.0
    return found


def _chance_of_rank(
    positives: Int[np.ndarray, " queries"], gallery: int
) -> Float[np.ndarray, " ranks"]:
    """Probability, over random orders, that a query's rank is at least 0, 1, ..., gallery.

    The first r places are all wrong answers with probability ∏ᵢ (gallery − positives − i) ÷
    (gallery − i) for i below r; averaged over queries.
    """
    counts, weights = np.unique(positives, return_counts=True)
    place = np.arange(gallery, dtype=np.float64)
    total = np.zeros(gallery + 1)
    for count, weight in zip(counts, weights):
        wrong = np.maximum(gallery - count - place, 0.0) / (gallery - place)
        total += weight * np.concatenate([[1.0], np.cumprod(wrong)])
    return total / len(positives)
