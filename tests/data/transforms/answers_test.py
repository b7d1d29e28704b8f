"""A question's answers as what each answer of a vocabulary is worth."""

import numpy as np
import pytest

from mmjax.data.answers import Answers
from mmjax.data.sources.base import BadSample
from mmjax.data.transforms.answers import AnswerScores

RNG = np.random.default_rng(0)
VOCABULARY = Answers(("yes", "2", "red", "blue", "tree"))


def scores(answers, scoring):
    sample = AnswerScores(VOCABULARY, scoring)({"key": "7", "answers": answers}, RNG)
    return sample["answer_scores"]


def test_ten_answers_are_worth_by_how_many_gave_them():
    answers = ("two", "Yes.", "yes", "red", "Red", "red!", "blue", "blue", "blue", "blue")
    found = scores(answers, "ten")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32([0.6, 0.3, 0.9, 1.0, 0.0]))


def test_each_right_answer_of_other_sets_is_worth_one():
    np.testing.assert_array_equal(scores(("the tree", "red"), "one"), [0, 0, 1, 0, 1])
    np.testing.assert_array_equal(scores(("unheard of",), "one"), np.zeros(5))


def test_fewer_than_ten_answers_are_no_sample_of_ten():
    with pytest.raises(BadSample, match=r"sample 7 has 1; take scoring='one'"):
        scores(("yes",), "ten")
    with pytest.raises(BadSample, match="answers_from"):
        AnswerScores(VOCABULARY)({}, RNG)
    with pytest.raises(ValueError, match="scoring='most' is none of ten, one"):
        AnswerScores(VOCABULARY, "most")
