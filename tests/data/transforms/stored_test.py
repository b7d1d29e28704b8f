"""Stored: a word as a record holds it, filled up; what does not fit is refused."""

import io
import json

import numpy as np
import pytest

from mmjax.data.sources.base import BadSample
from mmjax.data.transforms.stored import Stored


def run(transform, **fields):
    file = io.BytesIO()
    np.savez(file, **{name: np.asarray(x) for name, x in fields.items()})
    record = {"__key__": "a", "npz": file.getvalue(), "json": json.dumps({"task": 3}).encode()}
    return transform({"record": record}, np.random.default_rng(0))[transform.word]


def test_numbers_are_filled_up_to_the_shape_in_the_words_own_type():
    made = run(Stored("phrases", "npz:phrases", (4,), filling=-1.0), phrases=[5, 2])
    np.testing.assert_array_equal(made, [5, 2, -1, -1])
    assert made.dtype == np.int32
    made = run(Stored("phrase_regions", "npz:x", (2, 3)), x=[[0.5, 0.5]])
    np.testing.assert_array_equal(made, [[0.5, 0.5, 0], [0, 0, 0]])
    assert made.dtype == np.float32
    assert run(Stored("region_asked", "npz:x", (2,)), x=[1]).tolist() == [True, False]
    assert run(Stored("task", "npz:task;json:task")) == 3


@pytest.mark.parametrize(
    ("transform", "value", "message"),
    [
        (Stored("phrases", "npz:x", (1,)), [1, 2], r"is \(2,\); at most shape=\(1,\) fits"),
        (Stored("phrases", "npz:x", (2,)), [[1]], r"is \(1, 1\)"),
        (Stored("phrases", "npz:x", (2,)), [0.5], "holds float64, and 'phrases' is int32"),
        (Stored("phrases", "npz:x", (2,)), [1 << 31], "beyond 32 bits"),
        (Stored("phrase_regions", "npz:x", (1, 1)), [[np.nan]], "not finite"),
        (Stored("phrase_regions", "npz:x", (1, 1)), [[1e300]], "not finite"),
        (Stored("phrases", "npz:y", (1,)), [1], "missing: .*place='npz:y', found npz:x"),
    ],
)
def test_what_does_not_fit_is_a_bad_sample(transform, value, message):
    with pytest.raises(BadSample, match=message):
        run(transform, x=value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("image", "npz:x"), "word='image' is none of"),
        (("valid", "npz:x"), "word='valid' is none of"),
        (("phrases", ""), "write it as 'npz:phrases'"),
        (("phrases", "npz:"), "write it as"),
        (("phrases", "npz:x", (0,)), "each length is 1 or more"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Stored(*options)
