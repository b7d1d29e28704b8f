"""Where a run's files are: a folder that all processes share, or an address.

    home = open_home("gs://bucket/run")        # or "runs/mine"
    with home.locked() as lock:
        decision = home.decide(config_json, resume=False, overwrite=False)
        home.begin(config_json, decision)      # what the run reads lies in home.folder now
        ...                                    # nothing can refuse the run any more
        home.accept(config_json, decision)
        ...                                    # the run writes into home.folder
        home.close()

Either way the run reads and writes files in `home.folder`. At an address that is a folder of this
process, and `RemoteHome` carries what is in it there and back.
"""

import os
import pathlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from mmjax.data.sources.patterns import is_address
from mmjax.parallel import hosts
from mmjax.training import manifest, workdir
from mmjax.training.checkpoint import Checkpoints
from mmjax.training.remote_home import RemoteHome
from mmjax.training.workdir import CHECKPOINTS, Decision, Held

# 'gs:/x', 'gs://', ' gs://x': as paths they would quietly become local folders named 'gs:'.
_HALF = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:/(?!/\S)|\s+[A-Za-z][A-Za-z0-9+.-]*:/")

__all__ = ["Home", "LocalHome", "RemoteHome", "local_source", "open_home"]


@runtime_checkable
class Home(Protocol):
    """A run's workdir. All processes call its methods alike, but for `read`, `path` and
    `publish`.

    Attributes:
      name: as it was given, for people.
      folder: where this process reads and writes.
    """

    name: str
    folder: pathlib.Path

    def locked(self) -> Any:
        """Holds the lock; yields it on process 0, None elsewhere. Raises Busy or ValueError."""

    def decide(self, config: str, resume: bool, overwrite: bool) -> Decision:
        """What is to be done; changes nothing. Raises ValueError."""

    def begin(self, config: str, decision: Decision) -> None:
        """Has what is there at hand, or out of the way; it can still be put back."""

    def accept(self, config: str, decision: Decision) -> None:
        """The run is refused no more: an overwritten one goes, another config takes its place."""

    def put_back(self) -> None:
        """The run was refused: an overwritten one is there again."""

    def begun(self) -> bool:
        """Whether there are checkpoints."""

    def read(self, name: str) -> bytes | None:
        """A file's content, None where there is none."""

    def path(self, name: str) -> pathlib.Path:
        """A file, to be read on this host; it may be missing."""

    def look(self) -> None:
        """Process 0 has at hand what a report is made of. Raises ValueError."""

    def share(self, name: str) -> None:
        """A file that process 0 has written is there for all processes."""

    def checkpoints(self, **options: Any) -> Checkpoints:
        """The run's checkpoints; options are those of `Checkpoints`."""

    def publish(self) -> None:
        """Process 0 has written something that others may want to read soon."""

    def close(self, write: bool = True) -> None:
        """Ends; with `write` everything is put where it belongs. Twice does no harm.

        Raises:
          StoreError: not everything could be put.
        """

    def child(self, name: str) -> str:
        """The name of a file or workdir within, for people and for `open_home`."""


class LocalHome:
    """A workdir in a folder that all processes see.

    Args:
      name: as given.
    """

    def __init__(self, name: str):
        self.name = name
        self.folder = pathlib.Path(os.path.expanduser(name)).absolute()

    @contextmanager
    def locked(self) -> Iterator[Held | None]:
        """Makes the folder and holds its lock."""
        with workdir.locked(self.folder) as lock:
            yield lock

    def decide(self, config: str, resume: bool, overwrite: bool) -> Decision:
        """What is to be done."""
        return workdir.decide(self.folder, config, resume, overwrite)

    def begin(self, config: str, decision: Decision) -> None:
        """Moves an overwritten run aside; another config waits for `accept`."""
        if decision.action != "resume":
            workdir.settle(self.folder, config, decision)

    def accept(self, config: str, decision: Decision) -> None:
        """Deletes what was moved aside, writes another config."""
        if decision.action == "resume":
            workdir.settle(self.folder, config, decision)
        else:
            workdir.forget(self.folder)

    def put_back(self) -> None:
        """Brings back what was moved aside."""
        workdir.put_back(self.folder)

    def begun(self) -> bool:
        """Whether folders are named as checkpoints are."""
        return bool(manifest.numbered(self.folder / CHECKPOINTS))

    def read(self, name: str) -> bytes | None:
        """A file's content."""
        path = self.folder / name
        return path.read_bytes() if path.is_file() else None

    def path(self, name: str) -> pathlib.Path:
        """Where a file is."""
        return self.folder / name

    def look(self) -> None:
        """Nothing: all is at hand."""

    def share(self, name: str) -> None:
        """Waits for process 0."""
        hosts.barrier(f"{name} written")

    def checkpoints(self, **options: Any) -> Checkpoints:
        """Those in the folder."""
        return Checkpoints(self.folder / CHECKPOINTS, **options)

    def publish(self) -> None:
        """Nothing: all is where it belongs."""

    def close(self, write: bool = True) -> None:
        """Nothing: all is where it belongs."""

    def child(self, name: str) -> str:
        """The path within."""
        return str(self.folder / name)


def open_home(name: str) -> Home:
    """The workdir of a name; touches no device, and nothing is written yet.

    Args:
      name: a folder ('~' is the home folder), or an address such as gs://bucket/run.

    Raises:
      ValueError: a blank name, half an address, an unknown protocol, or one whose package is
        missing.
      OSError: the store cannot be reached, or this host has no room for a copy.
    """
    if not name.strip():
        raise ValueError(f"--workdir={name!r} is blank; name a folder or an address.")
    if _HALF.match(name):
        raise ValueError(
            f"--workdir={name!r}: an address is written as gs://bucket/run (and a folder with such "
            f"a name as './{name.strip()}')."
        )
    return RemoteHome(name) if is_address(name) else LocalHome(name)


@contextmanager
def local_source(name: str) -> Iterator[str]:
    """A workdir, its checkpoints or one checkpoint, by a name that is no address, while it lasts.

    Args:
      name: a path, which is given back; or the address of a workdir, whose newest whole
        checkpoint is brought here. All processes call this alike.

    Raises:
      FileNotFoundError: the address holds no checkpoint.
      ValueError: an unknown protocol, or one whose package is missing.
      OSError: the store cannot be reached.
    """
    if not is_address(name):
        yield name
        return
    home = RemoteHome(name)
    try:
        source = str(home.checkpoints(read_only=True).verified_folder(None))
        try:
            yield source
        except ValueError as error:  # it speaks of the copy
            raise ValueError(str(error).replace(source, name)) from None
    finally:
        home.close(write=False)
