"""The vocabulary of answers that a run chooses among: where it comes from, where it is kept."""

import pathlib
from typing import Any

from mmjax.config import ConfigError
from mmjax.data.answers import Answers
from mmjax.data.dataset import Dataset, Mixture, members_of
from mmjax.data.transforms.answers import AnswerScores
from mmjax.run.assembly import Parts, bind, needs
from mmjax.training.home import Home
from mmjax.training.manifest import write_atomic

__all__ = ["ANSWERS", "answers_of", "check_answers", "keep_answers", "with_answers"]

ANSWERS = "answers.json"  # in a workdir and in each checkpoint


def check_answers(parts: Parts, home: Home) -> None:
    """Raises ConfigError, before a device starts, where `with_answers` would."""
    asks = needs(parts, "answers") and not _named(parts)
    with_answers(parts, home.path(ANSWERS) if asks else pathlib.Path(ANSWERS))


def keep_answers(parts: Parts, folder: pathlib.Path) -> None:
    """Puts the vocabulary of the training data into the workdir, from where checkpoints take it.

    On process 0, once nothing can refuse the run any more. Others may read the file meanwhile.
    """
    found = [answers_of(stream.data) for stream in parts.streams.values()]
    used = next((answers for answers in found if answers is not None), None)
    if used is not None:
        write_atomic(folder / ANSWERS, used.to_json().encode())


def with_answers(parts: Parts, kept: pathlib.Path, own_first: bool = False) -> Parts:
    """The parts with their vocabulary in the transforms that wait for it.

    Args:
      parts: as assembled; their config's `answers.path` names the vocabulary.
      kept: the workdir's own copy, which serves where the config names none.
      own_first: whether that copy serves wherever it is there: the head was trained for it.

    Raises:
      ConfigError: no vocabulary, or one that does not fit the model's head.
    """
    path = "" if own_first and kept.exists() else _named(parts)
    if needs(parts, "answers"):
        if not path and not kept.exists():
            raise ConfigError(
                "answers.path='': the data's AnswerScores wait for a vocabulary. Make one with "
                "'mmjax answers' and name it, or give AnswerScores(answers=spec(Answers, ...))."
            )
        try:
            parts = bind(parts, "answers", Answers.read(path or kept))
        except (OSError, ValueError) as error:
            raise ConfigError(f"answers.path={path!r}: {error}") from None
    _check(parts)
    return parts


def _named(parts: Parts) -> str:
    """The vocabulary's file by the config, '' where it names none."""
    return parts.settings.get("answers", {}).get("path", "")


def answers_of(data: Dataset | Mixture | None) -> Answers | None:
    """The vocabulary that data is scored by, or None."""
    members = members_of(data) if data is not None else ()
    found = (t for member in members for t in member.transforms if _scores(t))
    return next((transform.answers for transform in found), None)


def _scores(transform: Any) -> bool:
    return isinstance(transform, AnswerScores)


def _check(parts: Parts) -> None:
    """Raises ConfigError where vocabularies differ from each other or from the model's head."""
    data = {name: stream.data for name, stream in parts.streams.items()}
    held_out = {f"eval_data{name and '.'}{name}": one for name, one in parts.eval_data.items()}
    found = {name: answers_of(one) for name, one in {**data, **held_out}.items()}
    found = {name: answers for name, answers in found.items() if answers is not None}
    if len({answers.names for answers in found.values()}) > 1:
        sizes = ", ".join(f"{name}: {len(answers)}" for name, answers in found.items())
        raise ConfigError(f"the data's vocabularies of answers differ ({sizes}); give all one.")
    heads = getattr(parts.recipe.model, "heads", ())
    size = getattr(parts.recipe.model, "answers", None)
    for name, answers in found.items():
        if "answer" in heads and isinstance(size, int) and size != len(answers):
            raise ConfigError(
                f"{name} has {len(answers)} answers and the model's head {size}; set "
                f"model.answers={len(answers)}, or give the vocabulary that the head was made for."
            )
