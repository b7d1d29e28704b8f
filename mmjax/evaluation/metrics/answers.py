"""Accuracy of answers to questions about pictures: VQA's ten-answer rule, and exact match.

The rule forgives what ten people would forgive each other: an answer is worth a third for each
other person who gave it, at most one. It compares the words that a normalisation leaves.

Source: Antol et al. 2015, "VQA: Visual Question Answering", section 3; the official evaluation,
GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py, whose numbers it equals.
"""

import re
from collections.abc import Mapping, Sequence

__all__ = ["ANSWERS", "by_type", "exact_match", "normalize", "vqa_accuracy"]

ANSWERS = 10  # people who answered a question
ENOUGH = 3  # others who gave the same answer make it right
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


def _stripped(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def vqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    """What an answer is worth by the answers of ten people, 0 to 1.

    The mean over the ten of min(1, equal answers of the other nine ÷ 3). Both sides are normalised
    unless the ten answers are all the same.

    Args:
      answer: the model's.
      answers: of ten people.

    Raises:
      ValueError: other than ten answers; by this rule a single one would never be worth anything.
    """
    if len(answers) != ANSWERS:
        raise ValueError(
            f"the rule of VQA is for {ANSWERS} answers to a question, not {len(answers)}; take "
            "exact match for sets with one answer."
        )
    answer, given = _stripped(answer), [_stripped(one) for one in answers]
    if len(set(given)) > 1:
        answer, given = normalize(answer), [normalize(one) for one in given]
    equal = sum(one == answer for one in given)
    right = min(1.0, equal / ENOUGH)  # for a person who gave another answer
    own = min(1.0, (equal - 1) / ENOUGH)  # for one who gave this answer
    return (equal * own + (ANSWERS - equal) * right) / ANSWERS


def exact_match(answer: str, right: str) -> float:
    """1 where an answer is the right one after normalisation, else 0; for sets with one answer."""
    return float(normalize(_stripped(answer)) == normalize(_stripped(right)))


def by_type(scores: Sequence[float], types: Sequence[str]) -> Mapping[str, float]:
    """{type: mean score} of the types that occur, in the order of their names.

    Args:
      scores: of each question.
      types: of each question, e.g. 'yes/no', 'number', 'other'.
    """
    found: dict[str, list[float]] = {}
    for score, kind in zip(scores, types, strict=True):
        found.setdefault(kind, []).append(score)
    return {kind: sum(found[kind]) / len(found[kind]) for kind in sorted(found)}
