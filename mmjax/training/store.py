"""Whole objects at an address such as gs://bucket/run: what a run needs of a store, and no more.

    store = Store("gs://bucket/run")
    store.write("config.json", text)      # whole or not at all; no append, rename or lock anywhere
    store.read("config.json")             # bytes, or None
    store.sizes("checkpoints/")           # {name: bytes}

Every call is tried again with growing pauses; what fails in the end names the address.
"""

import concurrent.futures
import contextlib
import logging
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

from mmjax.data.sources.addresses import error_line, open_store

__all__ = ["Store", "StoreError", "is_below"]

TRIES = 5
FIRST_WAIT = 1.0  # seconds before the second try, doubled for each further one
_MOVERS = 8  # objects on their way at a time
_FINAL = (PermissionError, NotImplementedError)  # what trying again does not mend

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
      tries: how often a call is begun.
      guard: called before each change; raises StoreError where nothing may be written any more.

    Raises:
      ValueError: an unknown protocol, or one whose package is missing.
      OSError: the store cannot be reached.
    """

    def __init__(self, url: str, tries: int = TRIES, guard: Callable[[], None] | None = None):
        self.url = url.rstrip("/")
        self.guard = guard
        self._tries = tries
        self._fs, root = open_store(self.url)
        self._root = root.rstrip("/")
        if isinstance(self._fs, LocalFileSystem):  # file://, the one that wants its folders made
            self._fs = LocalFileSystem(auto_mkdir=True)

    def read(self, name: str) -> bytes | None:
        """An object's content, None where there is none.

        Raises:
          StoreError: it cannot be had.
        """
        try:
            return self._again(name, lambda: self._fs.cat_file(self._path(name)))
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
            if self._fs.exists(self._path(name)):
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

    def download(self, name: str, path: pathlib.Path) -> None:
        """Brings an object to a file, whose folder is made.

        Raises:
          FileNotFoundError: there is no such object.
          StoreError: it cannot be had, or kept.
        """
        path.parent.mkdir(parents=True, exist_ok=True)

        def get() -> None:
            self._fs.invalidate_cache()  # which may know the size of an older object
            self._fs.get_file(self._path(name), str(path))

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

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """{name: bytes} of the objects whose names begin so; a prefix ends with '/', or is ''.

        Raises:
          StoreError: the store cannot be listed.
        """
        path = self._path(prefix.rstrip("/")) if prefix else self._root

        def find() -> dict[str, Any]:
            self._fs.invalidate_cache()
            return self._fs.find(path, detail=True)

        try:
            found = self._again(prefix, find)
        except FileNotFoundError:
            return {}
        start = f"{self._root}/"
        return {
            name.removeprefix(start): int(entry["size"])
            for name, entry in sorted(found.items())
            if name.startswith(f"{start}{prefix}") and entry.get("type") != "directory"
        }

    @staticmethod
    def each(act: Callable[[Any], Any], things: Iterable[Any]) -> list[Any]:
        """Does one thing for several objects at a time; the answers, in order."""
        things = list(things)
        if len(things) < 2:  # no pool, which an interpreter that ends begins no more
            return [act(thing) for thing in things]
        with concurrent.futures.ThreadPoolExecutor(_MOVERS) as pool:
            return list(pool.map(act, things))

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
        url, wait = f"{self.url}/{name}".rstrip("/"), FIRST_WAIT
        for attempt in range(1, self._tries + 1):
            try:
                return act()
            except (FileNotFoundError, FileExistsError, StoreError):  # the last by the guard
                raise
            except Exception as error:  # each store has its own kinds
                line = error_line(error)
                if isinstance(error, _FINAL) or attempt == self._tries:
                    times = f", {attempt} times tried" if attempt > 1 else ""
                    raise StoreError(f"{url}{times}: {line}") from error
                if attempt == 1:
                    logging.getLogger("mmjax").warning(
                        "%s failed (%s); it is tried %d times in all.", url, line, self._tries
                    )
            time.sleep(wait)
            wait *= 2
        raise AssertionError("unreachable")
