"""Feeding the devices: the right rows, errors that arrive, an end that comes."""

import threading
import time

import jax
import numpy as np
import pytest

from mmjax.data.device import Feed, to_devices
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import batch_sharding


def rows():
    return batch_sharding(make_mesh())


def test_rows_lie_over_the_devices_in_order():
    placed = to_devices({"row": np.arange(16)}, rows())["row"]
    np.testing.assert_array_equal(np.asarray(placed), np.arange(16))
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2,)}


def test_batches_come_in_order_and_then_it_ends():
    feed = Feed(lambda: iter([{"main": {"row": np.full(8, k)}} for k in range(5)]), rows())
    assert [int(batch["main"]["row"][0]) for batch in feed] == list(range(5))
    feed.close()


def test_an_error_while_reading_reaches_the_loop():
    def broken():
        yield {"main": {"row": np.arange(8)}}
        raise RuntimeError("disk is gone")

    feed = Feed(broken, rows())
    next(feed)
    with pytest.raises(RuntimeError, match="disk is gone"):
        next(feed)
    feed.close()


def test_a_stalled_pipeline_is_an_error_that_says_who_is_late():
    let_go = threading.Event()

    def stuck():
        let_go.wait(20)
        yield {}

    feed = Feed(
        stuck, rows(), stall_seconds=0.2, describe=lambda taken: f"worker {taken} is stuck."
    )
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="worker 0 is stuck"):
        next(feed)
    assert time.monotonic() - started < 10
    let_go.set()
    feed.close()


def test_closing_ends_the_thread_and_the_iterator_behind_it():
    closed = []

    def endless():
        try:
            while True:
                yield {"main": {"row": np.arange(8)}}
        finally:
            closed.append(True)

    feed = Feed(endless, rows())
    next(feed)
    feed.close()
    assert closed == [True]
    assert not any(thread.name == "feed" for thread in threading.enumerate())


def test_words_arrive_as_global_arrays():
    feed = Feed(lambda: iter([{"main": {"x": np.zeros((8, 2), np.float32)}}]), rows())
    batch = next(feed)["main"]
    assert isinstance(batch["x"], jax.Array)
    assert batch["x"].sharding == rows()
    feed.close()
