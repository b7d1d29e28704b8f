"""Worker processes: they end with their trainer, and their shared memory ends with them.

Grain hands batches over in shared memory, which outlives processes. Python's own resource tracker
removes most of what the dead leave, but not what a worker had made and not yet told it of, nor
anything where it is killed too. So the segments are named after the trainer, and each trainer
removes its own at its end and those of dead ones at its start.
"""

import atexit
import contextlib
import ctypes
import functools
import multiprocessing
import os
import pathlib
import secrets
import signal
import sys
from multiprocessing import resource_tracker, shared_memory
from typing import Any

_SHARED = pathlib.Path("/dev/shm")


def _space() -> str:
    """'mmjax-space-', as numbers of processes mean something within their name space alone, and
    containers may share /dev/shm."""
    try:
        return f"mmjax-{os.stat('/proc/self/ns/pid').st_ino}-"
    except OSError:
        return "mmjax-0-"


@functools.cache
def prepare() -> str:
    """Once in a trainer: removes what dead ones left, and sees to its own end.

    Returns:
      What the names of its segments begin with, to be given to `begin`.
    """
    space = _space()
    for path in (*_SHARED.glob(f"{space}*"), *_SHARED.glob(f"sem.{space}*")):
        pid = path.name.partition(space)[2].split("-")[0]
        if pid.isdigit() and not pathlib.Path("/proc", pid).exists():
            with contextlib.suppress(OSError):  # another start was faster
                path.unlink()
    atexit.register(release)
    # Locks and queues between the processes lie there too.
    multiprocessing.current_process()._config["semprefix"] = f"/{space}{os.getpid()}"
    return f"{space}{os.getpid()}-"


def begin(prefix: str, *_: Any) -> None:
    """First thing in a worker.

    Args:
      prefix: what `prepare` returned in the trainer.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # the trainer's to answer, though all get them
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        # The kernel ends this worker when its trainer is gone, even by kill -9.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
        shared_memory._make_filename = lambda: f"/{prefix}{secrets.token_hex(8)}"


def release(locks: bool = False) -> None:
    """Removes this trainer's segments, at its end; arrays in use stay usable.

    Args:
      locks: whether its locks and queues too: only where the process then ends at once, since
        Python's own exit removes them and complains of one that is gone.
    """
    own = f"{_space()}{os.getpid()}-"
    found = [(path, path.name, "shared_memory") for path in _SHARED.glob(f"{own}*")]
    if locks:
        paths = _SHARED.glob(f"sem.{own}*")
        found += [(path, path.name.removeprefix("sem."), "semaphore") for path in paths]
    for path, name, kind in found:
        with contextlib.suppress(OSError):
            path.unlink()
            # Or the tracker would complain of a leak; and of a name that it has not heard of.
            resource_tracker.register(f"/{name}", kind)
            resource_tracker.unregister(f"/{name}", kind)
