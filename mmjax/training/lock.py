"""The lock of a workdir: one writer, and a dead one does not keep the others out.

On the same host (same boot, same process namespace) a process is asked for directly, by its number
and its start time, since numbers are used again. A process elsewhere is judged by its heartbeat
alone, and clocks are not trusted for that: a heartbeat that is old, or lies in the future, must
also stay unchanged while it is watched.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

from mmjax.training.heart import Heart
from mmjax.training.holder import WIDTH, ask, decode, encode, this_process
from mmjax.training.holder import name as holder_name

LOCK = "lock.json"
STALE_SECONDS = 60.0
WATCHED_BEATS = 2.5  # how long a heartbeat that is old already is watched


class Busy(ValueError):
    """Another process writes this workdir; the message names it."""


class Lock(Heart):
    """Holds `lock.json` of a workdir from `acquire` to `release`; one process of a run needs it.

    Args:
      workdir: an existing folder.
      stale_seconds: without a heartbeat for so long, a process on another host is given up.
    """

    def __init__(self, workdir: str | os.PathLike, stale_seconds: float = STALE_SECONDS):
        super().__init__(stale_seconds)
        self._path = pathlib.Path(workdir).absolute() / LOCK

    def acquire(self) -> None:
        """Takes the lock, from a dead process too; then keeps its heart beating.

        Raises:
          Busy: another process writes here.
          OSError: the folder cannot be written.
        """
        with _alone(self._path.parent) as alone:
            if alone:
                for dead in self._path.parent.glob(f".{LOCK}.*"):  # of one killed right here
                    dead.unlink(missing_ok=True)
            found = _read(self._path)
            if found is not None:
                if problem := self._alive(found):
                    raise Busy(
                        f"{self._path.parent} is being written by {problem}. Wait for it, stop it, "
                        "or choose another --workdir."
                    )
                self._clear(found)
            self._create()
        self._start()

    @property
    def lost(self) -> bool:
        """True when another process took the lock, this one having been silent for too long."""
        found = self._found()
        return bool(self._mine) and (found is None or found.get("token") != self._mine["token"])

    def _create(self) -> None:
        self._mine = {**this_process(), "token": uuid.uuid4().hex}
        temporary = self._path.with_name(f".{LOCK}.{self._mine['token'][:8]}.tmp")
        try:
            temporary.write_bytes(encode({**self._mine, "heartbeat": time.time()}))
            try:
                os.link(temporary, self._path)  # whole from its first moment, and only if free
            except FileExistsError:
                self._mine = {}
                raise Busy(
                    f"{self._path.parent} was taken by another process this very moment."
                ) from None
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                    raise
                _create_exclusive(self._path, temporary.read_bytes())
        except OSError as error:
            self._mine = {}
            if error.errno:
                error.filename = error.filename or str(self._path)
            raise
        finally:
            temporary.unlink(missing_ok=True)

    def _clear(self, judged: dict[str, Any]) -> None:
        """Removes a stale lock, unless another process has replaced it meanwhile."""
        aside = self._path.with_name(f".{LOCK}.{uuid.uuid4().hex[:8]}.stale")
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._path, aside)
            if (_read(aside) or {}).get("token") != judged.get("token"):
                with contextlib.suppress(OSError):
                    os.link(aside, self._path)
            aside.unlink(missing_ok=True)

    def _alive(self, found: dict[str, Any]) -> str | None:
        """Who writes here, in words; None where nobody does any more."""
        asked = ask(found)
        if asked is not None:
            return asked or None
        name = holder_name(found)
        beat, seconds = found.get("heartbeat"), WATCHED_BEATS * self._beat_seconds
        if not isinstance(beat, int | float):
            return self._watch(found, f"a process that left no heartbeat in {LOCK}", seconds)
        age = time.time() - beat
        if abs(age) <= self._stale_seconds:
            return (
                f"{name} (heartbeat {max(age, 0):.0f} s ago, "
                f"given up after {self._stale_seconds:.0f} s)"
            )
        return self._watch(found, name, seconds)

    def _beat(self) -> None:
        with contextlib.suppress(OSError):
            self.taken = self.lost
        with contextlib.suppress(OSError), open(self._path, "r+b", buffering=0) as file:
            found = decode(file.read(WIDTH))
            if found.get("token") == self._mine["token"]:
                file.seek(0)
                file.write(encode({**self._mine, "heartbeat": time.time()}))

    def _found(self) -> dict[str, Any] | None:
        return _read(self._path)

    def _remove(self) -> None:
        found = self._found()
        if found is not None and found.get("token") == self._mine["token"]:
            self._path.unlink(missing_ok=True)


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """What a lock says; {} where it is unreadable, None where there is none."""
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        return None


def _create_exclusive(path: pathlib.Path, data: bytes) -> None:
    """For file systems without hard links."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[bool]:
    """One process at a time judges a lock; False where the file system cannot see to that."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            yield False  # what is left is that link() takes only a free name
        else:
            yield True
    finally:
        os.close(handle)
