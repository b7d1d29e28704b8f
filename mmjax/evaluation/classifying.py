"""Classes of pictures, or of pictures with texts, by a head that scores them."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from mmjax.evaluation import errors
from mmjax.evaluation.base import Context, Evaluator, Result
from mmjax.evaluation.confusions import confusions
from mmjax.evaluation.judging import Judged, judge
from mmjax.evaluation.metrics import classification as metrics
from mmjax.typing import View

__all__ = ["Classifying"]

LIKELY = 5  # classes of a sample with several that the report names


@dataclasses.dataclass(frozen=True)
class Classifying(Evaluator):
    """Top-1, top-5 and mean accuracy per class; of samples with several classes mean precision.

    Which of the two it is the data says: batches with 'label' have one class a sample, those with
    'labels' several. Ties and scores that are no number count against the model.

    Attributes:
      method, words: by which the model scores classes, or looks at text and picture together.
      head: the method that then scores classes; '' where `method` does.
      classes: names in the order of the scores; empty takes those that the data brings, and
        numbers where it brings none.
      examples: samples that the report shows, those with the highest loss.

    Source: for several classes a sample, Everingham et al. 2010 (PASCAL VOC), section 4.2, with the
    area under the whole curve.
    """

    method: str = "classify"
    words: tuple[str, ...] = ("image",)
    head: str = ""
    classes: tuple[str, ...] = ()
    examples: int = 12

    @property
    def reads(self) -> tuple[str, ...]:
        """One class a sample, or several; `words` are looked at with the head."""
        return ("label|labels",)

    def __call__(self, context: Context) -> Result:
        """Scores every held-out sample.

        Returns:
          With one class a sample 'top1', 'top5' (of more than 5 classes) and 'mean_per_class', with
          several 'mean_average_precision', each with its chance; the numbers of 'classes' and
          'samples'.

        Raises:
          ValueError: no labels, or other classes than the head has scores.
        """
        view = View(self.method, self.words)
        judged = list(judge(context, view, self.head))
        scores = np.stack([one.scores for one in judged])
        if scores.ndim != 2:
            raise ValueError(f"{view} gives no scores of classes, but {scores.shape[1:]} a row.")
        names = self.classes or context.classes or tuple(map(str, range(scores.shape[1])))
        if len(names) != scores.shape[1]:
            raise ValueError(
                f"{len(names)} class names and scores of {scores.shape[1]} classes; set "
                "Classifying(classes=...) or the model's number of classes."
            )
        if "labels" in judged[0].words:
            return self._several(context, view, judged, scores, names)
        if "label" not in judged[0].words:
            raise ValueError(
                "Classifying needs batches with 'label' or 'labels'. Add Fields(label_from=...) to "
                "eval_data, or leave this evaluator out."
            )
        return self._single(context, view, judged, scores, names)

    def _single(
        self,
        context: Context,
        view: View,
        judged: list[Judged],
        scores: Float[np.ndarray, "samples classes"],
        names: tuple[str, ...],
    ) -> Result:
        labels = np.asarray([one.words["label"] for one in judged], np.int64)
        if labels.min() < 0 or labels.max() >= len(names):
            raise ValueError(
                f"Labels go from {labels.min()} to {labels.max()} and there are {len(names)} "
                f"classes, for 0 to {len(names) - 1}."
            )
        ranks = metrics.label_ranks(scores, labels)
        told = metrics.predictions(scores, labels)
        counts = metrics.confusion(labels, told, len(names))
        numbers = {
            f"top{k}{end}": value
            for k in (1, 5)
            if k < len(names)
            for end, value in (("", float(np.mean(ranks < k))), ("_chance", k / len(names)))
        }
        numbers["mean_per_class"] = metrics.mean_per_class(counts)
        numbers["mean_per_class_chance"] = 1.0 / len(names)
        numbers |= {"classes": float(len(names)), "samples": float(len(labels))}
        losses = metrics.cross_entropy(scores, labels)
        samples = [
            errors.Sample(
                one.position,
                float(loss),
                float(rank == 0),
                "",
                names[told],
                names[label],
                {"class": names[label]},
            )
            for one, loss, rank, told, label in zip(judged, losses, ranks, told, labels)
        ]
        made = errors.analysis(context, "classifying", view, samples, self.examples)
        return Result(numbers, {**made, **confusions(counts, names)})

    def _several(
        self,
        context: Context,
        view: View,
        judged: list[Judged],
        scores: Float[np.ndarray, "samples classes"],
        names: tuple[str, ...],
    ) -> Result:
        suits = np.stack([one.words["labels"] for one in judged]) > 0.5
        if suits.shape != scores.shape:
            raise ValueError(
                f"'labels' of {suits.shape[1]} classes and scores of {scores.shape[1]}; give both "
                "the same classes."
            )
        precision = metrics.average_precisions(scores, suits)
        occurring = np.flatnonzero(suits.any(axis=0))
        if not len(occurring):
            raise ValueError("no held-out sample is of any class; check eval_data's 'labels'.")
        numbers = {
            "mean_average_precision": float(np.mean(precision[occurring])),
            "mean_average_precision_chance": float(np.mean(suits[:, occurring])),
            "classes": float(len(names)),
            "samples": float(len(suits)),
        }
        samples = [
            self._of_several(one, row, own, names) for one, row, own in zip(judged, scores, suits)
        ]
        made = errors.analysis(context, "classifying", view, samples, self.examples)
        order = occurring[np.argsort(precision[occurring], kind="stable")][: errors.MOST_ROWS]
        made["tables"]["average precision of a class"] = [
            [names[n], int(suits[:, n].sum()), float(precision[n])] for n in order
        ]
        return Result(numbers, made)

    def _of_several(self, one: Judged, scores: Any, own: Any, names: Any) -> errors.Sample:
        chosen = np.flatnonzero(scores > 0)[:LIKELY]
        told = ", ".join(names[n] for n in chosen) or "none"
        right = ", ".join(names[n] for n in np.flatnonzero(own)[:LIKELY]) or "none"
        hit, loss, number = 0.0, float("inf"), int(own.sum())
        if np.isfinite(scores).all():
            hit = float(np.mean((scores > 0) == own))
            loss = float(np.logaddexp(0.0, np.where(own, -scores, scores)).sum())
        kinds = {"classes of a sample": str(number) if number < 6 else "6 and more"}
        return errors.Sample(one.position, loss, hit, "", told, right, kinds)
