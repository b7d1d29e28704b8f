"""The answers of a training set, wherever they lie, for a vocabulary of them."""

import collections
from collections.abc import Iterable, Iterator, Sequence

from mmjax.data.answers import Answers, normalize, stripped
from mmjax.data.datasets.question_lists import QuestionLists
from mmjax.data.datasets.vqa import read_annotations

__all__ = ["answers_in", "covered"]


def answers_in(path: str, held_out: int = 0) -> Iterator[list[str]]:
    """Of each question all answers that were given.

    Args:
      path: an annotations file in VQA v2's layout ('.json'), or `.tar` shards as `QuestionLists`
        reads them.
      held_out: pictures of shards, the last by number, whose questions are left out.

    Raises:
      ValueError: another kind of file or another layout.
      FileNotFoundError: no such file.
    """
    if path.endswith(".json"):
        if held_out:
            raise ValueError(f"{path}: pictures are held out of .tar shards alone (held_out).")
        for entry in read_annotations(path):
            yield [one["answer"] for one in entry["answers"]]
    elif path.endswith(".tar"):
        yield from QuestionLists(path, held_out=held_out).answers()
    else:
        raise ValueError(f"{path}: give annotations in .json as VQA's, or .tar shards.")


def covered(answers: Answers, given: Iterable[Sequence[str]]) -> tuple[int, int]:
    """(questions whose right answer is in the vocabulary, all questions).

    Args:
      answers: the vocabulary.
      given: of each question all answers; the most frequent one is right, as in
        `Answers.most_frequent`.
    """
    inside = total = 0
    for one in given:
        counts = collections.Counter(normalize(stripped(text)) for text in one)
        inside += bool(counts) and counts.most_common(1)[0][0] in answers.compared
        total += 1
    return inside, total
