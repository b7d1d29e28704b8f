import random

import pytest

from mmjax.evaluation.metrics.nlvr2 import accuracy, consistency, group

LABELS = {"dev-1-0-0": True, "dev-1-1-0": False, "dev-1-0-1": True, "dev-2-0-0": False}


def test_perfect_answers_score_one():
    assert accuracy(LABELS, LABELS) == consistency(LABELS, LABELS) == 1


def test_a_group_counts_only_where_every_pair_is_right():
    wrong = {**LABELS, "dev-1-1-0": True}
    assert accuracy(wrong, LABELS) == 0.75
    assert consistency(wrong, LABELS) == pytest.approx(2 / 3)


def test_groups_are_of_set_and_sentence_not_of_the_sentence_alone():
    assert group("dev-1-0-0") != group("dev-2-0-0")
    assert group("dev-1-0-0") == group("dev-1-7-0")


def test_random_answers_are_near_chance():
    draw = random.Random(0)
    labels = {f"dev-{n}-{pair}-0": draw.random() < 0.5 for n in range(400) for pair in range(4)}
    guessed = {one: draw.random() < 0.5 for one in labels}
    assert abs(accuracy(guessed, labels) - 0.5) < 0.05
    assert abs(consistency(guessed, labels) - 1 / 16) < 0.04


def test_missing_predictions_and_odd_identifiers_are_refused():
    with pytest.raises(ValueError, match="1 of 4 identifiers"):
        accuracy(dict.fromkeys(list(LABELS)[1:], True), LABELS)
    with pytest.raises(ValueError, match="split-set-pair-sentence"):
        group("dev-1-0")
