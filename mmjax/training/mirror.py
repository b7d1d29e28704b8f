"""A run's small files in a folder of this host, and their copies in a store.

The run writes as it does into any folder; what has changed is put as whole objects, by a thread
each minute, before each checkpoint's manifest, and at the end. Since a store cannot append,
metrics.jsonl lies there in numbered parts, metrics-000001.jsonl and so on: only the last one grows,
by being put again, until it is as large as a part is to be.
"""

import contextlib
import logging
import os
import pathlib
import re
import threading
from collections.abc import Iterable, Iterator

from isal.isal_zlib import crc32

from mmjax.training.store import Store, is_below
from mmjax.training.workdir import METRICS

PUBLISH_SECONDS = 60.0
PART_BYTES = 1 << 18
PART = re.compile(r"metrics-(\d{6,})\.jsonl")
_SMALL = (
    "config.json",
    "environment.json",
    "preprocess.json",
    "tokenizer.json",
    "tokenizer.model",
    "answers.json",
    "origin.json",
    "aside.npz",
    "report.html",
    "evaluations",
)
_LARGE = ("tensorboard", "profile", "wandb")  # with each checkpoint, and at the end


def part_name(number: int) -> str:
    """The object of a part of metrics.jsonl, from 1."""
    return f"metrics-{number:06}.jsonl"


class Mirror:
    """Keeps a store's copies of a folder's files as these are.

    Args:
      store: of the workdir.
      folder: of this process.
    """

    def __init__(self, store: Store, folder: pathlib.Path):
        self._store = store
        self._folder = folder
        self._one = threading.Lock()  # pushes come from several threads
        self._known: dict[str, tuple[int, int]] = {}  # {file: (bytes, time)} as last put
        self._parts: dict[int, tuple[int, int]] = {}  # {number: (bytes, CRC32)} as last put
        self._full, self._offset = 0, 0  # parts that grow no more, and where the next one begins
        self._inode = 0  # of metrics.jsonl, which a start mends by putting another in its place
        self._wake = threading.Event()
        self._ends = False
        self._thread: threading.Thread | None = None

    def pull(self) -> None:
        """Brings what the run that goes on, or its report, reads.

        Raises:
          StoreError: the store cannot be reached.
        """
        listed = self._store.sizes()
        wanted = [n for n in listed if n.partition("/")[0] in _SMALL and is_below(n)]

        def bring(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._store.download(name, self._folder / name, listed[name])
                self._known[name] = _stamp(self._folder / name)

        def read(number: int) -> bytes:
            name = part_name(number)
            return self._store.read(name, listed[name]) or b""

        Store.each(bring, wanted)
        numbers = sorted(int(found[1]) for found in map(PART.fullmatch, listed) if found)
        if not numbers:
            return
        with open(self._folder / METRICS, "wb") as file:
            for number, data in zip(numbers, Store.each(read, numbers)):
                self._parts[number] = (len(data), crc32(data))
                file.write(data)

    def push(self, large: bool = False, metrics: bool = True) -> None:
        """Puts what has changed since.

        Args:
          large: event files and traces too.
          metrics: the parts of metrics.jsonl, which the run alone writes.

        Raises:
          StoreError: something could not be put; the next push tries again.
        """
        with self._one:
            if metrics:
                self._push_metrics()
            for name in self._files(_SMALL + _LARGE if large else _SMALL):
                path = self._folder / name
                with contextlib.suppress(FileNotFoundError):
                    stamp = _stamp(path)
                    if self._known.get(name) != stamp:
                        self._store.upload(path, name)
                        self._known[name] = stamp

    def start(self) -> None:
        """Pushes in the background from now on."""
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def kick(self) -> None:
        """Has the background push now; returns at once."""
        self._wake.set()

    def close(self) -> None:
        """Ends the background; a push that is under way is finished."""
        self._ends = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while True:
            self._wake.wait(PUBLISH_SECONDS)
            self._wake.clear()
            if self._ends:
                return
            try:
                self.push()
            except OSError as error:
                logging.getLogger("mmjax").warning("%s; it is put with what comes next.", error)

    def _push_metrics(self) -> None:
        path = self._folder / METRICS
        if not path.exists():
            return
        with open(path, "rb") as file:
            if (inode := os.fstat(file.fileno()).st_ino) != self._inode:
                self._inode, self._full, self._offset = inode, 0, 0
            file.seek(self._offset)
            data = file.read()
        pieces = list(_pieces(data[: data.rfind(b"\n") + 1]))
        for number, piece in enumerate(pieces, start=self._full + 1):
            known = (len(piece), crc32(piece))
            if self._parts.get(number) != known:
                self._store.write(part_name(number), piece)
                self._parts[number] = known
        last = self._full + len(pieces)
        surplus = [number for number in self._parts if number > last]
        self._store.delete(part_name(number) for number in surplus)  # of steps that were lost
        for number in surplus:
            del self._parts[number]
        for piece in pieces[:-1]:
            self._full, self._offset = self._full + 1, self._offset + len(piece)

    def _files(self, tops: Iterable[str]) -> Iterator[str]:
        for top in tops:
            path = self._folder / top
            if path.is_file():
                yield top
            for below, _, names in os.walk(path):
                for file in (pathlib.Path(below) / name for name in sorted(names)):
                    if file.suffix != ".partial" and not file.is_symlink():
                        yield file.relative_to(self._folder).as_posix()


def _pieces(data: bytes) -> Iterator[bytes]:
    """Whole lines, in pieces of PART_BYTES or just more; the last may be less."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", min(start + PART_BYTES, len(data)) - 1) + 1
        yield data[start:end]
        start = end


def _stamp(path: pathlib.Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
