"""The background half of a save: write, hear from the other processes, commit.

No collectives here, since the training step owns the devices: the processes speak through small
files in the folder (or store) they share, so a failure on one reaches process 0 at once instead of
leaving the others at a barrier.
"""

import dataclasses
import errno
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mmjax.parallel import hosts
from mmjax.training import orbax_arrays
from mmjax.training.shelf import STATE, Part

_RETRY_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Saved:
    """A save that is committed: it survives everything but damage to the disk."""

    step: int
    message: str
    seconds: float
    total_bytes: int


@dataclasses.dataclass(frozen=True)
class SaveFailed:
    """A save that failed; training goes on, nothing of it is left, the next one is not skipped."""

    step: int
    message: str


class Save:
    """One save under way, in a thread of its own.

    Args:
      part: this process's; process 0 has begun it.
      step: the training step.
      flat: {path: array}.
      files: {name: content} to stand beside the state.
      metrics: numbers for the manifest.
      timeout_seconds: how long process 0 waits for the others' parts.
      report: called in the thread with what came of it; on processes other than 0 with failures of
        their own alone.
    """

    def __init__(
        self,
        part: Part,
        step: int,
        flat: dict[str, Any],
        files: Mapping[str, str | bytes],
        metrics: Mapping[str, float],
        timeout_seconds: float,
        report: Callable[[Saved | SaveFailed], None],
    ):
        self._part = part
        self._step = step
        self._files = {
            name: content.encode() if isinstance(content, str) else content
            for name, content in files.items()
        }
        self._metrics = dict(metrics)
        self._timeout_seconds = timeout_seconds
        self._report = report
        self._copied = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(flat,), name=f"checkpoint {step}", daemon=True
        )

    def start(self) -> None:
        """Returns once the arrays are on the host and may be donated."""
        self._thread.start()
        self._copied.wait()

    def join(self) -> None:
        """Returns once the save is committed or has failed."""
        self._thread.join()

    def _work(self, flat: dict[str, Any]) -> None:
        start, error = time.monotonic(), None
        try:
            self._part.prepare()
            orbax_arrays.write(self._part.folder / STATE, flat, self._copied.set)
            if not hosts.is_main():
                self._part.deliver()
        except Exception as caught:
            error = caught
        finally:
            self._copied.set()
        flat.clear()  # the host's copies go with it
        try:
            if not hosts.is_main():
                self._tell(error)
                if error:
                    raise error
                return
            self._hear(error)
            made = self._part.commit(self._files, self._metrics)
        except Exception as caught:
            self._report(failure(self._part, self._step, caught))
            return
        seconds = time.monotonic() - start
        size = made.total_bytes
        message = f"checkpoint {self._step} saved: {size:,} bytes in {seconds:.1f} s"
        self._report(Saved(self._step, message, seconds, size))

    def _tell(self, error: Exception | None) -> None:
        """Tells process 0 what came of this process's part."""
        text = json.dumps(None if error is None else _line(error))
        deadline = time.monotonic() + self._timeout_seconds
        while self._part.is_open() and time.monotonic() < deadline:
            try:
                self._part.tell(text)
                return
            except OSError:
                time.sleep(_RETRY_SECONDS)  # a full disk: process 0 has to hear of it all the same

    def _hear(self, error: Exception | None) -> None:
        """Waits for the other processes' parts; raises what went wrong in any."""
        deadline = time.monotonic() + self._timeout_seconds
        problems = [] if error is None else [_line(error)]
        for process in range(1, jax.process_count()):
            while (told := self._part.told(process)) is None:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"process {process} had not written its part after "
                        f"{self._timeout_seconds:g} s"
                    )
                time.sleep(self._part.poll_seconds)
            problem = json.loads(told)
            if problem is not None:
                problems.append(f"process {process}: {problem}")
        if problems:
            raise OSError("; ".join(problems))


def failure(part: Part, step: int, error: Exception) -> SaveFailed:
    """What to say of a save that failed, after its leftovers are removed by process 0."""
    if hosts.is_main():
        part.discard()
    return failed(step, error)


def failed(step: int, error: Exception) -> SaveFailed:
    """What to say of a save that failed."""
    return SaveFailed(step, f"checkpoint {step} could not be saved: {_line(error)}")


def _line(error: Exception) -> str:
    """One line that begins with the system's own words, which TensorStore puts last of many."""
    text = " ".join(str(error).split()) or type(error).__name__
    if len(text) <= 200:
        return text
    words = (os.strerror(number) for number in errno.errorcode)
    return (
        f"{next((word for word in words if word in text), type(error).__name__)}; {text[:150]}..."
    )
