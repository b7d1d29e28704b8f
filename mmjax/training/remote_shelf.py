"""Checkpoints in a store: written and read on this host, carried there and back.

A step is the objects below `checkpoints/<step>/`, named as the files of a local one. Orbax writes
into a folder of this host, each process's own; the files are put, and `manifest.json` comes last:
what has none is no step. To delete a step its manifest goes first. A step is read by bringing all
of it here, where its sizes and CRCs are compared as ever.

Where several processes save, none of them has all parts, so they are joined by whoever reads.
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping

import jax

from mmjax.training import manifest, orbax_arrays
from mmjax.training.manifest import MANIFEST, Damaged, Manifest
from mmjax.training.shelf import STATE
from mmjax.training.store import Store, StoreError, is_below

_JOINED = "manifest.ocdbt"  # in a state, once the processes' parts are joined
_FETCHES = 3  # of a file whose bytes differ, before its step is called damaged


class RemoteShelf:
    """The steps below one address.

    Args:
      store: of the folder of checkpoints.
      staging: a folder of this process alone, for what is on its way.
      before_commit: called by process 0 before a manifest is put, so that what belongs to a step
        is there no later than the step.
    """

    def __init__(
        self,
        store: Store,
        staging: pathlib.Path,
        before_commit: Callable[[], None] = lambda: None,
    ):
        self.name = store.url
        self.hidden = False  # what is there is about to be overwritten, and no step of this run
        self._store = store
        self._staging = staging
        self._before_commit = before_commit

    def steps(self) -> list[int]:
        """Those with a manifest."""
        if self.hidden:
            return []
        listed = self._listed()
        return sorted(step for step, files in listed.items() if MANIFEST in files)

    def candidates(self) -> list[int]:
        """The same: where objects come one by one, what has no manifest never was a step."""
        return self.steps()

    def read(self, step: int) -> Manifest:
        """The manifest, brought here."""
        name = f"{step}/{MANIFEST}"
        for attempt in range(1, _FETCHES + 1):
            data = self._store.read(name)
            if data is None:
                raise Damaged(f"{self._store.url}/{name} is missing")
            try:
                made = manifest.parse(data, f"{self._store.url}/{name}")
                break
            except Damaged:
                if attempt == _FETCHES:
                    raise
        if made.step != step:
            raise Damaged(f"{self._store.url}/{name} says that it is step {made.step}, not {step}")
        return made

    def verify(self, step: int) -> None:
        """Brings all of a step here and reads every byte; files that came wrong come again."""
        local, files = self._local(step), self.read(step).files
        shutil.rmtree(local, ignore_errors=True)
        for name in files:
            if not is_below(name):
                raise Damaged(f"{self._store.url}/{step}/{MANIFEST} names {name!r}, no file of it")
        wrong = list(files)
        for _ in range(_FETCHES):
            Store.each(lambda name: self._bring(step, name, files[name][1]), wrong)
            found = manifest.sums(local)
            if not (wrong := [name for name in files if found.get(name) != files[name]]):
                break
        self._bring(step, MANIFEST)
        try:
            manifest.verify(local)
        except Damaged as damage:
            shutil.rmtree(local, ignore_errors=True)
            raise Damaged(str(damage).replace(str(self._staging), self._store.url)) from None

    def intact(self, step: int) -> None:
        """Compares the sizes that the store tells with the manifest."""
        files, listed = self.read(step).files, self._store.sizes(f"{step}/")
        for name, (_, size) in files.items():
            found = listed.get(f"{step}/{name}")
            if found != size:
                raise Damaged(
                    f"{self._store.url}/{step}/{name} "
                    + ("is missing" if found is None else f"has {found:,} bytes, not {size:,}")
                )

    def folder(self, step: int) -> pathlib.Path:
        """A copy on this host, fetched where this process has none; its parts are joined.

        Raises:
          ValueError: what came is damaged.
          StoreError: it cannot be had.
        """
        local = self._local(step)
        if not (local / MANIFEST).exists():
            try:
                self.verify(step)
            except Damaged as damage:
                raise ValueError(f"checkpoint {step} is damaged: {damage}") from None
        if not (local / STATE / _JOINED).exists():
            orbax_arrays.finalize(local / STATE)
            made = manifest.make(step, self.read(step).metrics, manifest.sums(local))
            manifest.write_synced(local / MANIFEST, manifest.encode(made))
        return local

    def set_aside(self, step: int) -> str:
        """Copies a damaged step within the store and deletes the old name's objects."""
        taken = {name.partition("/")[0] for name in self._store.sizes()}
        number = 1
        while (target := f"{manifest.DAMAGED}{step}-{number}") in taken:
            number += 1
        names = list(self._store.sizes(f"{step}/"))
        Store.each(
            lambda name: self._store.copy(name, f"{target}/{name.removeprefix(f'{step}/')}"), names
        )
        self.remove(step)
        return target

    def remove(self, step: int) -> None:
        """Deletes a step, its manifest first."""
        self._store.delete([f"{step}/{MANIFEST}"])
        self._store.delete(self._store.sizes(f"{step}/"))

    def sweep(self) -> list[tuple[int, str]]:
        """Deletes what has no manifest."""
        if not self.hidden:
            with contextlib.suppress(StoreError):  # it is no step; the next sweep tries again
                for step, files in self._listed().items():
                    if MANIFEST not in files:
                        self._store.delete(f"{step}/{name}" for name in files)
        return []

    def part(self, step: int, token: str) -> "RemotePart":
        """A new save's folder here and objects there."""
        return RemotePart(self._store, self._staging, step, token, self._before_commit)

    def _local(self, step: int) -> pathlib.Path:
        return self._staging / str(step)

    def _bring(self, step: int, name: str, size: int | None = None) -> None:
        try:
            self._store.download(f"{step}/{name}", self._local(step) / name, size)
        except FileNotFoundError:
            raise Damaged(f"{self._store.url}/{step}/{name} is missing") from None

    def _listed(self) -> dict[int, dict[str, int]]:
        """{step: {file: bytes}} of all that is there."""
        found: dict[int, dict[str, int]] = {}
        for name, size in self._store.sizes().items():
            head, _, rest = name.partition("/")
            if rest and head.isascii() and head.isdigit() and str(int(head)) == head:
                found.setdefault(int(head), {})[rest] = size
        return found


