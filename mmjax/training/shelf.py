"""Where checkpoints lie: what `Checkpoints` asks of a folder, or of a store."""

import contextlib
import pathlib
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import jax

from mmjax.training import manifest, orbax_arrays

STATE = "state"


@runtime_checkable
class Part(Protocol):
    """One process's part of one save.

    Attributes:
      folder: on this host; Orbax writes into `folder / STATE`.
      poll_seconds: between two looks for what other processes told.
    """

    folder: pathlib.Path
    poll_seconds: float

    def begin(self) -> None:
        """By process 0, before any process prepares its part."""

    def prepare(self) -> None:
        """By every process, in the background, before it writes."""

    def deliver(self) -> None:
        """By every process but 0, once its arrays are written."""

    def is_open(self) -> bool:
        """Whether process 0 may still listen."""

    def tell(self, text: str) -> None:
        """By every process but 0: what came of its part."""

    def told(self, process: int) -> str | None:
        """By process 0: what that process told; None while it has not."""

    def commit(self, files: Mapping[str, bytes], metrics: Mapping[str, float]) -> manifest.Manifest:
        """By process 0, once all parts are written: makes it a step."""

    def discard(self) -> None:
        """By process 0, after a failure: nothing is left, as far as the disk allows."""


@runtime_checkable
class Shelf(Protocol):
    """Checkpoints by step. What raises OSError could not be done and may be tried again.

    Attributes:
      name: folder or address, for people.
    """

    name: str

    def steps(self) -> list[int]:
        """The committed steps, ascending, not verified."""

    def candidates(self) -> list[int]:
        """Steps, ascending, with those that lost their manifest, without what is no step."""

    def read(self, step: int) -> manifest.Manifest:
        """The manifest of a step; raises `manifest.Damaged`."""

    def verify(self, step: int) -> None:
        """Reads every byte; raises `manifest.Damaged`."""

    def intact(self, step: int) -> None:
        """Like `verify`, as far as it costs no transfer; raises `manifest.Damaged`."""

    def folder(self, step: int) -> pathlib.Path:
        """A verified step's folder on this host; each process asks for it."""

    def set_aside(self, step: int) -> str:
        """Takes a damaged step out of the way; its new name."""

    def remove(self, step: int) -> None:
        """Deletes a step; interrupted at any point, what remains is no step."""

    def sweep(self) -> list[tuple[int, str]]:
        """Removes what dead saves left; (step, why) of those that lost their manifest."""

    def part(self, step: int, token: str) -> Part:
        """This process's part of a new save."""


class LocalPart:
    """A part of a save in a folder that all processes share.

    Args:
      parent: of the steps.
      step: the training step.
      token: tells two saves of a step apart.
    """

    poll_seconds = 0.02

    def __init__(self, parent: pathlib.Path, step: int, token: str):
        self.folder = manifest.workplace(parent, step, token)
        self._parent, self._step, self._token = parent, step, token

    def begin(self) -> None:
        """Makes the folder."""
        (manifest.begin(self._parent, self._step, self._token) / STATE).mkdir()

    def prepare(self) -> None:
        """Nothing: process 0 made the folder."""

    def deliver(self) -> None:
        """Nothing: what is written lies where it belongs."""

    def is_open(self) -> bool:
        """Whether the folder is there."""
        return self.folder.is_dir()

    def tell(self, text: str) -> None:
        """Leaves a small file for process 0."""
        manifest.write_atomic(self.folder / _note(jax.process_index()), text.encode())

    def told(self, process: int) -> str | None:
        """What a process left, which is then removed."""
        note = self.folder / _note(process)
        if not note.exists():
            return None
        text = note.read_bytes().decode()
        note.unlink()
        return text

    def commit(self, files: Mapping[str, bytes], metrics: Mapping[str, float]) -> manifest.Manifest:
        """Joins the parts, reads them back and writes the manifest."""
        orbax_arrays.finalize(self.folder / STATE)
        for name, data in files.items():
            manifest.write_synced(self.folder / name, data)
        return manifest.commit(self.folder, self._step, metrics)

    def discard(self) -> None:
        """Removes what is there; what stays is no step, and the next save sweeps."""
        for left in (self.folder, self.folder.with_name(str(self._step))):
            with contextlib.suppress(OSError):
                if left.exists():
                    manifest.remove(left)


class LocalShelf:
    """The steps in one folder.

    Args:
      folder: absolute; may be missing.
    """

    def __init__(self, folder: pathlib.Path):
        self.name = str(folder)
        self._folder = folder

    def steps(self) -> list[int]:
        """The folders with a manifest."""
        return manifest.steps(self._folder)

    def candidates(self) -> list[int]:
        """The folders that are no leftovers."""
        found = manifest.numbered(self._folder)
        return [step for step in found if not manifest.is_leftover(self.folder(step))]

    def read(self, step: int) -> manifest.Manifest:
        """The manifest of a step."""
        return manifest.read(self.folder(step))

    def verify(self, step: int) -> None:
        """Reads every byte."""
        manifest.verify(self.folder(step))

    def intact(self, step: int) -> None:
        """Reads every byte."""
        manifest.verify(self.folder(step))

    def folder(self, step: int) -> pathlib.Path:
        """Where a step lies, or would."""
        return self._folder / str(step)

    def set_aside(self, step: int) -> str:
        """Renames a damaged step."""
        return manifest.set_aside(self.folder(step)).name

    def remove(self, step: int) -> None:
        """Deletes a step."""
        manifest.remove(self.folder(step))

    def sweep(self) -> list[tuple[int, str]]:
        """Removes leftovers; names the steps without a manifest."""
        for left in manifest.leftovers(self._folder):
            with contextlib.suppress(OSError):  # it is no step; the next sweep tries again
                manifest.remove(left)
        found = set(self.candidates()) - set(self.steps())
        return [
            (step, f"{self.folder(step) / manifest.MANIFEST} is missing") for step in sorted(found)
        ]

    def part(self, step: int, token: str) -> LocalPart:
        """The folder of a new save."""
        return LocalPart(self._folder, step, token)


def _note(process: int) -> str:
    return f"part-{process}.json"
