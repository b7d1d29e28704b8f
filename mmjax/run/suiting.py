"""Whether model and data have what an evaluator asks them for; told before anything compiles."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmjax.evaluation.base import Evaluator


def check_evaluators(
    evaluators: Mapping[str, Evaluator],
    model: Any,
    words: Iterable[str],
    facts: Mapping[str, Any],
    answers: Sequence[str],
) -> None:
    """Refuses evaluators that could not give a number.

    Args:
      evaluators: by name.
      model: of the run.
      words: of a held-out batch.
      facts: of a held-out sample, see `Context`.
      answers: the vocabulary of the held-out data, or none.

    Raises:
      ValueError: which evaluator, what is missing, and what to do.
    """
    for name, evaluator in evaluators.items():
        try:
            _check_head(evaluator, model, set(words))
            evaluator.check(facts, answers)
        except ValueError as error:
            raise ValueError(f"evaluators.{name}: {error}") from error


def _check_head(evaluator: Any, model: Any, words: set[str]) -> None:
    """Raises ValueError where an evaluator of a head names what model or data do not have."""
    if not hasattr(evaluator, "head"):
        return
    for option in ("method", "head"):
        wanted = getattr(evaluator, option)
        if wanted and not hasattr(type(model), wanted):
            raise ValueError(
                f"{option}={wanted!r}: {type(model).__name__} has no method of this name."
            )
    heads = getattr(model, "heads", None)
    named = evaluator.head.rpartition("_")[0]  # 'answer_logits' is of the head 'answer'
    if heads is not None and named and named not in heads:
        raise ValueError(
            f"head={evaluator.head!r} needs the head {named!r}, and the model has heads={heads}; "
            "add it, or leave this evaluator out."
        )
    missing = [word for word in evaluator.words if word not in words]
    if missing:
        raise ValueError(
            f"words={tuple(evaluator.words)}: eval_data gives no {missing[0]!r}, only "
            f"{', '.join(sorted(words))}."
        )
