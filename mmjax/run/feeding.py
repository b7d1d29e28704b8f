"""Streams of batches on the devices, and who is to blame where one does not come."""

import contextlib
from collections.abc import Iterator, Mapping

import jax

from mmjax.data.device import Feed
from mmjax.data.pipeline import BatchMaker, Mismatch, Reading, batches
from mmjax.data.sources.fetching import FetchError
from mmjax.training.failing import Failed
from mmjax.typing import Batch


@contextlib.contextmanager
def late_is_failure() -> Iterator[None]:
    """A batch that does not come, or does not suit, ends the run with a line, not a traceback."""
    try:
        yield
    except (TimeoutError, FetchError, Mismatch) as error:
        raise Failed(str(error)) from error


def open_feed(
    makers: Mapping[str, BatchMaker],
    start: int,
    stop: int,
    reading: Reading,
    sharding: jax.sharding.Sharding,
) -> Feed:
    """Feeds batches start ... stop-1 of some streams to the devices; close it.

    Args:
      makers: {stream: makes its batches}.
      start: number of the first batch.
      stop: one past the last.
      reading: threads or processes, and how long to wait.
      sharding: of the rows.

    Returns:
      {stream: Batch} one after the other; `next` raises `Failed` where a worker died and
      TimeoutError where none came in `reading.stall_seconds`, both naming the worker.
    """
    awaited = [next(iter(makers)), 0]  # stream, batches since the start

    def who() -> str:
        stream, number = awaited
        if not reading.workers:
            return f"a decoding thread of stream {stream!r}"
        return f"worker {number % reading.workers} of {reading.workers} of stream {stream!r}"

    def streams() -> Iterator[dict[str, Batch]]:
        opened = {name: batches(maker, start, stop, reading) for name, maker in makers.items()}
        try:
            for number in range(stop - start):
                made = {}
                for name, iterator in opened.items():
                    awaited[:] = name, number
                    made[name] = next(iterator)
                yield made
        except RuntimeError as error:  # grain's, once a worker process is gone
            if not reading.workers:
                raise
            raise Failed(
                f"{who()} ended: {error} Out of memory, or ended by hand? The same command goes "
                "on from the last checkpoint, or begins anew where there is none."
            ) from error
        finally:
            for iterator in opened.values():
                iterator.close()

    def late(_: int) -> str:
        return f"{who()} is stuck."

    return Feed(streams, sharding, reading.ahead, reading.stall_seconds, describe=late)
