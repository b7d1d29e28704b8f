"""Checkpoints of a run: saved in the background, committed by a manifest, verified when loaded.

    checkpoints = Checkpoints(workdir / "checkpoints", keep_last=3, keep_best="retrieval/R@1")
    checkpoints.clean()                       # once at start: what dead saves left goes
    step = checkpoints.latest()               # the newest step whose every byte is as written
    state = checkpoints.restore(step, like)   # a tree of jax.ShapeDtypeStruct with shardings
    for ...:
        checkpoints.save(step, state, {"config.json": text}, {"retrieval/R@1": 0.4})
        for event in checkpoints.poll():      # each step: Saved, SaveFailed, SetAside
            log(event.message)
    checkpoints.wait()                        # before the end

A step is `<folder>/<step>/`: `state/` (Orbax), the files given to `save`, and `manifest.json`,
which process 0 writes last; without it there is no step. All processes call `clean`, `latest`,
`restore`, `save` and `wait` alike, at step boundaries; `poll` and `steps` are each one's own.
"""

import collections
import dataclasses
import json
import os
import pathlib
import uuid
from collections.abc import Mapping

import numpy as np

from mmjax import paths
from mmjax.parallel import hosts
from mmjax.training import manifest, orbax_arrays
from mmjax.training.saving import Save, Saved, SaveFailed, failed, failure
from mmjax.training.shelf import STATE, LocalShelf, Shelf
from mmjax.typing import PyTree

__all__ = [
    "Checkpoints",
    "Event",
    "SaveFailed",
    "Saved",
    "SetAside",
    "find_checkpoint",
    "restore_params",
]


@dataclasses.dataclass(frozen=True)
class SetAside:
    """A step that is damaged and was renamed (or, where nothing is written, passed over)."""

    step: int
    message: str


Event = Saved | SaveFailed | SetAside


