"""Pictures with a list of questions each, flattened to one question a record."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmjax.data.sources import patterns
from mmjax.data.sources.base import BadSample, Record, Source, digest
from mmjax.data.sources.folder import PICTURES
from mmjax.data.sources.webdataset import WebDataset

__all__ = ["QuestionLists", "types_of"]

SPLITS = ("train", "held_out")
PER_PICTURE = 1000  # question numbers that a picture's questions have to themselves


def types_of(question: str, answer: str) -> tuple[str, str]:
    """(question type, answer type) by the words, where the data do not tell them.

    Args:
      question: as asked.
      answer: the right one.

    Returns:
      The first is 'yes/no', 'number', 'colour', 'shape' or 'other', the second 'yes/no', 'number'
      or 'other'.
    """
    if answer.lower() in ("yes", "no"):
        return "yes/no", "yes/no"
    if answer.isdigit():
        return "number", "number"
    words = question.lower().replace("?", " ").split()
    if {"color", "colour", "colors", "colours"} & set(words):
        return "colour", "other"
    return ("shape" if "shape" in words else "other"), "other"


class QuestionLists(Source):
    """One record a question, of shards whose samples are a picture and 'json' with its questions.

    'json' holds {"image_id": number, "qa": [[question, answer], ...]}, where an answer is a text or
    a list of texts; of a list all texts together, with ', ' between them, are the one answer
    (DAQUAR). A record holds the picture under its extension, 'question', 'answers' (a list of the
    one), 'question_type' and 'answer_type' (see `types_of`), 'question_id' (1000 times the
    picture's number, plus the question's place) and 'image_id'.

    Licence and source: those of the shards.

    Args:
      path: one pattern of `.tar` shards or several.
      split: 'train': the pictures but for the last; 'held_out': the last, by 'image_id'.
      held_out: how many pictures are the last.

    Raises:
      ValueError: shards without such a 'json', two pictures of one number, no question left.
      FileNotFoundError: no such shards.
    """

    def __init__(self, path: str | tuple[str, ...], split: str = "train", held_out: int = 0):
        if split not in SPLITS:
            raise ValueError(f"split={split!r}; it is one of {', '.join(SPLITS)}.")
        shards = patterns.split(path) if isinstance(path, str) else path
        lists = WebDataset(shards, members=("json",))
        counts: dict[int, tuple[int, int]] = {}
        for place in range(len(lists)):
            try:
                image_id, asked = _parse(lists[place])
            except BadSample as error:
                raise ValueError(f"the questions cannot be read: {error}") from None
            if image_id in counts:
                raise ValueError(f"{path!r} holds two pictures with image_id {image_id}.")
            counts[image_id] = (place, len(asked))
        if not 0 <= held_out < len(counts):
            raise ValueError(
                f"held_out={held_out}; of {len(counts):,} pictures one at least is to train on."
            )
        first = len(counts) - held_out
        order = sorted(counts)[:first] if split == "train" else sorted(counts)[first:]
        found = [(*counts[one], one) for one in order]
        if not sum(count for _, count, _ in found):
            raise ValueError(f"{path!r}: split={split!r} with held_out={held_out} has no question.")
        self._shards = shards
        self._pictures = WebDataset(shards, members=(";".join(PICTURES), "json"))
        self._places = np.array([place for place, _, _ in found], np.int64)
        self._ends = np.cumsum([count for _, count, _ in found])
        self._split, self._held_out = split, held_out

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, position: int) -> Record:
        if not 0 <= position < len(self):
            raise IndexError(f"Question {position} of {len(self):,} was asked for.")
        picture = int(np.searchsorted(self._ends, position, side="right"))
        number = position - int(self._ends[picture - 1] if picture else 0)
        record = self._pictures[int(self._places[picture])]
        image_id, asked = _parse(record)
        del record["json"]
        question, answer = asked[number]
        kind, answer_kind = types_of(question, answer)
        return {
            **record,
            "__key__": f"{record['__key__']}-{number}",
            "question": question,
            "answers": [answer],
            "question_type": kind,
            "answer_type": answer_kind,
            "question_id": image_id * PER_PICTURE + number,
            "image_id": image_id,
        }

    def answers(self) -> Iterator[list[str]]:
        """The answers to each question in order; no picture is read."""
        lists = WebDataset(self._shards, members=("json",))
        for place in self._places.tolist():
            for _, answer in _parse(lists[place])[1]:
                yield [answer]

    def fingerprint(self) -> str:
        own = [self._split, self._held_out, len(self)]
        return digest(["question lists", self._pictures.fingerprint(), *own])

    def describe(self) -> str:
        return f"{len(self):,} questions about {len(self._places):,} pictures ({self._split})"


def _parse(record: Record) -> tuple[int, list[tuple[str, str]]]:
    """(number of the picture, its questions with their answers) of a sample."""
    where = f"{record.get('__shard__', '')}: {record['__key__']}.json"
    try:
        value = json.loads(record["json"])
        image_id, asked = int(value["image_id"]), [_one(*pair) for pair in value["qa"]]
    except KeyError as error:
        raise BadSample("missing", f"{where}: no {error}; it holds image_id and qa.") from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadSample(
            "format", f"{where} is not {{image_id, qa: [[question, answer]]}}: {error}"
        ) from None
    if len(asked) > PER_PICTURE:
        raise BadSample("format", f"{where}: {len(asked)} questions; {PER_PICTURE} are allowed.")
    return image_id, asked


def _one(question: Any, answer: Any) -> tuple[str, str]:
    texts = answer if isinstance(answer, list) else [answer]
    if not texts or not all(isinstance(text, str) for text in (question, *texts)):
        raise ValueError(f"{question!r} has the answer {answer!r}")
    return question, ", ".join(texts)
