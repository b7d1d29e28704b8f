"""The Source interface and the causes of bad samples."""

import pickle

import pytest

from mmjax.data.sources import base


def test_a_bad_sample_survives_the_way_out_of_a_worker_process():
    error = pickle.loads(pickle.dumps(base.BadSample("read", "a.tar: b.jpg is cut")))
    assert (error.cause, error.message) == ("read", "a.tar: b.jpg is cut")
    assert str(error) == "read: a.tar: b.jpg is cut"


def test_a_cause_that_is_not_counted_is_refused():
    with pytest.raises(ValueError, match="checksum"):
        base.BadSample("unlucky", "")


def test_a_message_can_always_be_printed():
    assert str(base.BadSample("read", "\ud800.jpg: ü")) == "read: \\ud800.jpg: ü"


def test_the_order_of_causes_stays_as_checkpoints_hold_it():
    known = ("missing", "checksum", "read", "format", "too_large", "decode", "caption")
    assert base.CAUSES[: len(known)] == known


def test_a_source_must_say_everything_that_sources_say():
    class Half(base.Source):
        def __len__(self) -> int:
            return 0

    with pytest.raises(TypeError, match="abstract"):
        Half()


def test_equal_facts_have_equal_digests_whatever_their_order():
    assert base.digest({"a": 1, "b": [2, "ü"]}) == base.digest({"b": [2, "ü"], "a": 1})
    assert base.digest({"a": 1}) != base.digest({"a": 2})
    assert len(base.digest([])) == 16
