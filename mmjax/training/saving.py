"""The background half of a save: write, hear from the other processes, commit.

No collectives here, since the training step owns the devices: the processes speak through small
files in the folder they share, so a failure on one reaches process 0 at once instead of leaving
the others at a barrier.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mmjax.parallel import hosts
from mmjax.training import manifest, orbax_arrays

STATE = "state"
_POLL_SECONDS = 0.02
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
      folder: made by `manifest.begin`, with a `state` folder made by `prepare`.
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
        folder: pathlib.Path,
        step: int,
        flat: dict[str, Any],
        files: Mapping[str, str | bytes],
        metrics: Mapping[str, float],
        timeout_seconds: float,
        report: Callable[[Saved | SaveFailed], None],
    ):
        self._folder = folder
        self._step = step
        self._files = dict(files)
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
            orbax_arrays.write(self._folder / STATE, flat, self._copied.set)
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
            made = self._commit()
        except Exception as caught:
            self._report(failure(self._folder, self._step, caught))
            return
        seconds = time.monotonic() - start
        size = made.total_bytes
        message = f"checkpoint {self._step} saved: {size:,} bytes in {seconds:.1f} s"
        self._report(Saved(self._step, message, seconds, size))

    def _commit(self) -> manifest.Manifest:
        orbax_arrays.finalize(self._folder / STATE)
        for name, content in self._files.items():
            data = content.encode() if isinstance(content, str) else content
            manifest.write_synced(self._folder / name, data)
        return manifest.commit(self._folder, self._step, self._metrics)

    def _tell(self, error: Exception | None) -> None:
        """Tells process 0 what came of this process's part."""
        text = json.dumps(None if error is None else _line(error))
        deadline = time.monotonic() + self._timeout_seconds
        while self._folder.is_dir() and time.monotonic() < deadline:
            try:
                part = self._folder / _part(jax.process_index())
                manifest.write_atomic(part, text.encode())
                return
            except OSError:
                time.sleep(_RETRY_SECONDS)  # a full disk: process 0 has to hear of it all the same

    def _hear(self, error: Exception | None) -> None:
        """Waits for the other processes' parts; raises what went wrong in any."""
        deadline = time.monotonic() + self._timeout_seconds
        problems = [] if error is None else [_line(error)]
        for process in range(1, jax.process_count()):
            part = self._folder / _part(process)
            while not part.exists():
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"process {process} had not written its part after "
                        f"{self._timeout_seconds:g} s"
                    )
                time.sleep(_POLL_SECONDS)
            problem = json.loads(part.read_bytes())
            if problem is not None:
                problems.append(f"process {process}: {problem}")
            part.unlink()
        if problems:
            raise OSError("; ".join(problems))


def failure(folder: pathlib.Path, step: int, error: Exception) -> SaveFailed:
    """What to say of a save that failed, after its leftovers are removed by process 0."""
    if hosts.is_main():
        for left in (folder, folder.with_name(str(step))):
            with contextlib.suppress(OSError):  # it is no step, and the next save sweeps
                if left.exists():
                    manifest.remove(left)
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


def _part(process: int) -> str:
    return f"part-{process}.json"
