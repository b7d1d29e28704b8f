"""Answers to questions about pictures, judged by VQA's ten-answer rule or by exact match."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mmjax.data.answers import Answers, normalize, stripped
from mmjax.data.transforms.answers import AnswerScores
from mmjax.evaluation import errors, pictures
from mmjax.evaluation.base import Context, Evaluator, Result
from mmjax.evaluation.judging import judge
from mmjax.evaluation.metrics.answers import ANSWERS, exact_match, vqa_accuracy
from mmjax.typing import View

__all__ = ["SCORINGS", "Answering"]

SCORINGS = ("auto", "ten", "one")
UNKNOWN = "right answer"
NONE = "no answer"  # two answers scored alike highest, or a score was no number


@dataclasses.dataclass(frozen=True)
class Answering(Evaluator):
    """Accuracy of the answer that scores highest, overall and by kind of question.

    Beside each accuracy stands that of always giving the answer that is most frequent among these
    questions. Ties and scores that are no number are no answer.

    Attributes:
      method, words: how the model looks at question and picture together.
      head: its method that scores answers.
      scoring: 'ten' for sets with ten people's answers to a question (the official rule of VQA),
        'one' for sets with right answers alone, any of which is right; 'auto' takes 'ten' where
        questions have ten answers, 'one' where they have one, and refuses other numbers.
      kinds: facts by which accuracy is told apart, where the data has them.
      examples: questions that the report shows, those with the highest loss.
      predictions: answers that the artifact holds, the first ones.
      results: whether all answers are written in the official layout, [{question_id, answer}];
        the questions then need a fact 'question_id'.

    Source: Antol et al. 2015, "VQA: Visual Question Answering", section 3; the layout is that of
    GT-Vision-Lab/VQA.
    """

    method: str = "fuse"
    words: tuple[str, ...] = ("token_ids", "text_mask", "image")
    head: str = "answer_logits"
    scoring: str = "auto"
    kinds: tuple[str, ...] = ("answer_type", "question_type")
    examples: int = 12
    predictions: int = 1000
    results: bool = False

    def __post_init__(self) -> None:
        if self.scoring not in SCORINGS:
            raise ValueError(f"scoring={self.scoring!r} is none of {', '.join(SCORINGS)}.")

    def check(self, facts: Mapping[str, Any], answers: Sequence[str]) -> None:
        """Refuses data without a vocabulary, without answers, or with a wrong number of them."""
        if not answers:
            raise ValueError(
                "eval_data has no vocabulary of answers; add the transform AnswerScores to it."
            )
        if not facts.get("answers"):
            raise ValueError("eval_data has no answers; set its Fields(answers_from=...).")
        self._rule(facts["answers"])
        if self.results and "question_id" not in facts:
            raise ValueError(
                "results=True writes a question_id with each answer, and eval_data has none; name "
                "it in Fields(facts_from=('json:question_id',)), or set results=False."
            )

    def _rule(self, given: Sequence[str]) -> str:
        """'ten' or 'one'."""
        number = len(given)
        if self.scoring == "one" or (self.scoring == "auto" and number == 1):
            return "one"
        if number == ANSWERS:
            return "ten"
        raise ValueError(
            f"scoring={self.scoring!r} is for {ANSWERS} answers to a question"
            f"{' or a single one' if self.scoring == 'auto' else ''}, and one here has {number}. "
            "Set scoring='one' to count any of its answers as right, or give all ten."
        )

    def __call__(self, context: Context) -> Result:
        """Asks every held-out question.

        Returns:
          'accuracy', and by each kind 'answer_type/accuracy@number' and so on, each with its
          chance; 'accuracy_best', the most that this vocabulary could reach; and the number of
          'questions'.

        Raises:
          ValueError: as `check`, for any of the questions; or a vocabulary of another size than
            the head's scores.
        """
        view = View(self.method, self.words)
        asked: list[_Asked] = []
        worths: dict[str, AnswerScores] = {}
        for judged in judge(context, view, self.head):
            facts = context.facts(judged.position)
            self.check(facts, context.answers)
            if judged.scores.shape != (len(context.answers),):
                raise ValueError(
                    f"the data has {len(context.answers)} answers and the head {self.head!r} gives "
                    f"scores of shape {judged.scores.shape}; give both the same vocabulary."
                )
            rule = self._rule(facts["answers"])
            if rule not in worths:
                worths[rule] = AnswerScores(Answers(context.answers), rule)
            asked.append(self._asked(judged, facts, rule, context.answers, worths[rule]))
        if len(worths) > 1:
            raise ValueError(
                "some questions have ten answers and some have one; set scoring='one', or "
                "evaluate them apart."
            )
        samples = [one.sample for one in asked]
        numbers = _accuracy(asked, "accuracy")
        numbers["accuracy_best"] = float(np.mean([one.best for one in asked]))
        numbers["questions"] = float(len(asked))
        for name in self.kinds:
            for kind, *_ in errors.table(samples, name):
                some = [one for one in asked if one.sample.kinds.get(name) == kind]
                numbers |= _accuracy(some, f"{name}/accuracy@{kind.replace('/', '-')}")
        return Result(numbers, self._artifact(context, view, asked), self._results(asked))

    def _asked(
        self,
        judged: Any,
        facts: dict[str, Any],
        rule: str,
        answers: Sequence[str],
        scorer: AnswerScores,
    ) -> "_Asked":
        given = tuple(facts["answers"])
        place = _highest(judged.scores)
        answer = answers[place] if place is not None else NONE
        hit = _worth(answer, given, rule) if place is not None else 0.0
        worth = scorer({"answers": given}, np.random.default_rng(0))["answer_scores"]
        best = max((_worth(answers[i], given, rule) for i in np.flatnonzero(worth)), default=0.0)
        question = next(iter(facts["captions"]), "")
        counted = collections.Counter(map(stripped, given)).most_common(3)
        right = ", ".join(name if len(given) == 1 else f"{name} ({n})" for name, n in counted)
        kinds = errors.told_kinds(facts, self.kinds, question)
        if not worth.any():
            kinds[UNKNOWN] = "not in the vocabulary"
        loss = _loss(judged.scores, worth)
        sample = errors.Sample(judged.position, loss, hit, question, answer, right, kinds)
        return _Asked(sample, given, rule, best, facts.get("question_id"))

    def _artifact(self, context: Context, view: View, asked: list["_Asked"]) -> dict[str, Any]:
        samples = [one.sample for one in asked]
        unknown = sum(UNKNOWN in one.kinds for one in samples)
        answer = _frequent(asked)
        made = errors.analysis(
            context,
            "answering",
            view,
            samples,
            self.examples,
            f"Chance is the accuracy of always answering {answer!r}, the most frequent answer; by "
            f"kind, that kind's own. {unknown} of {len(samples)} questions have no right answer in "
            "the vocabulary.",
        )
        told = [
            [one.position, pictures.shorten(one.text), one.told, one.right, round(one.hit, 3)]
            for one in samples[: self.predictions]
        ]
        return {**made, "predictions": told}

    def _results(self, asked: list["_Asked"]) -> list[dict[str, Any]] | None:
        if not self.results:
            return None
        names = [str(one.question_id) for one in asked]
        return [
            {"question_id": int(name) if name.isdecimal() else name, "answer": one.sample.told}
            for name, one in zip(names, asked)
        ]


@dataclasses.dataclass(frozen=True)
class _Asked:
    sample: errors.Sample
    given: tuple[str, ...]
    rule: str
    best: float  # what the best answer of the vocabulary is worth
    question_id: Any


def _accuracy(asked: list[_Asked], name: str) -> dict[str, float]:
    """The mean worth, and that of the answer that is most frequent among these questions."""
    answer = _frequent(asked)
    constant = [_worth(answer, one.given, one.rule) for one in asked]
    hits = [one.sample.hit for one in asked]
    return {name: float(np.mean(hits)), f"{name}_chance": float(np.mean(constant))}


def _frequent(asked: list[_Asked]) -> str:
    counts: collections.Counter[str] = collections.Counter()
    for one in asked:
        right = collections.Counter(normalize(stripped(answer)) for answer in one.given)
        counts[right.most_common(1)[0][0]] += 1
    return min(counts, key=lambda answer: (-counts[answer], answer))


def _worth(answer: str, given: tuple[str, ...], rule: str) -> float:
    if rule == "ten":
        return vqa_accuracy(answer, given)
    return max(exact_match(answer, right) for right in given)


def _highest(scores: Float[np.ndarray, " answers"]) -> int | None:
    """The place of the one highest score, or None."""
    if np.isnan(scores).any() or not np.isfinite(scores.max()):
        return None
    places = np.flatnonzero(scores == scores.max())
    return int(places[0]) if len(places) == 1 else None


def _loss(scores: Float[np.ndarray, " answers"], worth: Float[np.ndarray, " answers"]) -> float:
    """-log of the softmax's share of the right answers, by what they are worth; 0 without any.

    A question without a right answer in the vocabulary is no fault of the model.
    """
    if not worth.any():
        return 0.0
    if not np.isfinite(scores).all():
        return float("inf")
    shares = np.exp(scores - scores.max())
    return float(-np.log(max(float(shares @ worth / shares.sum()), 1e-30)))