class Checkpoints:
    """The checkpoints in one folder, behind which Orbax is hidden.

    Args:
      folder: holds one folder a step; made when first needed.
      keep_last: how many of the newest steps stay, at least 2; an older step is deleted only when
        two newer ones were read back and found whole.
      keep_best: name of a metric given to `save`; the step at which it was best stays too.
      best_is_lowest: True where less is better, such as a loss.
      timeout_seconds: how long process 0 waits for the others' parts of a save.
      read_only: nothing is renamed, removed or written (evaluation beside a running training).
      shelf: where the steps lie instead, such as a `RemoteShelf`.

    Raises:
      ValueError: keep_last is below 2.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        keep_last: int = 2,
        keep_best: str | None = None,
        best_is_lowest: bool = False,
        timeout_seconds: float = 600.0,
        read_only: bool = False,
        shelf: Shelf | None = None,
    ):
        if keep_last < 2:
            raise ValueError(
                f"keep_last is {keep_last}; at least 2 are kept, so that one may be damaged."
            )
        self._shelf = shelf or LocalShelf(pathlib.Path(folder).absolute())
        self._keep_last = keep_last
        self.keep_best = keep_best
        self._best_is_lowest = best_is_lowest
        self._timeout_seconds = timeout_seconds
        self._read_only = read_only
        self._events: collections.deque[Event] = collections.deque()
        self._saving: Save | None = None
        self._verified: int | None = None
        self._stuck: set[int] = set()  # damaged, and could not be set aside

    def clean(self) -> None:
        """Removes what dead saves left and sets aside what lost its manifest; once, at start."""
        self.join()
        if hosts.is_main() and not self._read_only:
            self._sweep()
        hosts.barrier("checkpoints cleaned")

    def steps(self) -> list[int]:
        """The committed steps, ascending, not verified; without those known to be damaged."""
        return [step for step in self._shelf.steps() if step not in self._stuck]

    def latest(self) -> int | None:
        """The newest step that is whole, the same on all processes; damaged ones are set aside.

        Raises:
          OSError: the store cannot be reached; on all processes.
        """
        found, problem = None, ""
        if hosts.is_main():
            try:
                found = self._newest_whole()
            except OSError as error:
                problem = str(error)
        told = hosts.broadcast_bytes(json.dumps([found, problem]).encode())
        self._verified, problem = json.loads(told)
        if problem:
            raise OSError(problem)
        return self._verified

    def best(self) -> int | None:
        """The step at which `keep_best` was best, or None; this process's own view."""
        found = {}
        for step in self.steps():
            try:
                value = self._shelf.read(step).metrics.get(self.keep_best or "")
            except manifest.Damaged:
                continue
            if value is not None:
                found[step] = -value if self._best_is_lowest else value
        return max(found, key=lambda step: (found[step], step), default=None)

    def save(
        self,
        step: int,
        state: PyTree,
        files: Mapping[str, str | bytes] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Starts to save a state; returns as soon as it is copied to the host.

        The state may be donated afterwards. A save that still runs is finished first, whatever
        came of it. A disk that refuses is no exception here but a `SaveFailed` from `poll`.

        Args:
          step: the training step, the name of the checkpoint.
          state: a tree of global jax.Arrays.
          files: {plain file name: content} that stand beside the state.
          metrics: numbers measured at this very step, kept in the manifest.

        Returns:
          True when a save was begun, False when this step is there already or could not be begun,
          such as where a damaged one that cannot be renamed has its place: a `SaveFailed`.

        Raises:
          TypeError: a leaf of the state is no jax.Array.
          ValueError: two arrays have one name, or a file's name is not plain.
        """
        flat = orbax_arrays.named(state)
        for name in files or ():
            if name in (STATE, manifest.MANIFEST, manifest.UNFINISHED) or "/" in name or not name:
                raise ValueError(f"a file beside a state cannot be named {name!r}.")
        self.join()
        self._verified = None
        token = self._begin(step) if hosts.is_main() else ""
        token = hosts.broadcast_bytes(token.encode()).decode()
        if not token:
            return False
        self._saving = Save(
            self._shelf.part(step, token),
            step,
            flat,
            files or {},
            metrics or {},
            self._timeout_seconds,
            self._after,
        )
        self._saving.start()
        return True

    def poll(self) -> list[Event]:
        """What happened since the last call; costs nothing. Process 0's answer is the whole one."""
        found = []
        while self._events:
            found.append(self._events.popleft())
        return found

    def wait(self) -> None:
        """Returns once the save under way is committed or has failed, on all processes."""
        self.join()
        hosts.barrier("checkpoint committed")

    def restore(self, step: int | None, like: PyTree) -> PyTree:
        """The state of a step, on whatever devices `like` names.

        Args:
          step: a committed step, or None for the newest whole one.
          like: a tree of jax.ShapeDtypeStruct with shardings.

        Raises:
          FileNotFoundError: there is no such step.
          ValueError: it is damaged (then set aside), or of another model.
        """
        return orbax_arrays.read(self.verified_folder(step) / STATE, like)

    def restore_files(self, step: int | None) -> dict[str, bytes]:
        """{name: content} of the files saved beside the state.

        Raises:
          FileNotFoundError: there is no such step.
          ValueError: it is damaged.
        """
        folder = self.verified_folder(step)
        entries = [entry for entry in folder.iterdir() if entry.is_file()]
        return {e.name: e.read_bytes() for e in entries if e.name != manifest.MANIFEST}

    def verified_folder(self, step: int | None) -> pathlib.Path:
        """The folder of a step, verified by process 0 unless `latest` has done so since a save.

        Args:
          step: a committed step, or None for the newest whole one.

        Raises:
          FileNotFoundError: there is no such step.
          ValueError: it is damaged.
        """
        if step is None:
            step = self.latest()
            if step is None:
                raise FileNotFoundError(f"{self._shelf.name} holds no checkpoint that is whole.")
        if step != self._verified:
            problem = self._check(step) if hosts.is_main() else None
            problem = json.loads(hosts.broadcast_bytes(json.dumps(problem).encode()))
            if problem:
                missing, message = problem
                raise FileNotFoundError(message) if missing else ValueError(message)
        return self._shelf.folder(step)

    def _check(self, step: int) -> tuple[bool, str] | None:
        try:
            if step not in self._shelf.candidates():
                there = ", ".join(map(str, self.steps())) or "none"
                return True, f"{self._shelf.name} holds no step {step}; there are: {there}."
            self._shelf.verify(step)
        except OSError as error:
            return False, str(error)
        except manifest.Damaged as damage:
            return False, self._set_aside(step, str(damage))
        return None

    def _newest_whole(self) -> int | None:
        for step in reversed(self._shelf.candidates()):
            try:
                self._shelf.verify(step)
            except manifest.Damaged as damage:
                self._set_aside(step, str(damage))
            else:
                return step
        return None

    def _set_aside(self, step: int, why: str) -> str:
        message = f"checkpoint {step} is damaged: {why}"
        if not self._read_only:
            try:
                message += f"; set aside as {self._shelf.set_aside(step)}"
                self._stuck.discard(step)
            except OSError as error:
                self._stuck.add(step)
                message += f"; it cannot be renamed ({error})"
        self._events.append(SetAside(step, message))
        return message

    def _sweep(self) -> None:
        for step, why in self._shelf.sweep():
            self._set_aside(step, why)

    def _begin(self, step: int) -> str:
        """The token of a new save, or '' where there is none to be made."""
        token = uuid.uuid4().hex[:8]
        part = self._shelf.part(step, token)
        try:
            if step in self._stuck and step in self._shelf.candidates():
                name = self._shelf.set_aside(step)  # what refused may be in order by now
                self._events.append(SetAside(step, f"checkpoint {step}: set aside as {name}"))
            self._stuck.discard(step)
            there = step in self._shelf.steps()
        except OSError as error:  # whatever has this name is not this save's to discard
            self._events.append(failed(step, error))
            return ""
        if there:
            return ""
        try:
            self._sweep()
            part.begin()
        except OSError as error:
            self._events.append(failure(part, step, error))
            return ""
        return token

    def join(self) -> None:
        """Returns once this process's part of the save under way has ended; waits for no other."""
        if self._saving is not None:
            self._saving.join()
            self._saving = None

    def _after(self, outcome: Saved | SaveFailed) -> None:
        """Runs in the thread of a save, at its end."""
        self._events.append(outcome)
        if isinstance(outcome, Saved):
            try:
                self._prune(outcome.step)
            except OSError:
                return  # old steps stay until the next save

    def _prune(self, newest: int) -> None:
        """Deletes the steps that need not stay, once two newer ones are known to be whole."""
        kept = [newest]  # read back a moment ago
        older = [step for step in reversed(self.steps()) if step != newest]
        for step in older:
            if len(kept) == 1:
                try:
                    self._shelf.intact(step)
                except manifest.Damaged as damage:
                    self._set_aside(step, str(damage))
                    continue
            if len(kept) < self._keep_last:
                kept.append(step)
        best = self.best() if self.keep_best else None
        for step in self.steps():
            if step not in kept and step != best:
                self._shelf.remove(step)
        self._sweep()


def find_checkpoint(folder: str | os.PathLike, step: int | None = None) -> pathlib.Path:
    """The folder of a checkpoint, every byte of it checked; nothing there changes.

    Args:
      folder: a workdir, its folder of checkpoints, or one step's folder.
      step: the step of a workdir, or None for the newest whole one.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: it is damaged.
    """
    given = pathlib.Path(folder).absolute()
    if not (given / manifest.MANIFEST).exists():
        inner = given / "checkpoints"
        many = Checkpoints(inner if inner.is_dir() else given, read_only=True)
        return many.verified_folder(step)
    try:
        return given.parent / str(manifest.verify(given).step)
    except manifest.Damaged as damage:
        raise ValueError(f"{given} is damaged: {damage}.") from None


def restore_params(
    folder: str | os.PathLike, which: str = "params", step: int | None = None
) -> tuple[dict[str, np.ndarray | dict], dict[str, np.ndarray | dict]]:
    """(parameters, running statistics) of a checkpoint as nested dicts of numpy arrays.

    Args:
      folder: a workdir, its folder of checkpoints, or one step's folder; nothing there changes.
      which: 'params', or 'ema' for the averaged copy (frozen arrays, which have none, as they are).
      step: the step of a workdir, or None for the newest whole one.

    Returns:
      The parameters; the running statistics, {} where the model has none.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: it is damaged, or holds no such parameters.
    """
    if which not in ("params", "ema"):
        raise ValueError(f"which is {which!r}; allowed are 'params' and 'ema'.")
    state = find_checkpoint(folder, step) / STATE
    found = orbax_arrays.read_numpy(state, "params")
    averaged = orbax_arrays.read_numpy(state, "ema") if which == "ema" else found
    if not averaged:
        raise ValueError(f"{state.parent} holds no {which!r}.")
    statistics = orbax_arrays.read_numpy(state, "batch_stats")
    return paths.unflatten({**found, **averaged}), paths.unflatten(statistics)