class RemotePart:
    """One process's part of a save: a folder here, objects there.

    Args:
      store: of the folder of checkpoints.
      staging: of this process.
      step: the training step.
      token: tells what processes say of this save from what they said of another.
      before_commit: see `RemoteShelf`.
    """

    poll_seconds = 0.5

    def __init__(
        self,
        store: Store,
        staging: pathlib.Path,
        step: int,
        token: str,
        before_commit: Callable[[], None],
    ):
        self.folder = manifest.workplace(staging, step, token)
        self._store, self._step, self._token = store, step, token
        self._before_commit = before_commit
        self._others: dict[str, tuple[int, int]] = {}  # {file: (CRC32, bytes)} of other processes
        self._sums: dict[str, tuple[int, int]] = {}  # of this one

    def begin(self) -> None:
        """Nothing: each process makes its own folder."""

    def prepare(self) -> None:
        """Makes the folder, where nothing else may take up the disk."""
        for left in self.folder.parent.glob("*"):  # a step that was brought here, and is read
            shutil.rmtree(left, ignore_errors=True)
        self.folder.mkdir(parents=True)
        (self.folder / STATE).mkdir()

    def deliver(self) -> None:
        """Puts what this process wrote."""
        self._sums = manifest.sums(self.folder)
        Store.each(
            lambda name: self._store.upload(self.folder / name, f"{self._step}/{name}"), self._sums
        )

    def is_open(self) -> bool:
        """Yes: who listens to what is told too late finds the step gone."""
        return True

    def tell(self, text: str) -> None:
        """Puts a small object for process 0."""
        body = {"said": text, "files": self._sums}
        self._store.write(self._note(jax.process_index()), json.dumps(body).encode())
        shutil.rmtree(self.folder, ignore_errors=True)

    def told(self, process: int) -> str | None:
        """What a process put, which is then deleted."""
        data = self._store.read(self._note(process))
        if data is None:
            return None
        body = json.loads(data)
        self._others |= {name: (crc, size) for name, (crc, size) in body["files"].items()}
        self._store.delete([self._note(process)])
        return body["said"]

    def commit(self, files: Mapping[str, bytes], metrics: Mapping[str, float]) -> Manifest:
        """Puts process 0's files, asks for the sizes of all, and puts the manifest."""
        if jax.process_count() == 1:
            orbax_arrays.finalize(self.folder / STATE)
        for name, data in files.items():
            (self.folder / name).write_bytes(data)
        self.deliver()
        made = manifest.make(self._step, metrics, {**self._others, **self._sums})
        listed = self._store.sizes(f"{self._step}/")
        for name, (_, size) in made.files.items():
            found = listed.get(f"{self._step}/{name}")
            if found != size:  # a listing may not know yet what was put just now
                found = self._store.size(f"{self._step}/{name}") or 0
            if found != size:
                raise StoreError(
                    f"{self._store.url}/{self._step}/{name}: {size:,} bytes were put, and the "
                    f"store has {found:,}"
                )
        self._before_commit()  # tokenizer and metrics: a step counts only with what it goes on from
        self._store.write(f"{self._step}/{MANIFEST}", manifest.encode(made))  # the commit
        shutil.rmtree(self.folder, ignore_errors=True)
        return made

    def discard(self) -> None:
        """Deletes what there is; what stays has no manifest, and the next save sweeps."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(StoreError):
            self._store.delete(self._store.sizes(f"{self._step}/"))

    def _note(self, process: int) -> str:
        return f"{self._step}/part-{process}-{self._token}.json"
