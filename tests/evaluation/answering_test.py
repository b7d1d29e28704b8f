"""Accuracy of answers on worlds whose scores are given."""

import numpy as np
import pytest

from mmjax.evaluation.answering import Answering
from mmjax.evaluation.metrics.answers import vqa_accuracy

NAMES = ("yes", "no", "2", "red", "blue")
RNG = np.random.default_rng(3)


def asked(samples=60, people=1):
    """Facts of questions whose right answer is given by all people but some."""
    facts, right = [], RNG.choice(5, samples, p=[0.5, 0.2, 0.1, 0.1, 0.1])
    for position, number in enumerate(right):
        given = [NAMES[number]] * people
        if people == 10:
            given[:4] = ["something else", *[NAMES[(number + 1) % 5]] * 3]
        facts.append(
            {
                "answers": tuple(given),
                "captions": (f"what is it {position}? " + "word " * (position % 20),),
                "answer_type": ("yes/no", "number", "other")[min(number // 1, 2)],
                "question_id": str(1000 + position),
            }
        )
    return facts, right


def perfect(right):
    return np.eye(5)[right] * 9.0


@pytest.mark.parametrize("people", [1, 10])
def test_right_answers_score_what_they_are_worth_and_never_more(judged_context, people):
    facts, right = asked(people=people)
    result = Answering(results=True)(judged_context(perfect(right), facts, answers=NAMES))
    assert result.metrics["accuracy"] == pytest.approx(1.0)
    assert result.metrics["accuracy_best"] == pytest.approx(1.0)
    assert result.metrics["accuracy_chance"] < 0.9
    assert result.metrics["questions"] == 60
    assert result.metrics["answer_type/accuracy@yes-no"] == pytest.approx(1.0)
    assert result.artifact["worst"] == []
    assert result.results[7] == {"question_id": 1007, "answer": NAMES[right[7]]}


def test_each_answer_counts_as_the_official_rule_has_it(judged_context):
    facts, right = asked(people=10)
    told = (right + RNG.integers(0, 3, 60)) % 5
    found = Answering()(judged_context(perfect(told), facts, answers=NAMES)).metrics
    by_hand = [vqa_accuracy(NAMES[n], one["answers"]) for n, one in zip(told, facts)]
    assert 0.2 < found["accuracy"] < 0.9
    assert found["accuracy"] == pytest.approx(np.mean(by_hand))
    numbers = [hit for hit, one in zip(by_hand, facts) if one["answer_type"] == "number"]
    assert found["answer_type/accuracy@number"] == pytest.approx(np.mean(numbers))


def test_always_the_most_frequent_answer_is_the_baseline(judged_context):
    facts, _ = asked()
    constant = np.tile([9.0, 1, 2, 3, 4], (60, 1))
    found = Answering()(judged_context(constant, facts, answers=NAMES)).metrics
    assert found["accuracy"] == found["accuracy_chance"]
    assert 0.3 < found["accuracy"] < 0.7


def test_random_scores_are_near_one_in_five(judged_context):
    facts, _ = asked(1500)
    found = Answering()(judged_context(RNG.normal(size=(1500, 5)), facts, 500, answers=NAMES))
    assert abs(found.metrics["accuracy"] - 0.2) < 3 * np.sqrt(0.2 * 0.8 / 1500)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_scores_that_are_alike_or_no_number_are_no_answer(judged_context, spoilt):
    facts, right = asked()
    scores = perfect(right)
    scores[:30] = 1.0
    scores[30:45, 0] = spoilt
    result = Answering()(judged_context(scores, facts, answers=NAMES))
    assert result.metrics["accuracy"] == pytest.approx(15 / 60)
    assert result.artifact["worst"][0]["told"] == "no answer"


def test_the_worst_are_those_that_gave_the_right_answer_least(judged_context):
    facts, right = asked()
    scores = perfect(right)
    scores[11] = -scores[11]
    scores[17, (right[17] + 1) % 5] = 9.5
    facts[20]["answers"] = ("unheard of",)
    artifact = Answering()(judged_context(scores, facts, answers=NAMES)).artifact
    # The last is no fault of the model: its right answer is none of the vocabulary.
    assert [one["position"] for one in artifact["worst"]] == [11, 17, 20]
    assert "1 of 60 questions have no right answer" in artifact["note"]
    assert artifact["tables"]["right answer"] == [["not in the vocabulary", 1, 0.0]]
    lengths = [row[0] for row in artifact["tables"]["text length"]]
    assert lengths[:2] == ["1 to 4 words", "5 to 8 words"]
    assert len(artifact["predictions"]) == 60


@pytest.mark.parametrize(
    ("facts", "options", "message"),
    [
        ({"answers": ("a",) * 9}, {}, "one here has 9. Set scoring='one'"),
        ({"answers": ("a",)}, {"scoring": "ten"}, "scoring='ten' is for 10 answers to a question"),
        ({}, {}, "answers_from"),
        ({"answers": ("a",)}, {"results": True}, "json:question_id"),
    ],
)
def test_what_cannot_be_scored_is_refused(facts, options, message):
    with pytest.raises(ValueError, match=message):
        Answering(**options).check(facts, NAMES)


def test_a_vocabulary_and_one_rule_are_needed(judged_context):
    with pytest.raises(ValueError, match="AnswerScores"):
        Answering().check({"answers": ("a",)}, ())
    with pytest.raises(ValueError, match="scoring='most'"):
        Answering(scoring="most")
    facts, right = asked(8)
    facts[5]["answers"] = ("yes",) * 10
    with pytest.raises(ValueError, match="some have one"):
        Answering()(judged_context(perfect(right), facts, answers=NAMES))
    with pytest.raises(ValueError, match="scores of shape"):
        Answering()(judged_context(perfect(right)[:, :3], facts, answers=NAMES))
    assert (
        Answering(scoring="one")(judged_context(perfect(right), facts, answers=NAMES)).metrics[
            "questions"
        ]
        == 8
    )
