"""Blocks of rows to global arrays on the devices, a little ahead of the step."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from mmjax.typing import Batch


def to_devices(batch: Batch, sharding: jax.sharding.Sharding) -> Batch:
    """One global array a word, from each process's block of rows."""
    return {
        word: jax.make_array_from_process_local_data(sharding, np.asarray(value))
        for word, value in batch.items()
    }


def flags_to_devices(value: int, mesh: jax.sharding.Mesh) -> jax.Array:
    """Each process's own number, once for each of its devices, as one global int32 array."""
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
    flags = np.full(len(mesh.local_devices), value, np.int32)
    return to_devices({"flags": flags}, sharding)["flags"]


class Feed:
    """Takes batches from an iterator in a thread and has them on the devices before they are due.

    Args:
      make: opens the iterator of {stream: local batch}; called in the feeding thread.
      sharding: of the rows.
      ahead: batches on the devices at once.
      stall_seconds: how long `next` waits.
      describe: says who is late, for the error.
    """

    def __init__(
        self,
        make: Callable[[], Iterator[Mapping[str, Batch]]],
        sharding: jax.sharding.Sharding,
        ahead: int = 2,
        stall_seconds: float = 300.0,
        describe: Callable[[int], str] = lambda taken: "",
    ):
        self._sharding = sharding
        self._ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=ahead)
        self._stop = threading.Event()
        self._stall_seconds = stall_seconds
        self._describe = describe
        self._taken = 0
        self._join_seconds = 30.0
        self.waited_seconds = 0.0
        self._thread = threading.Thread(target=self._run, args=(make,), daemon=True, name="feed")
        self._thread.start()

    def _run(self, make: Callable[[], Iterator[Mapping[str, Batch]]]) -> None:
        iterator: Any = None
        try:
            iterator = make()
            for streams in iterator:
                placed = {
                    name: to_devices(batch, self._sharding) for name, batch in streams.items()
                }
                if not self._put(("batch", placed)):
                    return
            self._put(("end", None))
        except BaseException as error:  # reaches the loop, whatever it is
            self._put(("error", error))
        finally:
            if hasattr(iterator, "close"):
                iterator.close()

    def _put(self, item: tuple[str, Any]) -> bool:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> dict[str, Batch]:
        started = time.monotonic()
        try:
            kind, value = self._ready.get(timeout=self._stall_seconds)
        except queue.Empty:
            self._join_seconds = 1.0  # it may be stuck for good
            raise TimeoutError(
                f"no batch for {self._stall_seconds:.0f} s: {self._describe(self._taken)} Look at "
                "the disk or mount, or raise --config.reading.stall_seconds."
            ) from None
        self.waited_seconds += time.monotonic() - started
        if kind == "error":
            raise value
        if kind == "end":
            raise StopIteration
        self._taken += 1
        return value

    def close(self) -> None:
        """Ends the thread and the workers behind it."""
        self._stop.set()
        self._thread.join(timeout=self._join_seconds)
