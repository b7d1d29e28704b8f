"""What every lock of a workdir has in common: held with a beating heart, given back at the end."""

import abc
import atexit
import contextlib
import os
import threading
import time
from typing import Any

BEATS = 6  # heartbeats in the time after which a silent holder is given up


class Heart(abc.ABC):
    """A lock that says in regular beats that its holder lives.

    Args:
      stale_seconds: without a heartbeat for so long, a process on another host is given up.
    """

    _glance_seconds = 0.2  # between two looks at a lock that is watched

    def __init__(self, stale_seconds: float):
        self._stale_seconds = stale_seconds
        self._beat_seconds = stale_seconds / BEATS
        self._mine: dict[str, Any] = {}
        self._stop = threading.Event()
        self._beats: threading.Thread | None = None
        self.taken = False  # as `lost`, but as the last heartbeat found it: costs nothing

    @abc.abstractmethod
    def _found(self) -> dict[str, Any] | None:
        """What the lock says now; {} where it is unreadable, None where there is none."""

    @abc.abstractmethod
    def _beat(self) -> None:
        """One heartbeat, or that the lock was taken by another."""

    @abc.abstractmethod
    def _remove(self) -> None:
        """Removes the lock where it is still ours."""

    def _start(self) -> None:
        """The lock is ours: keeps the heart beating until `release`, or the process ends."""
        self._stop.clear()
        atexit.register(self.release)
        self._beats = threading.Thread(target=self._beating, name="lock", daemon=True)
        self._beats.start()

    def release(self) -> None:
        """Gives the lock back; a lock that is no longer ours stays. Twice does no harm."""
        if not self._mine or os.getpid() != self._mine["pid"]:
            return  # a forked worker holds a copy of this object, not the lock
        self._stop.set()
        if self._beats is not None:
            self._beats.join()
        with contextlib.suppress(OSError):  # then it goes stale
            self._remove()
        self._mine = {}
        atexit.unregister(self.release)

    def _watch(self, found: dict[str, Any], who: str, seconds: float) -> str | None:
        """`who` where the lock changes meanwhile, whatever the clocks say."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(min(self._glance_seconds, self._beat_seconds / 4))
            now = self._found()
            if now is None:
                return None
            if now != found:
                return who
        return None

    def _beating(self) -> None:
        while not self._stop.wait(self._beat_seconds):
            self._beat()
