"""A question's answers as what each answer of a vocabulary is worth."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from mmjax.data.answers import Answers, normalize, stripped
from mmjax.data.sources.base import BadSample

__all__ = ["AnswerScores"]

PEOPLE = 10  # who answered each question of VQA
WORTHS = np.array([0.0, 0.3, 0.6, 0.9], np.float32)  # by how many of ten gave it; 1 from four up
SCORINGS = ("ten", "one")


@dataclasses.dataclass(frozen=True)
class AnswerScores:
    """Turn sample['answers'] into 'answer_scores', one number for each answer of the vocabulary.

    Answers are compared in VQA's normalised form. One that the vocabulary lacks is worth nothing,
    so a row may be zero everywhere.

    Attributes:
      answers: the vocabulary; given at run time where it comes from a file.
      scoring: 'ten' for ten people's answers to a question (VQA v2): 0.3, 0.6, 0.9 and 1 for an
        answer that one, two, three or more of them gave; 'one' for sets with right answers alone,
        each of which is worth 1.

    Source: Teney et al. 2018, "Tips and Tricks for Visual Question Answering", section 3.8, with
    the rounded worths that ViLBERT's and LXMERT's label files hold.
    """

    answers: Answers
    scoring: str = "ten"
    leaves_pending: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.scoring not in SCORINGS:
            raise ValueError(f"scoring={self.scoring!r} is none of {', '.join(SCORINGS)}.")

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The sample with 'answer_scores'.

        Raises:
          BadSample: 'missing', no answers; 'format', other than ten with scoring='ten'.
        """
        del rng
        if "answers" not in sample:
            raise BadSample("missing", "the sample has no answers; set Fields(answers_from=...).")
        given = [normalize(stripped(one)) for one in sample["answers"]]
        scores = np.zeros(len(self.answers), np.float32)
        if self.scoring == "ten" and len(given) != PEOPLE:
            raise BadSample(
                "format",
                f"scoring='ten' is for {PEOPLE} answers to a question, and sample "
                f"{sample.get('key', '?')} has {len(given)}; take scoring='one'.",
            )
        for answer in set(given):
            number = self.answers.compared.get(answer)
            if number is not None:
                times = given.count(answer)
                rounded = WORTHS[times] if times < len(WORTHS) else 1.0
                scores[number] = rounded if self.scoring == "ten" else 1.0
        return {**sample, "answer_scores": scores}
