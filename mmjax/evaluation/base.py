"""What an evaluator is given, what it gives back, and the one pass over held-out data they share.

An evaluator sees neither model, parameters, mesh nor files: `run.py` fills in a `Context` of plain
callables, once for the raw parameters and once for the moving average, and writes what comes back.
Every callable is collective: all processes call it in the same order and get equal host arrays, so
an evaluator's numbers are equal on all processes by construction.
"""

import abc
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from mmjax.evaluation.report_read import RESULTS
from mmjax.typing import Batch, Encoded, View

IMAGE = View("encode_image", ("image",))


@dataclasses.dataclass(frozen=True)
class Held:
    """The held-out samples of one pass: padding left out, each sample once, in data order.

    Attributes:
      embeddings: {view: unit float32 [samples, dim]}.
      positions: [samples] int64, what `Context.captions` and `Context.sample` take.
      groups: [samples] int64 group identity, or None where batches carry no `group`.
      labels: [samples] int64 class numbers, or None where batches carry no `label`.
    """

    embeddings: dict[View, np.ndarray]
    positions: np.ndarray
    groups: np.ndarray | None
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.positions)


@dataclasses.dataclass(frozen=True)
class Context:
    """What an evaluator may use; made by `run.py` for one set of parameters.

    Attributes:
      apply: runs `view.method` on one padded global batch (jitted, sharded) without training
        behaviour; only `embedding` has to be set, as a host float32 array of all global rows.
      batches: one pass over the held-out data. Every batch has the same static shape and the last
        is filled up with rows whose `valid` is False. Host arrays of the GLOBAL rows: `valid`,
        `position` (int, the sample's place in the held-out data), and `group`, `label` and `labels`
        where the data has them. Other words are opaque here and may be device arrays; `apply`,
        `loss`, `scores` and `attention` read them.
      captions: position -> all captions of that sample, read without decoding its picture.
      sample: position -> {'image': uint8 [height, width, 3], 'captions': tuple of str} for
        artifacts; 'image' is absent where the data has no pictures.
      encode_texts: any list of texts -> unit float32 [texts, dim], tokenised and encoded in padded
        static batches.
      loss: one padded batch -> {name: (total, count)} of every objective and its metrics, padding
        rows left out, summed over devices; names like 'contrastive', 'contrastive/accuracy'.
      classes: class names in the order of `label`, where the data knows them.
      facts: position -> what is known of that sample without decoding its picture: 'captions',
        'answers', 'truth', 'label', and what Fields(facts_from=...) names, by its name.
      scores: (how the model looks at text and picture together, one of its heads' methods, one
        padded batch) -> the head's scores of all global rows, host float32. Without a head's name,
        '', what the view's method gives is taken for scores.
      answers: the vocabulary in the order of the 'answer' head's scores, where the data has one.
      chosen: (positions, others, words) -> batches as of `batches`, of the samples at these
        positions in their order; where `words` are named, with these words of the samples at the
        positions `others` in place of their own, valid where both are.
      attention: (how the model looks at both, one padded batch) -> how much each text looks at each
        place of its picture, 0 to 1, [rows, places], and where the places are, x1, y1, x2, y2 as
        parts of the picture's sides, [rows, places, 4]; None where the model cannot tell.
    """

    apply: Callable[[View, Batch], Encoded]
    batches: Callable[[], Iterator[Batch]]
    captions: Callable[[int], tuple[str, ...]]
    sample: Callable[[int], dict[str, Any]]
    encode_texts: Callable[[Sequence[str]], np.ndarray]
    loss: Callable[[Batch], dict[str, tuple[float, float]]]
    classes: tuple[str, ...] = ()
    facts: Callable[[int], dict[str, Any]] = lambda _: {}
    scores: Callable[[View, str, Batch], np.ndarray] | None = None
    answers: tuple[str, ...] = ()
    chosen: Callable[..., Iterator[Batch]] | None = None
    attention: Callable[[View, Batch], tuple[np.ndarray, np.ndarray] | None] | None = None
    passes: dict[View, Held] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def encode(self, *views: View) -> Held:
        """Encodes the held-out data by each view, in one pass, once a context.

        Zero-shot classification and retrieval ask for the same pictures, so what was encoded is
        kept as long as the context lives.

        Args:
          views: which method of the model reads which words of the batch.

        Returns:
          The held-out samples with one array of embeddings a view.

        Raises:
          ValueError: no valid row in the data, or words missing from a batch.
        """
        missing = tuple(view for view in dict.fromkeys(views) if view not in self.passes)
        if missing:
            held = _one_pass(self, missing)
            for view in missing:
                self.passes[view] = held
        first = self.passes[views[0]]
        return dataclasses.replace(
            first, embeddings={view: self.passes[view].embeddings[view] for view in views}
        )


