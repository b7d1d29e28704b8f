"""VQA v2, and whatever else comes in the layout of its official files."""

import json
import os
import re
from collections.abc import Iterable
from typing import Any

from mmjax.data.sources import patterns
from mmjax.data.sources.base import Record, Source, digest
from mmjax.data.sources.named import NamedPictures, some
from mmjax.data.sources.packed import PackedRows

__all__ = ["VQA", "read_annotations"]

_NUMBER = re.compile(r"(\d{1,18})$")


class VQA(Source):
    """One question a record, of VQA v2's official JSON files and a place with the pictures.

    A record holds the picture under its extension, 'question', 'question_id', 'image_id', and where
    there are annotations 'answers' (a list of all that were given: ten for VQA v2, one for DAQUAR),
    'multiple_choice_answer', 'question_type' and 'answer_type' ('yes/no', 'number', 'other').
    Without annotations (a test split) the record serves for prediction.

    Licence: annotations CC-BY-4.0 (Goyal et al. 2017, "Making the V in VQA Matter"); the pictures
    are COCO's, each with its own. Source of the data: visualqa.org and cocodataset.org, got by the
    user.

    Args:
      questions: the questions file, such as 'v2_OpenEnded_mscoco_train2014_questions.json'.
      pictures: a folder or `.tar` shards. A picture's number is what its name ends with:
        'COCO_train2014_000000000009.jpg', '000000000009.jpg' and 'image9.jpg' are all number 9.
      annotations: the annotations file, '' for none.

    Raises:
      ValueError: files of another layout, questions without a picture, annotations and questions
        that do not match; names the first few numbers.
      FileNotFoundError: a file or folder that is not there.
    """

    def __init__(self, questions: str, pictures: str | tuple[str, ...], annotations: str = ""):
        asked = _by_id(_entries(questions, "questions", ("image_id", "question")), questions)
        if not asked:
            raise ValueError(f"{questions} holds no questions.")
        answers = {}
        if annotations:
            answers = _by_id(read_annotations(annotations), annotations)
            _match(asked, answers, questions, annotations)
        self._pictures = NamedPictures(pictures)
        found = self._find({row["image_id"] for row in asked.values()}, questions, pictures)
        self._rows = PackedRows(
            {
                "at": found[row["image_id"]],
                "question": row["question"],
                "question_id": number,
                "image_id": row["image_id"],
                **_answered(answers.get(number)),
            }
            for number, row in asked.items()
        )
        self._name = os.path.basename(questions)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> Record:
        row = self._rows[position]
        extension, content, where = self._pictures.read(row.pop("at"))
        return {"__key__": str(row["question_id"]), **where, extension: content, **row}

    def fingerprint(self) -> str:
        return digest(["VQA", len(self), self._rows.checksum, self._pictures.fingerprint()])

    def describe(self) -> str:
        without = "" if "answers" in self._rows[0] else ", without answers"
        return f"{self._name}, {len(self):,} questions{without}"

    def _find(self, wanted: set[int], questions: str, pictures: Any) -> dict[int, int]:
        """{number of a picture: its position} of all pictures that are asked about."""
        found: dict[int, int] = {}
        for position in range(len(self._pictures)):
            ending = _NUMBER.search(self._pictures.name(position))
            number = int(ending[1]) if ending else None
            if number not in wanted:
                continue
            if number in found:
                names = (self._pictures.name(p) for p in (found[number], position))
                raise ValueError(
                    f"{pictures!r} has two pictures number {number}, {' and '.join(names)}; give "
                    "the place of one split."
                )
            found[number] = position
        if missing := wanted - found.keys():
            raise ValueError(
                f"{questions}: {len(missing):,} of {len(wanted):,} pictures are not in "
                f"{pictures!r}, such as number {some(missing)}. Get them, or give the pictures of "
                "the questions' own split."
            )
        return found


def read_annotations(path: str) -> list[dict[str, Any]]:
    """The entries of an annotations file, each with question_id, image_id and answers.

    Raises:
      ValueError: another layout.
      FileNotFoundError: no such file.
    """
    entries = _entries(path, "annotations", ("image_id", "answers"))
    for entry in entries:
        given = entry["answers"]
        texts = [one.get("answer") for one in given if isinstance(one, dict)]
        if not texts or len(texts) < len(given) or not all(isinstance(t, str) for t in texts):
            raise ValueError(
                f"{path}: the answers to question {entry['question_id']} are no list of "
                f"{{'answer': text}}: {str(given)[:80]}."
            )
    return entries


def _entries(path: str, what: str, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The list under a name in one of the official files."""
    patterns.refuse_address(path)
    with open(os.path.expanduser(path), encoding="utf-8") as file:
        try:
            found = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON: {error}.") from None
    if not isinstance(found, dict) or not isinstance(found.get(what), list):
        shown = ", ".join(found) if isinstance(found, dict) else type(found).__name__
        raise ValueError(
            f"{path} has no list {what!r} as VQA's files have; it holds {shown[:200]}."
        )
    for number, entry in enumerate(found[what]):
        kinds = {"question": str, "answers": list}
        for name in ("question_id", *names):
            value = entry.get(name) if isinstance(entry, dict) else None
            if isinstance(value, bool) or not isinstance(value, kinds.get(name, int)):
                raise ValueError(f"{path}: {what}[{number}] has no {name}: {str(entry)[:80]}.")
    return found[what]


def _by_id(entries: Iterable[dict[str, Any]], path: str) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for entry in entries:
        if entry["question_id"] in found:
            raise ValueError(f"{path} holds question_id {entry['question_id']} twice.")
        found[entry["question_id"]] = entry
    return found


def _match(
    asked: dict[int, dict[str, Any]],
    answers: dict[int, dict[str, Any]],
    questions: str,
    annotations: str,
) -> None:
    """Refuses questions and annotations that are not of the same split."""
    for one, other, here, there in (
        (asked, answers, questions, annotations),
        (answers, asked, annotations, questions),
    ):
        if missing := one.keys() - other.keys():
            raise ValueError(
                f"{here}: {len(missing):,} of {len(one):,} questions are not in {there}, such as "
                f"number {some(missing)}; give both files of one split."
            )
    unlike = [n for n, row in asked.items() if row["image_id"] != answers[n]["image_id"]]
    if unlike:
        raise ValueError(
            f"{annotations}: {len(unlike):,} questions are about another picture there than in "
            f"{questions}, such as number {some(unlike)}."
        )


def _answered(entry: dict[str, Any] | None) -> dict[str, Any]:
    if entry is None:
        return {}
    told = ("multiple_choice_answer", "question_type", "answer_type")
    answers = [one["answer"] for one in entry["answers"]]
    return {"answers": answers, **{name: entry[name] for name in told if name in entry}}
