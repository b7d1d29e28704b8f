"""Whether model and data have what an evaluator asks them for; told before anything compiles."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmjax.config import ConfigError
from mmjax.evaluation.base import Evaluator
from mmjax.evaluation.objectives import Objectives
from mmjax.run.console import say
from mmjax.training.step import Recipe

FIELDS = ("group", "label")  # words that an option of `Fields` brings


def check_evaluators(
    evaluators: Mapping[str, Any],
    model: Any,
    words: Iterable[str],
    facts: Mapping[str, Any],
    answers: Sequence[str],
    goals: Iterable[str] = (),
) -> None:
    """Refuses evaluators that could not give a number.

    Args:
      evaluators: by name.
      model: of the run.
      words: of a held-out batch.
      facts: of a held-out sample, see `Context`.
      answers: the vocabulary of the held-out data, or none.
      goals: that the held-out data can score.

    Raises:
      ValueError: which evaluator, what is missing, and what to do.
    """
    for name, evaluator in evaluators.items():
        check_kind(f"evaluators.{name}", evaluator, Evaluator)
        try:
            _check_encoders(evaluator, model)
            _check_words(evaluator, set(words))
            _check_head(evaluator, model, set(words))
            _check_goals(evaluator, goals)
            evaluator.check(facts, answers)
        except ValueError as error:
            raise ValueError(f"evaluators.{name}: {error}") from error


def check_kind(where: str, value: Any, kind: type) -> None:
    """Raises ConfigError where a class of one's own, or of another library, is not of a kind."""
    if not isinstance(value, kind):
        home = f"{kind.__module__.replace('.', '/')}.py"
        raise ConfigError(
            f"{where} is {type(value).__name__}, no {kind.__name__}; make it one ({home})."
        )


def _check_goals(evaluator: Any, goals: Iterable[str]) -> None:
    """Raises ValueError where an evaluator is to tell of a goal that is not scored."""
    for goal in evaluator.goals if isinstance(evaluator, Objectives) else ():
        if goal not in goals:
            raise ValueError(
                f"goals={evaluator.goals!r}: eval_data score no {goal!r}; they score "
                f"{', '.join(goals) or 'none'}."
            )


def _check_encoders(evaluator: Any, model: Any) -> None:
    """Raises ValueError where an evaluator encodes by a method that the model does not have."""
    for option in ("image_method", "text_method"):
        wanted = getattr(evaluator, option, None)
        if wanted and not hasattr(type(model), wanted):
            raise ValueError(
                f"{option}={wanted!r}: {type(model).__name__} has no method of this name."
            )


def _check_words(evaluator: Evaluator, words: set[str]) -> None:
    """Raises ValueError where held-out batches lack a word that an evaluator reads."""
    for wanted in evaluator.reads:
        if not words & set(wanted.split("|")):
            told = " or ".join(map(repr, wanted.split("|")))
            first = wanted.split("|")[0]
            how = f" Set eval_data.fields.{first}_from, or" if first in FIELDS else ""
            raise ValueError(
                f"needs batches with {told}, and eval_data gives only {', '.join(sorted(words))}."
                f"{how or ' Correct the word, or'} leave this evaluator out."
            )


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


def scored(recipe: Recipe, words: Iterable[str], where: str) -> Recipe:
    """The recipe with those goals that held-out data can score; says which they cannot.

    Args:
      recipe: of the run.
      words: of a held-out batch.
      where: what the data is called in the config.
    """
    words = set(words)
    lacking = {
        name: [word for word in goal.objective.needs if word not in words]
        for name, goal in recipe.goals.items()
    }
    if left_out := {name: found for name, found in lacking.items() if found}:
        told = "; ".join(f"{name} ({', '.join(found)})" for name, found in left_out.items())
        say(f"{where}: goals that lack a word there are not scored: {told}.")
    goals = {name: goal for name, goal in recipe.goals.items() if not lacking[name]}
    return dataclasses.replace(recipe, goals=goals)
