"""Whole objects at an address such as gs://bucket/run: what a run needs of a store, and no more.

    store = Store("gs://bucket/run")
    store.write("config.json", text)      # whole or not at all; no append, rename or lock anywhere
    store.read("config.json")             # bytes, or None
    store.sizes("checkpoints/")           # {name: bytes}

Every call is tried again with growing pauses; what fails in the end names the address.
"""

import concurrent.futures
import contextlib
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

from mmjax.data.sources.addresses import files_below, open_store
from mmjax.data.sources.retrying import error_line, retry

__all__ = ["Store", "StoreError", "is_below"]

_MOVERS = 8  # objects on their way at a time

_Result = TypeVar("_Result")


def is_below(name: str) -> bool:
    """Whether a file of an object's name lies below the folder it is brought to: '..' is no name.

    What a store or a foreign checkpoint says is written to this host's disk under its name.
    """
    return not any(part in ("", ".", "..") for part in name.split("/"))


class StoreError(OSError):
    """A store refused or could not be reached; the message names the address."""


class Store:
    """The objects below one address.

    Args:
      url: 'gs://bucket/run', or any other address that fsspec knows.
      tries: how often a call is begun, see `retry`.
      guard: called before each change; raises StoreError where nothing may be written any more.

    Raises:
      ValueError: an unknown protocol, or one whose package is missing.
      OSError: the store cannot be reached.
    """

    def __init__(self, url: str, tries: int | None = None, guard: Callable[[], None] | None = None):
        self.url = url.rstrip("/")
        self.guard = guard
        self._tries = tries
        self._fs, root = open_store(self.url)
        self._root = root.rstrip("/")
        if isinstance(self._fs, LocalFileSystem):  # file://, the one that wants its folders made
            self._fs = LocalFileSystem(auto_mkdir=True)

    def read(self, name: str, size: int | None = None) -> bytes | None:
        """An object's content, None where there is none.

        Args:
          name: of the object.
          size: bytes that a listing told; less is taken only where the store says so once more.

        Raises:
          StoreError: it cannot be had.
        """

        def get() -> bytes:
            data = self._fs.cat_file(self._path(name))
            self._check_whole(name, len(data), size)
            return data

        try:
            return self._again(name, get)
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Puts an object, in the place of an older one.

        Raises:
          StoreError: it cannot be put.
        """
        self._change(name, lambda: self._fs.pipe_file(self._path(name), data))

    def create(self, name: str, data: bytes) -> bool:
        """Puts an object that is not there yet.

        Some stores look first and put then, so two who create at one time may both get True: who
        has to be sure reads back a while later.

        Returns:
          False where it is there already.

        Raises:
          StoreError: it cannot be put.
        """

        def put() -> bool:
            self._fs.invalidate_cache()  # which may know an object that another has deleted
            with contextlib.suppress(FileNotFoundError):  # `exists` says no of what it cannot ask
                self._fs.info(self._path(name))
                return False
            try:
                with self._fs.open(self._path(name), "xb") as file:
                    file.write(data)
            except (NotImplementedError, ValueError):  # a store without exclusive puts
                self._fs.pipe_file(self._path(name), data)
            return True

        try:
            return self._change(name, put)
        except FileExistsError:
            return False

    def upload(self, path: pathlib.Path, name: str) -> None:
        """Puts a file.

        Raises:
          StoreError: it cannot be put.
        """
        self._change(name, lambda: self._fs.put_file(str(path), self._path(name)))

    def download(self, name: str, path: pathlib.Path, size: int | None = None) -> None:
        """Brings an object to a file, whose folder is made.

        Args:
          name: of the object.
          path: of the file.
          size: as of `read`.

        Raises:
          FileNotFoundError: there is no such object.
          StoreError: it cannot be had, or kept.
        """
        path.parent.mkdir(parents=True, exist_ok=True)

        def get() -> None:
            self._fs.invalidate_cache()  # which may know the size of an older object
            self._fs.get_file(self._path(name), str(path))
            self._check_whole(name, path.stat().st_size, size)

        self._again(name, get)

    def copy(self, old: str, new: str) -> None:
        """Copies an object within the store.

        Raises:
          StoreError: it cannot be copied.
        """
        self._change(old, lambda: self._fs.cp_file(self._path(old), self._path(new)))

    def delete(self, names: Iterable[str]) -> None:
        """Deletes objects; those that are not there do no harm.

        Raises:
          StoreError: one cannot be deleted.
        """

        def remove(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._path(name))

        self.each(lambda name: self._change(name, lambda: remove(name)), names)

    def size(self, name: str) -> int | None:
        """Bytes of an object, asked for by itself; None where there is none.

        Raises:
          StoreError: the store does not tell.
        """

        def ask() -> int:
            self._fs.invalidate_cache()
            return int(self._fs.info(self._path(name))["size"])

        try:
            return self._again(name, ask)
        except FileNotFoundError:
            return None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """{name: bytes} of the objects whose names begin so; a prefix ends with '/', or is ''.

        Raises:
          StoreError: the store cannot be listed.
        """
        path = self._path(prefix.rstrip("/")) if prefix else self._root

        try:
            found = files_below(self._fs, path, lambda act: self._again(prefix, act))
        except FileNotFoundError:
            return {}
        start = f"{self._root}/"
        return {
            name.removeprefix(start): int(entry["size"])
            for name, entry in sorted(found.items())
            if name.startswith(f"{start}{prefix}")
        }

    @staticmethod
    def each(act: Callable[[Any], Any], things: Iterable[Any]) -> list[Any]:
        """Does one thing for several objects at a time; the answers, in order."""
        things = list(things)
        if len(things) < 2:  # no pool, which an interpreter that ends begins no more
            return [act(thing) for thing in things]
        with concurrent.futures.ThreadPoolExecutor(_MOVERS) as pool:
            return list(pool.map(act, things))

    def _check_whole(self, name: str, found: int, told: int | None) -> None:
        if told is not None and found != told:  # cut on its way, or another was put since
            self._fs.invalidate_cache()
            now = int(self._fs.info(self._path(name))["size"])
            if found != now:
                raise OSError(f"{found:,} bytes came instead of {now:,}")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _change(self, name: str, act: Callable[[], _Result]) -> _Result:
        def guarded() -> _Result:
            if self.guard is not None:  # before each try: those before it may have taken minutes
                self.guard()
            return act()

        try:
            return self._again(name, guarded)
        except FileNotFoundError as error:  # a bucket that is not there, or what was to be copied
            raise StoreError(f"{self.url}/{name}: {error_line(error)}") from error

    def _again(self, name: str, act: Callable[[], _Result]) -> _Result:
        return retry(f"{self.url}/{name}".rstrip("/"), act, StoreError, self._tries)
