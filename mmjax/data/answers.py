"""Answers to questions about pictures: the form in which they are compared, and their vocabulary.

Source: GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py, for the normalised form.
"""

import collections
import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Iterable, Sequence

__all__ = ["Answers", "normalize", "stripped"]

NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
ARTICLES = ("a", "an", "the")
# Marks in the official order; the apostrophe, the colon and the full stop are not among them.
MARKS = ';/[]"{}()=+\\_-><@`,?!'
# Written out; each is found with any one of its apostrophes left out.
CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
# The official table holds this one the other way round.
WORDS = {
    form[:place] + form[place + 1 :]: form
    for form in CONTRACTIONS.split()
    for place in range(len(form))
    if form[place] == "'"
} | {"somebody'd": "somebodyd"}
BETWEEN_DIGITS = re.compile(r"\d,\d")
# A full stop before anything but a digit; the official pattern's look behind means nothing.
FULL_STOP = re.compile(r"\.(?!\d)")
MOST_STOPS = 32  # the official call gives a flag's value as the number of replacements


@functools.lru_cache(maxsize=1 << 16)  # the same few answers are given to most questions
def normalize(answer: str) -> str:
    """An answer as the official evaluation compares it.

    Marks are dropped, or become spaces where they stand between letters; number words become
    digits; articles go; contractions get their apostrophes.

    Args:
      answer: any text.
    """
    text = answer
    drops = BETWEEN_DIGITS.search(answer) is not None
    for mark in MARKS:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if drops or beside_space else " ")
    text = FULL_STOP.sub("", text, count=MOST_STOPS)
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(WORDS.get(word, word) for word in words if word not in ARTICLES)


def stripped(answer: str) -> str:
    """An answer on one line, without white space at its ends."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers among which a model chooses; their order is that of its head's scores.

    Attributes:
      names: the answers, each once.

    Raises:
      ValueError: none, or one that occurs twice.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("a vocabulary of answers has at least one; names=() is empty.")
        if len(set(self.names)) < len(self.names):
            name, times = collections.Counter(self.names).most_common(1)[0]
            raise ValueError(f"the answer {name!r} stands {times} times in names; give each once.")

    def __len__(self) -> int:
        return len(self.names)

    @functools.cached_property
    def compared(self) -> dict[str, int]:
        """{normalised answer: its number}; of two that are alike the first counts."""
        found: dict[str, int] = {}
        for number, name in enumerate(self.names):
            found.setdefault(normalize(stripped(name)), number)
        return found

    def to_json(self) -> str:
        """The content of an answers.json."""
        return json.dumps({"answers": list(self.names)}, ensure_ascii=False, indent=0) + "\n"

    @classmethod
    def read(cls, path: str | pathlib.Path) -> "Answers":
        """The vocabulary in an answers.json, or in a text file with an answer a line.

        Raises:
          ValueError: it is neither, or holds an answer twice.
          OSError: no such file.
        """
        content = pathlib.Path(path).read_text(encoding="utf-8")
        if not str(path).endswith(".json"):
            return cls(tuple(line.strip() for line in content.splitlines() if line.strip()))
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON: {error}") from None
        found = found.get("answers") if isinstance(found, dict) else found
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise ValueError(f"{path} holds no list of answers; write it with 'mmjax answers'.")
        return cls(tuple(found))

    @classmethod
    def most_frequent(
        cls, answers: Iterable[Sequence[str]], most: int | None = None, times: int = 1
    ) -> "Answers":
        """The most frequent right answers of a training set, the most frequent first.

        Args:
          answers: of each question all that were given; the most frequent of them counts as its
            right one (of equals the first that was given).
          most: how many are kept; None keeps all.
          times: how often an answer has to be the right one.

        Raises:
          ValueError: no answer is as frequent.
        """
        counts: collections.Counter[str] = collections.Counter()
        for given in answers:
            right = collections.Counter(normalize(stripped(one)) for one in given)
            if right:
                counts[right.most_common(1)[0][0]] += 1
        order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        names = tuple(name for name, count in order if count >= times and name)[:most]
        if not names:
            raise ValueError(f"no answer is right {times} times or more in {len(counts)} answers.")
        return cls(names)
