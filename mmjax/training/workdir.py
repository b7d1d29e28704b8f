"""The workdir of a run: who may write it, and whether it is this run's.

    with workdir.locked(folder):                          # Busy: one clear line
        decision = workdir.decide(folder, config_json, resume=False, overwrite=False)
        ...                                               # look at decision.changes
        workdir.settle(folder, config_json, decision)     # now config.json is the new one

The same command on a workdir that holds the same config goes on with it. Process 0 looks and
decides, the others get its answer, so all processes call these alike.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from mmjax.parallel import hosts
from mmjax.training import manifest
from mmjax.training.lock import STALE_SECONDS, Busy, Lock
from mmjax.training.object_lock import ObjectLock

__all__ = [
    "CONFIG",
    "METRICS",
    "NO_ROOM",
    "Busy",
    "Decision",
    "Found",
    "Held",
    "compare_config",
    "decide",
    "decide_on",
    "hold",
    "locked",
    "settle",
    "together",
]

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
# What a run writes, and so what --overwrite may remove: never a foreign file. config.json goes
# first and the checkpoints last, so that an interrupted --overwrite never looks like a run.
OWN = (
    CONFIG,
    "report.html",
    METRICS,
    "preprocess.json",
    "tokenizer.json",
    "tokenizer.model",
    "answers.json",
    "origin.json",
    "aside.npz",
    "environment.json",
    "tensorboard",
    "evaluations",
    CHECKPOINTS,
)
_OVERWRITTEN = ".overwritten"
Held = Lock | ObjectLock
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Decision:
    """What is to be done with a workdir.

    Attributes:
      action: 'start' (it holds no run), 'continue' (the same config), 'resume' (go on with another
        config) or 'overwrite' (start anew).
      changes: 'path: old → new' for each value that differs from the saved config.
    """

    action: str
    changes: tuple[str, ...] = ()

    @property
    def fresh(self) -> bool:
        """True where training starts from step 0."""
        return self.action in ("start", "overwrite")


@dataclasses.dataclass(frozen=True)
class Found:
    """What a workdir holds.

    Attributes:
      name: folder or address, for people.
      own: the names of `OWN` that are there.
      config: reads config.json; None where there is none. Not asked where a run is overwritten,
        so that one that cannot be read may be.
      steps: whether anything is named as a checkpoint is.
    """

    name: str
    own: tuple[str, ...]
    config: Callable[[], bytes | None]
    steps: bool


@contextlib.contextmanager
def locked(
    workdir: str | os.PathLike, stale_seconds: float = STALE_SECONDS
) -> Iterator[Lock | None]:
    """Makes the workdir and holds its lock; only process 0 locks, all fail together.

    Args:
      workdir: the folder; made where it is missing.
      stale_seconds: without a heartbeat for so long, a writer on another host is given up.

    Yields:
      The lock on process 0 (its `lost` says whether it was taken away), None elsewhere.

    Raises:
      Busy: another process writes here.
      ValueError: the folder cannot be made or written.
    """
    lock = Lock(workdir, stale_seconds) if hosts.is_main() else None
    with hold(lock, lambda: _make(pathlib.Path(workdir))):
        yield lock


@contextlib.contextmanager
def hold(lock: Held | None, prepare: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds a lock that process 0 has; where it cannot be taken, all fail together.

    Raises:
      Busy: another process writes here.
      ValueError: the workdir cannot be made or written.
    """

    def take() -> None:
        if lock is not None:
            prepare()
            lock.acquire()

    together(take)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def compare_config(saved: str, new: str) -> list[str]:
    """The values in which two configs differ, as 'a.b[0].c: old → new'.

    Args:
      saved, new: the configs as JSON.

    Raises:
      ValueError: one of them is no JSON.
    """
    changes: list[str] = []
    _compare("", json.loads(saved), json.loads(new), changes)
    return changes


def decide(
    workdir: str | os.PathLike, config: str, resume: bool = False, overwrite: bool = False
) -> Decision:
    """Says whether a run starts, goes on or is refused; changes nothing.

    Args:
      workdir: the folder, which may be missing.
      config: the new run's resolved config as JSON.
      resume: go on although the config differs.
      overwrite: start anew whatever is there.

    Raises:
      ValueError: both flags, another config without a flag, or checkpoints without a config.
    """
    return decide_on(lambda: _look(pathlib.Path(workdir)), config, resume, overwrite)


def decide_on(
    look: Callable[[], Found], config: str, resume: bool = False, overwrite: bool = False
) -> Decision:
    """As `decide`, on what process 0 sees when it looks."""
    if resume and overwrite:
        raise ValueError("--resume goes on and --overwrite starts anew; give one of the two.")
    found = together(lambda: _decide(look(), config, resume, overwrite))
    return Decision(found["action"], tuple(found["changes"]))


def settle(workdir: str | os.PathLike, config: str, decision: Decision) -> None:
    """Does what was decided: moves an overwritten run out of the way, writes the new config.

    What was moved is gone with `forget`, and there again with `put_back`.

    Raises:
      ValueError: the folder cannot be written.
    """
    folder = pathlib.Path(workdir)

    def act() -> None:
        _make(folder)
        forget(folder)  # what a process that was killed has left
        if decision.action == "overwrite":
            _move_away(folder)
        manifest.write_atomic(folder / CONFIG, config.encode())

    together(act)


