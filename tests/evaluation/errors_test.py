"""Tables by kind, the worst samples, and where their texts looked."""

import numpy as np
import pytest

from mmjax.evaluation.errors import MOST_BOXES, Sample, analysis, length_kind, table, worst
from mmjax.typing import View

SEEN = View("fuse", ("token_ids", "image"))


def sample(position, loss, hit=0.0, kind="a", **more):
    return Sample(
        position, float(loss), float(hit), "a b c", "told", "right", {"sort": kind}, **more
    )


def test_the_worst_come_first_and_no_number_is_the_worst():
    samples = [sample(0, 1.0), sample(1, 3.0), sample(2, np.nan), sample(3, 9.0, hit=1.0)]
    assert [one.position for one in worst(samples, 9)] == [2, 1, 0]
    assert [one.position for one in worst([*samples, sample(4, np.inf)], 2)] == [2, 4]


def test_a_table_counts_each_kind_and_lengths_stand_in_their_order():
    samples = [sample(n, 0, hit=n % 2, kind="ab"[n > 4]) for n in range(7)]
    assert table(samples, "sort") == [["a", 5, 0.4], ["b", 2, 0.5]]
    many = [sample(n, 0, kind=str(n)) for n in range(99)]
    assert len(table(many, "sort")) == 99
    assert len(table(many, "sort", 24)) == 24
    assert [length_kind("word " * n) for n in (1, 4, 5, 24, 25)] == [
        "1 to 4 words",
        "1 to 4 words",
        "5 to 8 words",
        "17 to 24 words",
        "25 words and more",
    ]


@pytest.fixture
def looked(judged_context):
    def make(values, boxes):
        """The artifact of three samples whose texts all look at the same places."""

        def attention(positions):
            shape = (len(positions), 1)
            return np.tile(values, shape), np.tile(boxes, (len(positions), 1, 1))

        context = judged_context(np.zeros(5), {}, attention=attention)
        return analysis(context, "matching", SEEN, [sample(n, n, other=0) for n in (1, 2, 3)], 2)

    return make


def test_the_cells_of_a_grid_are_told_from_the_least_to_the_most(looked):
    boxes = np.asarray([[0, 0, 0, 0], *[[x, 0, x + 0.25, 1] for x in (0, 0.25, 0.5, 0.75)]])
    artifact = looked(np.asarray([0.9, 0.1, 0.2, 0.3, 0.1]), boxes)
    assert [one["position"] for one in artifact["worst"]] == [3, 2]
    look = artifact["worst"][0]["look"]
    assert look["form"] == "cells"  # the first, a token that lies nowhere, is none of them
    assert look["most"] == pytest.approx(0.3 / 0.175)
    np.testing.assert_allclose(look["places"][:, 4], [1, 0.5, 0, 0], atol=1e-3)
    np.testing.assert_allclose(look["places"][0, :4], [0.5, 0, 0.75, 1])
    assert set(artifact["thumbnails"]) == {"0", "2", "3"}
    assert artifact["sides"]["2"] == [80, 40]


def test_of_boxes_the_strongest_are_kept_and_the_whole_picture_is_none(looked):
    rng = np.random.default_rng(0)
    corner = rng.random((30, 2)) / 2
    boxes = np.concatenate([corner, corner + 0.4], axis=1)
    boxes[0] = [0, 0, 1, 1]
    values = rng.random(30)
    values[0], values[1] = 9.0, 0.0  # the picture itself; padding
    look = looked(values, boxes)["worst"][0]["look"]
    assert look["form"] == "boxes"
    assert len(look["places"]) == MOST_BOXES
    np.testing.assert_allclose(look["places"][0, :4], boxes[1 + values[1:].argmax()], atol=1e-3)
    assert looked(np.zeros(30), boxes)["worst"][0]["look"] is None


def test_a_model_that_cannot_tell_leaves_it_out(judged_context):
    samples = [sample(n, n) for n in range(3)]
    for attention in (None, lambda positions: None):
        context = judged_context(np.zeros(3), {}, attention=attention)
        artifact = analysis(context, "matching", SEEN, samples, 2)
        assert [one["look"] for one in artifact["worst"]] == [None, None]
