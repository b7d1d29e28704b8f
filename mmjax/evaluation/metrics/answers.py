"""Accuracy of answers to questions about pictures: VQA's ten-answer rule, and exact match.

The rule forgives what ten people would forgive each other: an answer is worth a third for each
other person who gave it, at most one. It compares the words that a normalisation leaves.

Source: Antol et al. 2015, "VQA: Visual Question Answering", section 3; the official evaluation,
GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py, whose numbers it equals.
"""

from collections.abc import Mapping, Sequence

from mmjax.data.answers import normalize, stripped

__all__ = ["ANSWERS", "by_type", "exact_match", "vqa_accuracy"]

ANSWERS = 10  # people who answered a question
ENOUGH = 3  # others who gave the same answer make it right


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
    answer, given = stripped(answer), [stripped(one) for one in answers]
    if len(set(given)) > 1:
        answer, given = normalize(answer), [normalize(one) for one in given]
    equal = sum(one == answer for one in given)
    right = min(1.0, equal / ENOUGH)  # for a person who gave another answer
    own = min(1.0, (equal - 1) / ENOUGH)  # for one who gave this answer
    return (equal * own + (ANSWERS - equal) * right) / ANSWERS


def exact_match(answer: str, right: str) -> float:
    """1 where an answer is the right one after normalisation, else 0; for sets with one answer."""
    return float(normalize(stripped(answer)) == normalize(stripped(right)))


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