@dataclasses.dataclass(frozen=True)
class Result:
    """What an evaluator found.

    Attributes:
      metrics: flat numbers, e.g. 'text_to_image/R@1'. Rates are fractions, 0 to 1. The number that
        chance gives stands beside as '<name>_chance'.
      artifact: what the report draws, JSON-able, small; 'kind' says how to draw it.
      results: JSON-able content of a file of its own, in a layout that others read, or None.
    """

    metrics: dict[str, float]
    artifact: dict[str, Any]
    results: Any = None


class Evaluator(abc.ABC):
    """Parameters and held-out data -> numbers and pictures.

    A concrete one is a frozen dataclass of plain options. Perfect embeddings score 1; constant,
    random or non-finite embeddings score chance or less.
    """

    @property
    def reads(self) -> tuple[str, ...]:
        """Words of a held-out batch that it cannot do without; 'a|b' is one of two."""
        return ()

    def check(self, facts: Mapping[str, Any], answers: Sequence[str]) -> None:
        """Refuses data that it could not score, before anything is compiled.

        Args:
          facts: of a held-out sample, as `Context.facts` gives them.
          answers: as in `Context`.

        Raises:
          ValueError: what is missing and how to give it.
        """
        del facts, answers

    @abc.abstractmethod
    def __call__(self, context: Context) -> Result:
        """Evaluates; called on all processes at the same step."""


def real(batch: Batch) -> Bool[np.ndarray, " batch"]:
    """True for the rows of a batch that hold a sample, False for filling.

    Raises:
      ValueError: the batch does not say which rows are real.
    """
    for word in ("valid", "position"):
        if word not in batch:
            raise ValueError(
                f"An evaluation batch needs {word!r} and has {', '.join(sorted(batch))}. "
                "It is set by the evaluation pipeline."
            )
    return np.asarray(batch["valid"], dtype=bool)


def write_artifact(workdir: str | os.PathLike[str], step: int, name: str, result: Result) -> None:
    """Writes `evaluations/<step>/<name>.json` for the report, atomically; on one process only.

    What the evaluator gives as results goes into `<name>.results.json` beside it.

    Args:
      workdir: the run's folder.
      step: training step of the parameters.
      name: the evaluator's name as in the metrics, e.g. 'retrieval' or 'ema/retrieval'.
      result: what the evaluator returned. Numbers that JSON does not know become null.
    """
    path = pathlib.Path(workdir) / "evaluations" / str(step) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**result.artifact, "name": name, "step": step, "metrics": result.metrics}
    _write(path, content)
    if result.results is not None:
        _write(path.with_name(f"{path.stem}{RESULTS}"), result.results)


def _write(path: pathlib.Path, content: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(_plain(content), allow_nan=False), encoding="utf-8")
    partial.replace(path)


def _one_pass(context: Context, views: tuple[View, ...]) -> Held:
    chosen: dict[View, list[np.ndarray]] = {view: [] for view in views}
    words: dict[str, list[np.ndarray]] = {"position": [], "group": [], "label": []}
    seen: set[int] = set()
    for batch in context.batches():
        rows = []
        for row in np.flatnonzero(real(batch)):
            position = int(batch["position"][row])
            if position not in seen:  # a replaced or repeated sample counts once
                seen.add(position)
                rows.append(row)
        rows = np.asarray(rows, dtype=np.int64)
        for view in views:  # every batch, even one of filling alone: the call is collective
            embedding = np.asarray(context.apply(view, batch).embedding, dtype=np.float32)
            chosen[view].append(embedding[rows])
        for word, parts in words.items():
            if word in batch:
                parts.append(np.asarray(batch[word])[rows])
    if not seen:
        raise ValueError("The held-out data gave no valid row. Check eval_data's path and fields.")
    positions = np.concatenate(words["position"]).astype(np.int64)
    groups = np.concatenate(words["group"]) if words["group"] else None
    labels = np.concatenate(words["label"]).astype(np.int64) if words["label"] else None
    return Held(
        embeddings={view: np.concatenate(parts) for view, parts in chosen.items()},
        positions=positions,
        groups=None if groups is None else joined(groups),
        labels=labels,
    )


def joined(words: np.ndarray) -> np.ndarray:
    """[samples, two] 32-bit words -> [samples] int64; one-word groups stay as they are."""
    if words.ndim == 1:
        return words.astype(np.int64)
    high, low = words[:, 0].astype(np.int64), words[:, 1].astype(np.int64)
    return (high << 32) | (low & 0xFFFFFFFF)


def unit(vectors: Float[np.ndarray, "... dim"]) -> Float[np.ndarray, "... dim"]:
    """Vectors at unit length; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, np.finfo(np.float32).tiny)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
