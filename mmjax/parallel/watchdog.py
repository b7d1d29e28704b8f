"""A watchdog that ends a stuck process from outside Python, and a witness that says where.

`faulthandler` counts in a thread of C, so it needs no interpreter: a main thread that sleeps for
ever, or waits in C++ for a process that will never answer, is ended all the same.
"""

import atexit
import contextlib
import faulthandler
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from mmjax.parallel import witness
from mmjax.parallel.limits import Watchdog

_LAST_SECONDS = 5.0  # process 0 is ended later, since its end takes the others' with it


class Witness:
    """This process's end of the pipes to its witness; a witness that died is not missed.

    Args:
      process: this process's number.
      processes: of the job.
    """

    def __init__(self, process: int = 0, processes: int = 1):
        read, self._stacks = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(pathlib.Path(witness.__file__)), str(read)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=(read,),
        )
        os.close(read)
        self._lock = threading.Lock()
        of = f"process {process} of {processes}" if processes > 1 else "the run"
        self._late = _LAST_SECONDS if processes > 1 and process == 0 else 0.0
        self.name = f"{of} ({socket.gethostname()}, pid {os.getpid()})"
        main = hex(threading.main_thread().ident or 0)
        self.tell(who=self.name, pid=os.getpid(), main=main, processes=processes)

    def tell(self, **facts: Any) -> None:
        """Says something that the witness is to remember."""
        line = json.dumps(facts).encode() + b"\n"
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def arm(self, seconds: float) -> None:
        """Ends this process with all stacks, unless called again or disarmed within."""
        faulthandler.dump_traceback_later(seconds + self._late, exit=True, file=self._stacks)

    def goodbye(self) -> None:
        """Disarms, and lets the witness go without a word."""
        faulthandler.cancel_dump_traceback_later()
        self.tell(bye=True)
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        with contextlib.suppress(OSError):
            os.close(self._stacks)


_witness: Witness | None = None


def begin_witness(process: int = 0, processes: int = 1) -> Witness:
    """The witness of this process, started where there is none."""
    global _witness
    if _witness is None:
        _witness = Witness(process, processes)
        atexit.register(end_witness)
    return _witness


def end_witness() -> None:
    """Lets the witness go; the run has said itself what there is to say."""
    global _witness
    if _witness is not None:
        made, _witness = _witness, None
        atexit.unregister(end_witness)
        made.goodbye()


class Watch:
    """The watchdog of a run; use it as a context manager, outside which nothing is timed.

    Args:
      limits: of the parts of a run.
    """

    def __init__(self, limits: Watchdog):
        self._limits = limits
        self._witness: Witness | None = None
        self._doing = ("its start", "compile_seconds")

    def __enter__(self) -> "Watch":
        self._witness = begin_witness()
        self._do(*self._doing)
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._witness = None

    def compiling(self, what: str) -> None:
        """From now on: restoring, compiling and the first step."""
        self._do(what, "compile_seconds")

    def stepping(self, step: int) -> None:
        """From now on: one step."""
        self._do(f"step {step}", "step_seconds")

    @contextlib.contextmanager
    def evaluating(self, step: int) -> Iterator[None]:
        """Within it: an evaluation; then what was before it, with its whole time again."""
        with self._within(f"the evaluation at step {step}", "evaluation_seconds"):
            yield

    @contextlib.contextmanager
    def saving(self, step: int) -> Iterator[None]:
        """Within it: a save, as far as the training waits for it; then what was before it."""
        with self._within(f"the save at step {step}", "save_seconds"):
            yield

    @contextlib.contextmanager
    def _within(self, what: str, key: str) -> Iterator[None]:
        before = self._doing
        self._do(what, key)
        yield
        self._do(*before)

    def _do(self, what: str, key: str) -> None:
        self._doing = (what, key)
        if self._witness is not None:
            seconds = getattr(self._limits, key)
            self._witness.tell(doing=what, limit=seconds, key=key)
            self._witness.arm(seconds)
