"""A workdir at an address: the run works in a folder of this host, the store holds what counts.

That folder lies in $MMJAX_CACHE, one for each process, and is deleted at the end; a killed one's
goes at the next start on the host.
"""

import contextlib
import fcntl
import os
import pathlib
import posixpath
import shutil
import time
import uuid
from collections.abc import Iterator
from typing import Any

from mmjax.data.sources.index import cache_folder
from mmjax.parallel import hosts
from mmjax.training import workdir
from mmjax.training.checkpoint import Checkpoints
from mmjax.training.mirror import PART, Mirror
from mmjax.training.object_lock import ObjectLock
from mmjax.training.remote_shelf import RemoteShelf
from mmjax.training.store import Store
from mmjax.training.workdir import CHECKPOINTS, CONFIG, METRICS, OWN, Decision, Found, Held

_STAGING = "workdirs"
_HELD = ".held"


class RemoteHome:
    """See `Home`.

    Args:
      name: an address such as gs://bucket/run.

    Raises:
      ValueError: an unknown protocol, or one whose package is missing.
      OSError: the store cannot be reached, or this host has no room.
    """

    def __init__(self, name: str):
        self.name = name.rstrip("/")
        self._store = Store(self.name)
        self._staging, self._held = _stage()
        # In a folder of its own: the last part of an address may be named as those beside it are.
        self.folder = self._staging / "run" / posixpath.basename(self.name)
        self.folder.mkdir(parents=True)
        self._mirror = Mirror(self._store, self.folder)
        self._steps = Store(f"{self.name}/{CHECKPOINTS}")
        self._shelf = RemoteShelf(
            self._steps, self._staging / CHECKPOINTS, lambda: self._mirror.push(large=True)
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[Held | None]:
        """Holds the lock; what is written from now on is written only while it is held."""
        lock = ObjectLock(self.name) if hosts.is_main() else None
        with workdir.hold(lock):
            if lock is not None:
                self._store.guard = self._steps.guard = lock.guard
            yield lock

    def decide(self, config: str, resume: bool, overwrite: bool) -> Decision:
        """What is to be done."""
        return workdir.decide_on(self._look, config, resume, overwrite)

    def begin(self, config: str, decision: Decision) -> None:
        """Brings what the run goes on with.

        A store cannot rename, so nothing of an overwritten run is touched yet; it is as if it were
        not there.

        Raises:
          ValueError: the store cannot be reached.
        """
        if decision.action == "overwrite":
            self._shelf.hidden = True
        else:
            self.look()
            if decision.action != "resume":
                self._write_config(config)

    def accept(self, config: str, decision: Decision) -> None:
        """Deletes an overwritten run, config.json first, and writes the new config.

        Raises:
          ValueError: the store cannot be reached.
        """
        if decision.action == "overwrite":
            workdir.together(self._delete)
            self._shelf.hidden = False
        if decision.action in ("overwrite", "resume"):
            self._write_config(config)
        if hosts.is_main():
            self._mirror.start()

    def put_back(self) -> None:
        """Nothing: what was there is there."""

    def begun(self) -> bool:
        """Whether there are checkpoints."""
        return bool(self._shelf.steps())

    def read(self, name: str) -> bytes | None:
        """An object's content."""
        return self._store.read(name)

    def path(self, name: str) -> pathlib.Path:
        """An object, brought here."""
        path = self._staging / "files" / name
        with contextlib.suppress(FileNotFoundError):
            self._store.download(name, path)
        return path

    def look(self) -> None:
        """Brings the small files and the metrics to process 0.

        Raises:
          ValueError: the store cannot be reached; on all processes.
        """
        workdir.together(self._mirror.pull)

    def share(self, name: str) -> None:
        """Gives the other processes process 0's file, past the store."""
        path = self.folder / name
        data = hosts.broadcast_bytes(path.read_bytes() if hosts.is_main() else b"")
        if not hosts.is_main():
            path.write_bytes(data)

    def checkpoints(self, **options: Any) -> Checkpoints:
        """Those of the store."""
        return Checkpoints(self._staging / CHECKPOINTS, shelf=self._shelf, **options)

    def publish(self) -> None:
        """Has what changed put soon."""
        self._mirror.kick()

    def close(self, write: bool = True) -> None:
        """Puts the rest, and deletes the folder here.

        Raises:
          StoreError: something could not be put.
        """
        if self._held < 0:
            return
        self._mirror.close()
        try:
            if write and hosts.is_main():
                held = self._store.guard is not None  # else a run may be writing beside this
                self._mirror.push(large=True, metrics=held)
        finally:
            _remove(self._staging)
            os.close(self._held)
            self._held = -1

    def child(self, name: str) -> str:
        """The address within."""
        return f"{self.name}/{name}"

    def _look(self) -> Found:
        listed = self._store.sizes()
        tops = {METRICS if PART.fullmatch(top) else top for top in _tops(listed)}
        return Found(
            name=self.name,
            own=tuple(name for name in OWN if name in tops),
            config=lambda: self._store.read(CONFIG, listed[CONFIG]) if CONFIG in tops else None,
            steps=self.begun(),
        )

    def _write_config(self, config: str) -> None:
        workdir.together(lambda: self._store.write(CONFIG, config.encode()))
        (self.folder / CONFIG).write_text(config, encoding="utf-8")

    def _delete(self) -> None:
        """What a run writes, and no other object; what is left half-way never looks like a run."""
        listed = self._store.sizes()
        self._store.delete([CONFIG])
        own = [name for name in listed if name.partition("/")[0] in OWN or PART.fullmatch(name)]
        manifests = [name for name in own if name.endswith("/manifest.json")]
        self._store.delete(manifests)
        self._store.delete(set(own) - set(manifests))


def _tops(names: Any) -> set[str]:
    return {name.partition("/")[0] for name in names}


def _remove(folder: pathlib.Path) -> None:
    """Deletes a folder; what a thread still writes while it is emptied would keep it."""
    for _ in range(5):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _stage() -> tuple[pathlib.Path, int]:
    """A new folder of this process, and the open file that says so; the dead ones' are deleted."""
    parent = pathlib.Path(cache_folder()) / _STAGING
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for other in parent.iterdir():
        with contextlib.suppress(OSError):  # somebody's who lives, or who begins just now
            os.close(_hold(other, os.O_RDWR))
            shutil.rmtree(other, ignore_errors=True)
    staging = parent / uuid.uuid4().hex[:12]
    staging.mkdir(mode=0o700)
    held = _hold(staging, os.O_RDWR | os.O_CREAT, f"{_HELD}.new")
    os.rename(staging / f"{_HELD}.new", staging / _HELD)  # locked before another can open it
    return staging, held


def _hold(folder: pathlib.Path, flags: int, name: str = _HELD) -> int:
    """The folder's mark, locked by this process; OSError where another one has it."""
    handle = os.open(folder / name, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle
