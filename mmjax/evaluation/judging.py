"""One pass over held-out data by a head of the model: each sample's scores, once, in data order."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mmjax.evaluation.base import Context, joined, real
from mmjax.typing import Batch, View

__all__ = ["Judged", "judge"]


class Judged(NamedTuple):
    """What the model said of one sample.

    Attributes:
      position: the sample's place in the held-out data.
      scores: of the head, float64, [scores] or a single number.
      group: the sample's group as a number, or None where the data has none.
      words: {'label' or 'labels': of this sample}, where the data has them.
    """

    position: int
    scores: Any
    group: int | None
    words: dict[str, Any]


def judge(
    context: Context, view: View, head: str, batches: Iterable[Batch] | None = None
) -> Iterator[Judged]:
    """Scores the held-out data, a batch at a time, so that no set's scores have to fit in memory.

    Args:
      context: of the evaluator; every process has to go through to the end.
      view: how the model looks at text and picture together.
      head: which of its heads' methods is asked; '' takes what the view's method gives.
      batches: of `context.chosen`; None for the whole held-out data.

    Raises:
      ValueError: no row was valid.
    """
    seen: set[int] = set()
    for batch in context.batches() if batches is None else batches:
        valid = real(batch)
        # Every batch, even one of filling alone: the call is collective.
        scores = np.asarray(context.scores(view, head, batch), np.float64)
        groups = joined(np.asarray(batch["group"])) if "group" in batch else None
        for row in np.flatnonzero(valid).tolist():
            position = int(batch["position"][row])
            if position in seen:  # a repeated sample counts once
                continue
            seen.add(position)
            words = {
                word: np.asarray(batch[word])[row] for word in ("label", "labels") if word in batch
            }
            group = None if groups is None else int(groups[row])
            yield Judged(position, scores[row], group, words)
    if not seen:
        raise ValueError("The held-out data gave no valid row. Check eval_data's path and fields.")
