"""Rows of some samples alone; rows of whole streams are tested with the pipeline."""

import dataclasses

import numpy as np
import pytest

from mmjax.data.dataset import Dataset
from mmjax.data.fields import Fields
from mmjax.data.pipeline import BatchMaker
from mmjax.data.rows import Picked, evaluation_rows, mix_bits
from mmjax.data.sources.base import BadSample, Record, Source


class Numbers(Source):
    def __len__(self):
        return 9

    def __getitem__(self, position) -> Record:
        return {"__key__": str(position), "label": position, "bad": position == 4}

    def fingerprint(self):
        return "numbers"

    def describe(self):
        return "nine numbers"


@dataclasses.dataclass(frozen=True)
class Draw:
    """A number of the row's own generator; sample 4 is bad."""

    def __call__(self, sample, rng):
        if sample["record"]["bad"]:
            raise BadSample("format", "this one")
        return {**sample, "regions": rng.random((1, 2)).astype(np.float32)}


@pytest.fixture
def rows():
    fields = Fields(image_from="", caption_from="", label_from="label")
    return evaluation_rows((Dataset(source=Numbers(), fields=fields, transforms=(Draw(),)),), 5)


def test_picked_rows_are_those_of_the_whole_in_the_order_asked_for(rows):
    maker = BatchMaker(Picked(rows, [7, 2, 4, 0, 7]), 3, 0, 1, 1)
    first, second = maker(0), maker(1)
    assert first["label"].tolist()[:2] == [7, 2]
    assert first["label"].dtype == np.int32
    assert first["valid"].tolist() == [True, True, False]  # a bad sample leaves its row empty
    assert second["valid"].tolist() == [True, True, False]  # the last batch is filled up
    whole = [rows.load(position)[0] for position in (7, 2, 0)]
    np.testing.assert_array_equal(first["regions"][0], whole[0]["regions"])
    np.testing.assert_array_equal(first["regions"][1], whole[1]["regions"])
    np.testing.assert_array_equal(second["regions"][0], whole[2]["regions"])
    np.testing.assert_array_equal(second["regions"][1], whole[0]["regions"])
    assert Picked(rows, [4]).load(0)[0] is None


def test_mixed_bits_look_like_noise():
    values = np.array([mix_bits(7, index, 1) % 100 for index in range(20_000)])
    counts = np.bincount(values, minlength=100)
    assert counts.min() > 130
    assert counts.max() < 270
    assert len({mix_bits(a, b) for a in range(50) for b in range(50)}) == 2500