def forget(workdir: str | os.PathLike) -> None:
    """Deletes an overwritten run, once nothing can refuse the new one; each process may call it."""
    if hosts.is_main():
        shutil.rmtree(pathlib.Path(workdir) / _OVERWRITTEN, ignore_errors=True)


def put_back(workdir: str | os.PathLike) -> None:
    """Brings an overwritten run back where the new one was refused; each process may call it."""
    folder = pathlib.Path(workdir)
    aside = folder / _OVERWRITTEN
    if not hosts.is_main() or not aside.is_dir():
        return
    for name in OWN:
        new = folder / name
        shutil.rmtree(new, ignore_errors=True) if new.is_dir() else new.unlink(missing_ok=True)
    for name in reversed(OWN):  # config.json last: until then this is no run
        if (aside / name).exists():
            os.replace(aside / name, folder / name)
    aside.rmdir()


def _look(folder: pathlib.Path) -> Found:
    path = folder / CONFIG
    return Found(
        name=str(folder),
        own=tuple(name for name in OWN if (folder / name).exists()),
        config=lambda: path.read_bytes() if path.exists() else None,
        steps=bool(manifest.numbered(folder / CHECKPOINTS)),
    )


def _decide(found: Found, config: str, resume: bool, overwrite: bool) -> dict[str, Any]:
    if overwrite:
        return {"action": "overwrite" if found.own else "start", "changes": []}
    saved = found.config()
    if saved is None:
        if not found.steps:
            return {"action": "start", "changes": []}
        if resume:
            return {"action": "resume", "changes": []}
        raise ValueError(
            f"{found.name} holds checkpoints but no {CONFIG}. Give --resume to go on with them, "
            "--overwrite to start anew, or another --workdir."
        )
    try:
        changes = compare_config(saved.decode(), config)
    except ValueError as error:
        if resume:
            return {"action": "resume", "changes": [f"{CONFIG}: unreadable → rewritten"]}
        raise ValueError(
            f"{found.name}/{CONFIG} is no JSON ({error}). Give --resume to go on with this config, "
            "--overwrite to start anew, or another --workdir."
        ) from None
    begun = found.steps or METRICS in found.own
    if changes and not begun:  # what a start that was refused has left is no run
        return {"action": "overwrite", "changes": []}
    if changes and not resume:
        rest = len(changes) - _SHOWN
        shown = "; ".join(changes[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")
        raise ValueError(
            f"{found.name} holds a run with another config: {shown}. Give --resume to go on with "
            "the new config, --overwrite to start anew, or another --workdir."
        )
    return {"action": "resume" if changes else "continue", "changes": changes}


def _compare(path: str, saved: Any, new: Any, changes: list[str]) -> None:
    if isinstance(saved, dict) and isinstance(new, dict):
        for key in [*saved, *(key for key in new if key not in saved)]:
            inner = f"{path}.{key}" if path else key
            _compare(inner, saved.get(key, _ABSENT), new.get(key, _ABSENT), changes)
    elif isinstance(saved, list) and isinstance(new, list) and len(saved) == len(new):
        for number, (old, now) in enumerate(zip(saved, new, strict=True)):
            _compare(f"{path}[{number}]", old, now, changes)
    elif _word(saved, None) != _word(new, None):  # so 1 is not 1.0, and NaN is NaN
        changes.append(f"{path}: {_word(saved)} → {_word(new)}")


class _Absent:
    """Stands for a key that only one of two configs has."""


_ABSENT = _Absent()


def _word(value: Any, limit: int | None = 80) -> str:
    text = "(not there)" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
    return text if limit is None or len(text) <= limit else text[: limit - 3] + "..."


def _make(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # of the folder, or of one above it
        place = pathlib.Path(error.filename)
        if place.is_symlink() and not place.exists():
            raise FileNotFoundError(
                f"{place} is a link to {os.readlink(place)}, which is not there; make that folder, "
                "or choose another --workdir."
            ) from None
        raise NotADirectoryError(f"{place} is a file; choose another --workdir.") from None
    except OSError as error:
        told = f"{folder} cannot be made: {error.strerror}; choose another --workdir."
        raise type(error)(told) from None


def _move_away(folder: pathlib.Path) -> None:
    """Out of the way at once, by renames; what is then deleted bears no name that a run reads."""
    aside = folder / _OVERWRITTEN
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(exist_ok=True)
    for name in OWN:
        if (folder / name).exists():
            os.replace(folder / name, aside / name)


def together(act: Callable[[], Any]) -> Any:
    """Runs `act` on process 0; its answer, or its failure, is that of all processes.

    Args:
      act: gives something that JSON can hold.

    Raises:
      Busy: `act` raised it.
      ValueError: `act` raised a ValueError or an OSError.
      OSError: `act` raised one since there is no room on the disk, which is nobody's input.
    """
    answer: dict[str, Any] = {}
    if hosts.is_main():
        try:
            answer = {"value": act()}
        except (ValueError, OSError) as error:
            answer = {"error": str(error), "busy": isinstance(error, Busy)}
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                answer["no_room"] = (error.errno, error.strerror, error.filename)
    answer = json.loads(hosts.broadcast_bytes(json.dumps(answer).encode()))
    if "no_room" in answer:
        raise OSError(*answer["no_room"])
    if "error" in answer:
        raise (Busy if answer["busy"] else ValueError)(answer["error"])
    return answer["value"]
