"""Many small objects in one text."""

import pickle

import pytest

from mmjax.data.sources.packed import PackedRows

ROWS = [{"question": "wie groß?", "at": [1, None]}, {}, {"n": 3}]


def test_rows_are_what_was_packed():
    packed = pickle.loads(pickle.dumps(PackedRows(iter(ROWS))))
    assert [packed[place] for place in range(len(packed))] == ROWS
    assert packed.checksum == PackedRows(ROWS).checksum != PackedRows(ROWS[:2]).checksum
    for place in (-1, 3):
        with pytest.raises(IndexError, match=f"Sample {place} of 3"):
            packed[place]
