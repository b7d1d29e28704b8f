"""Accuracy and consistency of statements on worlds whose scores are given."""

import numpy as np
import pytest

from mmjax.evaluation.reasoning import Reasoning

RNG = np.random.default_rng(0)


def statements(samples=40):
    """Facts of statements, two pairs of pictures to each sentence."""
    truth = RNG.integers(0, 2, samples)
    facts = [
        {"truth": t, "captions": ("one dog is left",), "identifier": f"dev-{n // 2}-{n % 2}-0"}
        for n, t in enumerate(truth)
    ]
    return facts, truth


def told(truth):
    return np.stack([1.0 - truth, truth], axis=1) * 3.0


def test_who_is_always_right_scores_one(judged_context):
    facts, truth = statements()
    found = Reasoning()(judged_context(told(truth), facts))
    assert found.metrics["accuracy"] == found.metrics["consistency"] == 1.0
    assert found.metrics["consistency_chance"] == 0.25
    assert (found.metrics["statements"], found.metrics["groups"]) == (40, 20)
    assert found.artifact["worst"] == []


def test_one_wrong_statement_costs_its_whole_group(judged_context):
    facts, truth = statements()
    scores = told(truth)
    scores[3] = scores[3][::-1]
    found = Reasoning()(judged_context(scores, facts))
    assert found.metrics["accuracy"] == pytest.approx(39 / 40)
    assert found.metrics["consistency"] == pytest.approx(19 / 20)
    (worst,) = found.artifact["worst"]
    assert (worst["position"], worst["right"]) == (3, ("false", "true")[truth[3]])
    assert worst["told"] != worst["right"]


def test_saying_always_the_same_is_the_baseline_and_random_is_near_a_coin(judged_context):
    facts, truth = statements(2000)
    often = int(truth.mean() > 0.5)
    found = Reasoning()(judged_context(np.tile(np.eye(2)[often], (2000, 1)), facts, 500)).metrics
    assert found["accuracy"] == pytest.approx(found["accuracy_chance"])
    found = Reasoning()(judged_context(RNG.normal(size=(2000, 2)), facts, 500)).metrics
    assert abs(found["accuracy"] - 0.5) < 3 * 0.5 / np.sqrt(2000)
    assert abs(found["consistency"] - 0.25) < 3 * np.sqrt(0.25 * 0.75 / 1000)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, 0.0])
def test_ties_and_scores_that_are_no_number_are_wrong(judged_context, spoilt):
    facts, truth = statements()
    scores = told(truth)
    scores[:10] = spoilt
    assert Reasoning()(judged_context(scores, facts)).metrics["accuracy"] == pytest.approx(0.75)


def test_what_is_missing_is_named(judged_context):
    with pytest.raises(ValueError, match="truth_from"):
        Reasoning().check({}, ())
    with pytest.raises(ValueError, match="json:identifier"):
        Reasoning().check({"truth": 1}, ())
    with pytest.raises(ValueError, match="no identifier"):
        Reasoning().check({"truth": 1, "identifier": "7"}, ())
    Reasoning(identifier="").check({"truth": 1}, ())
    facts, truth = statements(8)
    assert "consistency" not in Reasoning(identifier="")(judged_context(told(truth), facts)).metrics
    with pytest.raises(ValueError, match="not two"):
        Reasoning()(judged_context(np.zeros((8, 3)), facts))
    facts[1]["identifier"] = facts[0]["identifier"]
    with pytest.raises(ValueError, match="2 statements have the identifier"):
        Reasoning()(judged_context(told(truth), facts))
