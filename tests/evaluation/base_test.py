import json

import numpy as np
import pytest

from mmjax.evaluation.base import IMAGE, Result, real, unit, write_artifact
from mmjax.typing import View


def test_padding_is_left_out_and_each_sample_counts_once(random_context):
    context = random_context(samples=10, batch_size=4)
    held = context.encode(IMAGE)
    np.testing.assert_array_equal(held.positions, np.arange(10))
    assert np.isfinite(held.embeddings[IMAGE]).all()  # filling rows are not a number


def test_a_repeated_sample_counts_once(context_of):
    images = unit(np.random.default_rng(0).normal(size=(4, 3)))
    context = context_of(images, {}, [()] * 4)
    passes = context.batches
    object.__setattr__(context, "batches", lambda: (batch for _ in range(2) for batch in passes()))
    np.testing.assert_array_equal(context.encode(IMAGE).positions, np.arange(4))


def test_what_was_encoded_is_not_encoded_again(random_context):
    context = random_context(samples=5)
    calls = []
    apply = context.apply
    object.__setattr__(
        context, "apply", lambda view, batch: calls.append(view) or apply(view, batch)
    )
    other = View("encode_text", ("text_features",))
    context.encode(IMAGE)
    both = context.encode(IMAGE, other)
    context.encode(other)
    assert calls == [IMAGE] * 2 + [other] * 2
    assert set(both.embeddings) == {IMAGE, other}


def test_groups_of_two_words_are_joined_without_loss(context_of):
    images = unit(np.ones((4, 2)))
    words = np.array([[1, 2], [2, 1], [0, -1], [-1, -1]], dtype=np.int32)
    groups = context_of(images, {}, [()] * 4, groups=words).encode(IMAGE).groups
    assert groups.tolist() == [(1 << 32) + 2, (2 << 32) + 1, (1 << 32) - 1, -1]


def test_no_valid_row_is_an_error(context_of):
    context = context_of(unit(np.ones((4, 2))), {}, [()] * 4)
    object.__setattr__(
        context,
        "batches",
        lambda: iter([{"valid": np.zeros(4, bool), "position": np.arange(4)}]),
    )
    with pytest.raises(ValueError, match="no valid row"):
        context.encode(IMAGE)


def test_a_batch_must_say_which_rows_are_real():
    with pytest.raises(ValueError, match="'valid'"):
        real({"position": np.arange(3)})


def test_unit_vectors_have_length_one_and_zero_stays_zero():
    vectors = unit(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


def test_an_artifact_is_whole_valid_json(tmp_path):
    result = Result(
        {"R@1": 0.5, "bad": float("nan")},
        {"kind": "x", "values": np.array([[1.0, np.inf]], np.float32), "count": np.int64(3)},
    )
    write_artifact(tmp_path, 20, "ema/retrieval", result)
    folder = tmp_path / "evaluations" / "20" / "ema"
    assert [path.name for path in folder.iterdir()] == ["retrieval.json"]
    content = json.loads((folder / "retrieval.json").read_text(), parse_constant=pytest.fail)
    assert content["values"] == [[1.0, None]]
    assert content["metrics"] == {"R@1": 0.5, "bad": None}
    assert (content["name"], content["step"], content["count"]) == ("ema/retrieval", 20, 3)
