import json
import pathlib

import pytest

from mmjax.data.answers import normalize
from mmjax.evaluation.metrics.answers import by_type, exact_match, vqa_accuracy

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "vqa_answers.json"


@pytest.fixture(scope="module")
def official():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_answers_are_normalised_as_the_official_evaluation_does(official):
    assert len(official["normalized"]) > 300
    for text, normalized in official["normalized"]:
        assert normalize(text) == normalized, text


def test_answers_are_worth_what_the_official_evaluation_gives(official):
    values = {round(value, 3) for *_, value in official["scored"]}
    assert {0.0, 0.3, 0.6, 0.9, 1.0} <= values
    for answer, answers, value in official["scored"]:
        assert vqa_accuracy(answer, answers) == pytest.approx(value, abs=1e-12), (answer, answers)


@pytest.mark.parametrize(("equal", "worth"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1)])
def test_one_two_three_and_more_equal_answers(equal, worth):
    answers = ["cat"] * equal + [f"dog {n}" for n in range(10 - equal)]
    assert vqa_accuracy("The cat.", answers) == pytest.approx(worth)


def test_ten_equal_answers_are_compared_as_they_are():
    assert vqa_accuracy("yes", ["yes"] * 10) == 1
    assert vqa_accuracy("Yes", ["yes"] * 10) == 0


def test_fewer_than_ten_answers_are_refused():
    with pytest.raises(ValueError, match="10 answers to a question, not 1; take exact match"):
        vqa_accuracy("desk", ["desk"])


def test_exact_match_is_after_normalisation():
    assert exact_match("The two dogs", "2 dogs") == 1
    assert exact_match("two cats", "2 dogs") == 0


def test_means_by_type_hold_the_types_that_occur():
    assert by_type([1.0, 0.0, 0.5], ["other", "yes/no", "other"]) == {"other": 0.75, "yes/no": 0.0}
