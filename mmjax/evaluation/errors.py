"""What went wrong, for people: rates by kind of sample, and the worst samples with their pictures.

The evaluators of answers, statements, matching and classes all end here; `report_errors` draws it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mmjax.evaluation import pictures
from mmjax.evaluation.base import Context, real
from mmjax.typing import View

__all__ = ["Sample", "analysis", "length_kind", "table", "told_kinds", "worst"]

SIDE = 160  # of the pictures, in pixels
MOST_ROWS = 24  # of a table
MOST_CELLS = 1024
MOST_BOXES = 10
WHOLE = 0.98  # a place as large as this is the picture itself
LENGTHS = (4, 8, 12, 16, 24)


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sample and what the model made of it.

    Attributes:
      position: its place in the held-out data.
      loss: how bad it was; what is not finite is the worst.
      hit: what its answer was worth, 0 to 1.
      text: the question, statement or caption.
      told: what the model said.
      right: what it should have said.
      kinds: {a way to sort samples: this sample's kind}.
      other: position of a second picture, or None.
    """

    position: int
    loss: float
    hit: float
    text: str
    told: str
    right: str
    kinds: dict[str, str]
    other: int | None = None


def length_kind(text: str) -> str:
    """'5 to 8 words' and the like."""
    words, low = len(text.split()), 1
    for high in LENGTHS:
        if words <= high:
            return f"{low} to {high} words"
        low = high + 1
    return f"{low} words and more"


def told_kinds(facts: dict[str, Any], names: Sequence[str], text: str) -> dict[str, str]:
    """A sample's kinds: those of its facts that are asked for and there, and its text's length."""
    kinds = {name: pictures.shorten(str(facts[name])) for name in names if name in facts}
    return {**kinds, "text length": length_kind(text)} if text else kinds


def table(samples: Sequence[Sample], name: str, most: int | None = None) -> list[list[Any]]:
    """[kind, number of samples, mean hit] by a way to sort samples, the most frequent first.

    Args:
      samples: that were judged.
      name: of the way to sort them.
      most: kinds that are told; None tells all.
    """
    found: dict[str, list[float]] = {}
    for sample in samples:
        if name in sample.kinds:
            found.setdefault(sample.kinds[name], []).append(sample.hit)
    order = sorted(found, key=lambda kind: (-len(found[kind]), kind))[:most]
    if name == "text length":
        order.sort(key=lambda kind: int(kind.split()[0]))
    return [[kind, len(found[kind]), float(np.mean(found[kind]))] for kind in order]


def worst(samples: Sequence[Sample], count: int) -> list[Sample]:
    """The samples with the highest loss, the worst first; of those that are not wholly right."""
    wrong = [sample for sample in samples if sample.hit < 1]
    bad = {id(sample): sample.loss if np.isfinite(sample.loss) else np.inf for sample in wrong}
    return sorted(wrong, key=lambda sample: (-bad[id(sample)], sample.position))[:count]


def analysis(
    context: Context, kind: str, view: View, samples: Sequence[Sample], count: int, note: str = ""
) -> dict[str, Any]:
    """The artifact: tables by kind, and the worst samples with pictures and attention.

    Args:
      context: of the evaluator.
      kind: of the artifact, as the report knows it.
      view: by which the model looked; asked again for the attention of the worst samples.
      samples: all of them.
      count: how many of the worst are shown.
      note: one more sentence for the report.
    """
    names = list(dict.fromkeys(name for sample in samples for name in sample.kinds))
    shown = worst(samples, count)
    looks = _looks(context, view, [sample.position for sample in shown])
    shots, sides = _pictures(context, shown)
    return {
        "kind": kind,
        "note": note,
        "samples": len(samples),
        "tables": {name: table(samples, name, MOST_ROWS) for name in names},
        "worst": [
            {
                "position": sample.position,
                "loss": sample.loss,
                "hit": sample.hit,
                "text": pictures.shorten(sample.text),
                "told": pictures.shorten(sample.told),
                "right": pictures.shorten(sample.right),
                "kinds": list(sample.kinds.values()),
                "other": sample.other,
                "look": looks.get(sample.position),
            }
            for sample in shown
        ],
        "thumbnails": shots,
        "sides": sides,
    }


def _pictures(
    context: Context, shown: Sequence[Sample]
) -> tuple[dict[str, str], dict[str, list[int]]]:
    """{position: thumbnail} and {position: [width, height]} of the samples and their others."""
    positions = {sample.position for sample in shown}
    positions |= {sample.other for sample in shown if sample.other is not None}
    shots, sides = {}, {}
    for position in sorted(positions):
        image = context.sample(position).get("image")
        if image is not None:
            shots[str(position)] = pictures.thumbnail(image, SIDE)
            sides[str(position)] = [image.shape[1], image.shape[0]]
    return shots, sides


def _looks(context: Context, view: View, positions: list[int]) -> dict[int, dict[str, Any]]:
    """{position: where its text looked}; empty where the model cannot tell."""
    if context.attention is None or context.chosen is None or not positions:
        return {}
    found = {}
    for batch in context.chosen(positions):
        told = context.attention(view, batch)
        if told is None:
            return {}
        values, boxes = told
        for row in np.flatnonzero(real(batch)).tolist():
            look = _look(values[row], boxes[row])
            if look is not None:
                found[int(batch["position"][row])] = look
    return found


def _look(
    values: Float[np.ndarray, " places"], boxes: Float[np.ndarray, "places four"]
) -> dict[str, Any] | None:
    """Boxes with values from the least (0) to the most (1) that is looked at, and how many times
    the mean the most is; None where nothing of the picture was seen."""
    sizes = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)
    inside = (sizes > 0) & (sizes < WHOLE) & np.isfinite(values) & (values > 0)
    values, boxes, sizes = values[inside], boxes[inside], sizes[inside]
    if not len(values):
        return None
    apart = sizes.sum() < 1.02 and np.ptp(sizes) < 1e-3  # a grid's cells do not overlap
    order = np.argsort(-values, kind="stable")[: MOST_CELLS if apart else MOST_BOXES]
    low, high = float(values.min()), float(values.max())
    shares = (values[order] - low) / max(high - low, 1e-6 * high)
    return {
        "form": "cells" if apart else "boxes",
        "most": high / float(values.mean()),
        "places": np.round(np.c_[boxes[order], shares].astype(np.float64), 3),
    }
