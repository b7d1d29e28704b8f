"""Classification by names alone: each class is the mean of a few sentences about it."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mmjax.evaluation import pictures
from mmjax.evaluation.base import Context, Evaluator, Result, unit
from mmjax.evaluation.confusions import confusions
from mmjax.evaluation.metrics import classification as metrics
from mmjax.evaluation.templates import PICTURE, check, fill
from mmjax.typing import View

TEXTS_AT_ONCE = 8192


@dataclasses.dataclass(frozen=True)
class ZeroShot(Evaluator):
    """Zero-shot top-1, top-5 and mean-per-class accuracy with an ensemble of templates.

    Every text is brought to unit length, averaged over templates, and brought to unit length
    again. Ties count against the model.

    Attributes:
      classes: class names in the order of the data's `label`; empty takes the names that the data
        brings.
      templates: sentences with {} where the name goes.
      image_method, image_words: how pictures are encoded.
      examples: samples the report shows with their three likeliest classes.

    Source: Radford et al. 2021, arXiv:2103.00020, section 3.1.4 (prompt ensembling).
    """

    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = PICTURE
    image_method: str = "encode_image"
    image_words: tuple[str, ...] = ("image",)
    examples: int = 12

    def __post_init__(self) -> None:
        check(self.templates)

    @property
    def reads(self) -> tuple[str, ...]:
        """What is encoded, and the class."""
        return (*self.image_words, "label")

    def __call__(self, context: Context) -> Result:
        """Scores every labelled held-out sample against every class.

        Returns:
          'top1', 'top5' (where there are more than 5 classes) and 'mean_per_class', each with its
          chance, and the numbers of 'classes' and 'samples'.

        Raises:
          ValueError: fewer than two class names, no labels, or a label without a name.
        """
        names = self.classes or context.classes
        if len(names) < 2:
            raise ValueError(
                f"Zero-shot classification needs at least 2 class names and has {len(names)}. Set "
                "ZeroShot(classes=...), or use data that knows its classes."
            )
        view = View(self.image_method, self.image_words)
        held = context.encode(view)
        labels = _checked(held.labels, names)
        classes = class_embeddings(context, names, self.templates)
        scores = held.embeddings[view] @ classes.T  # → [samples, classes]
        ranks = metrics.label_ranks(scores, labels)
        counts = metrics.confusion(labels, metrics.predictions(scores, labels), len(names))
        numbers = {
            f"top{k}{end}": value
            for k in (1, 5)
            if k < len(names)
            for end, value in (("", float(np.mean(ranks < k))), ("_chance", k / len(names)))
        }
        numbers["mean_per_class"] = metrics.mean_per_class(counts)
        numbers["mean_per_class_chance"] = 1.0 / len(names)
        numbers["classes"] = float(len(names))
        numbers["samples"] = float(len(labels))
        shown = pictures.spread(len(labels), self.examples)
        artifact = {
            "kind": "zero_shot",
            "templates": list(self.templates),
            **confusions(counts, names),
            "examples": [
                _example(int(held.positions[i]), int(labels[i]), scores[i], bool(ranks[i] == 0))
                for i in shown
            ],
            "thumbnails": pictures.thumbnails(context, held.positions[shown].tolist()),
        }
        return Result(numbers, artifact)


def class_embeddings(
    context: Context, names: tuple[str, ...], sentences: tuple[str, ...]
) -> Float[np.ndarray, "classes dim"]:
    """One unit vector a class: each text at unit length, mean over templates, unit length again."""
    at_once = max(1, TEXTS_AT_ONCE // len(sentences))
    parts = []
    for start in range(0, len(names), at_once):
        some = names[start : start + at_once]
        texts = [fill(sentence, name) for name in some for sentence in sentences]
        encoded = unit(np.asarray(context.encode_texts(texts), dtype=np.float32))
        grouped = encoded.reshape(len(some), len(sentences), -1)  # → [classes, templates, dim]
        parts.append(unit(grouped.mean(axis=1)))
    return np.concatenate(parts)


def _checked(labels: np.ndarray | None, names: tuple[str, ...]) -> Int[np.ndarray, " samples"]:
    if labels is None:
        raise ValueError(
            "Zero-shot classification needs batches with 'label'. Add Fields(label_from=...) to "
            "eval_data, or leave this evaluator out."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(names):
        raise ValueError(
            f"Labels go from {low} to {high} and there are {len(names)} class names, for 0 to "
            f"{len(names) - 1}. Give one name a label, in their order."
        )
    return labels


def _example(
    position: int, label: int, scores: Float[np.ndarray, " classes"], right: bool
) -> dict[str, Any]:
    order = np.argsort(-scores, kind="stable")[:3]
    return {
        "position": position,
        "label": label,
        "right": right,
        "likeliest": [[int(place), round(float(scores[place]), 4)] for place in order],
    }
