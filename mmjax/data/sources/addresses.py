"""Files at addresses such as gs://bucket/train-000.tar, looked up through fsspec."""

import dataclasses
import datetime
import functools
import posixpath
import re
from collections.abc import Callable
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractFileSystem
from fsspec.utils import glob_translate

from mmjax.data.sources import patterns
from mmjax.data.sources.fetching import FetchError
from mmjax.data.sources.retrying import error_line, retry

__all__ = [
    "FarFile",
    "files_below",
    "find",
    "list_folder",
    "look",
    "open_store",
    "read_small",
]

_PACKAGES = {  # what else has to be installed, where it is not plain from fsspec's own words
    "gs": "mmjax[gcs]",
    "gcs": "mmjax[gcs]",
    "s3": "s3fs",
    "s3a": "s3fs",
    "az": "adlfs",
    "abfs": "adlfs",
    "http": "aiohttp requests",
    "https": "aiohttp requests",
}
# The first that a store tells; a tag says more than a time.
_TAGS = ("etag", "ETag", "md5Hash", "crc32c", "generation")
_TIMES = ("mtime", "updated", "LastModified", "last_modified", "created")


@dataclasses.dataclass(frozen=True)
class FarFile:
    """One file of a store.

    Attributes:
      url: its full address.
      size: bytes.
      version: 'tag:value' or 'time:value', another one where the file was replaced; '' where the
        store tells neither.
      md5: of the content in base 64, where the store tells it in so many words.
    """

    url: str
    size: int
    version: str
    md5: str = ""

    @property
    def name(self) -> str:
        """The last part of the address."""
        return posixpath.basename(self.url)

    def is_still(self, now: "FarFile") -> bool:
        """Whether a later look has found the same; listings may tell less than single looks."""
        told = self.version.partition(":")[0] == now.version.partition(":")[0]
        return self.size == now.size and (not told or self.version == now.version)


def open_store(url: str) -> tuple[Any, str]:
    """(fsspec's file system, the path in it) of an address.

    Raises:
      ValueError: a protocol that fsspec does not know, or whose package is missing, or a chain of
        several.
      FetchError: the store cannot be reached.
    """
    if "::" in url:  # some of fsspec's wrappers follow what the files themselves say
        raise ValueError(f"{url}: chained addresses ('::') are refused; give the file's own.")
    scheme = url.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(scheme.lower(), "")
        advice = f"pip install {package!r}" if package else str(error)
        raise ValueError(f"{url}: {scheme}:// needs one more package: {advice}.") from None
    except ValueError as error:
        raise ValueError(
            f"{url}: {error}. Give gs://, s3:// or another address that fsspec knows, or a local "
            "path."
        ) from None
    except Exception as error:  # credentials, network: each store has its own kinds
        raise FetchError(f"{url}: the store cannot be reached: {error_line(error)}") from error


def find(urls: tuple[str, ...], leave_out: tuple[str, ...] = ()) -> list[FarFile]:
    """The files that addresses name, in their order, each pattern's by name.

    Args:
      urls: with braces as local paths have them, and with '*', '?' and '[ab]'.
      leave_out: endings that a pattern may meet but does not mean.

    Raises:
      ValueError: an unknown protocol, or a file named twice.
      FileNotFoundError: files that are not there, or a pattern without any.
      FetchError: the store cannot be reached.
    """
    found: dict[str, FarFile] = {}
    missing: list[str] = []
    listings: dict[str, dict[str, FarFile]] = {}
    for name in patterns.names(urls):
        fs, path = open_store(name)
        if re.search(r"[*?\[]", path):
            files = [file for file in _glob(fs, path, name) if not file.url.endswith(leave_out)]
        else:
            folder = posixpath.dirname(name)
            if folder not in listings:
                listings[folder] = list_folder(folder)
            known = listings[folder].get(name) or _try_look(name)
            files = [known] if known else []
        if not files:
            missing.append(name)
        for file in files:
            if file.url in found:
                raise ValueError(f"{file.url} is named twice; give each shard once.")
            found[file.url] = file
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise FileNotFoundError(
            f"Nothing is there for {len(missing):,} of the addresses asked for: {shown}. Correct "
            "the path or put the files there."
        )
    return list(found.values())


def look(url: str) -> FarFile:
    """What a store says of a file now.

    Raises:
      FileNotFoundError: it is not there.
      FetchError: the store cannot be reached.
    """
    fs, path = open_store(url)

    def ask() -> FarFile:
        fs.invalidate_cache()
        return _far(url, fs.info(path))

    try:
        return retry(url, ask, FetchError)
    except FileNotFoundError:
        raise FileNotFoundError(f"{url} is not there.") from None


def read_small(url: str, most: int) -> bytes | None:
    """The first bytes of a file, None where it is not there.

    Raises:
      FetchError: the store cannot be reached.
    """
    fs, path = open_store(url)

    def read() -> bytes:
        data = b""
        with fs.open(path, "rb") as file:
            while piece := file.read(most - len(data)):  # a piece may be less than was asked for
                data += piece
            size = getattr(file, "size", None)
        if size is not None and len(data) < min(size, most):
            raise OSError(f"{len(data):,} bytes came instead of {min(size, most):,}")
        return data

    try:
        return retry(url, read, FetchError)
    except FileNotFoundError:
        return None


def _try_look(url: str) -> FarFile | None:
    try:
        return look(url)
    except FileNotFoundError:
        return None


def list_folder(url: str) -> dict[str, FarFile]:
    """{address: file} of a folder; empty where there is none or the store cannot list it.

    Raises:
      FetchError: the store cannot be reached.
    """
    fs, path = open_store(url)

    def ask() -> list[dict[str, Any]]:
        fs.invalidate_cache()
        try:
            return fs.ls(path, detail=True)
        except (FileNotFoundError, NotImplementedError, NotADirectoryError):
            return []

    entries = retry(url, ask, FetchError)
    files = (
        _far(f"{url}/{posixpath.basename(entry['name'])}", entry)
        for entry in entries
        if entry.get("type", "file") == "file"
    )
    return {file.url: file for file in files}


_Entry = dict[str, Any]


def files_below(
    fs: Any,
    path: str,
    again: Callable[[Callable[[], Any]], Any],
    depth: int | None = None,
) -> dict[str, _Entry]:
    """{path: entry} of the files below a folder of a file system; nothing where it is not there.

    fsspec's own walk takes a folder that it could not list for an empty one: a run would begin anew
    beside its checkpoints, or train on the shards that were left.

    Args:
      fs: of `open_store`.
      path: in it.
      again: makes each call of the store, see `retry`.
      depth: how many folders deep, None for all.

    Raises:
      OSError: as `again` has it.
    """
    fs.invalidate_cache()
    if depth is None and _lists_by_itself(fs):  # by prefix, at once
        found = again(lambda: fs.find(path, detail=True))
        return {name: entry for name, entry in found.items() if entry.get("type") != "directory"}
    files: dict[str, _Entry] = {}
    folders = [(path, 1)]
    while folders:
        folder, level = folders.pop()
        try:
            entries = again(functools.partial(fs.ls, folder, detail=True))
        except (FileNotFoundError, NotADirectoryError):  # gone since
            continue
        for entry in entries:
            name = entry["name"].rstrip("/")
            if entry.get("type") != "directory":
                files[entry["name"]] = entry
            elif name != folder.rstrip("/") and (depth is None or level < depth):
                folders.append((name, level + 1))
    return files


def _lists_by_itself(fs: Any) -> bool:
    if isinstance(fs, AsyncFileSystem):
        return type(fs)._find is not AsyncFileSystem._find
    return type(fs).find is not AbstractFileSystem.find


def _glob(fs: Any, path: str, pattern: str) -> list[FarFile]:
    fixed = posixpath.dirname(re.split(r"[*?\[]", pattern, maxsplit=1)[0])
    prefix = posixpath.dirname(re.split(r"[*?\[]", path, maxsplit=1)[0])
    depth = None if "**" in path else path.removeprefix(prefix).strip("/").count("/") + 1
    try:
        asked = re.compile(glob_translate(path))
    except ValueError as error:
        raise ValueError(f"{pattern}: {error}.") from None
    found = files_below(fs, prefix, lambda act: retry(pattern, act, FetchError), depth)
    files = [
        _far(fixed + name.removeprefix(prefix), entry)
        for name, entry in found.items()
        if asked.match(name)
    ]
    return sorted(files, key=lambda file: file.url)


def _far(url: str, info: dict[str, Any]) -> FarFile:
    if info.get("type") == "directory" or info.get("size") is None:
        raise FetchError(f"{url}: the store tells no size; it is no file that can be fetched.")
    version = ""
    for kind, keys in (("time", _TIMES), ("tag", _TAGS)):
        told = next((info[key] for key in keys if info.get(key)), None)
        if isinstance(told, datetime.datetime):  # a listing may give the same as seconds
            told = told.timestamp()
        if told is not None:
            version = f"{kind}:{told}"
    return FarFile(url, int(info["size"]), version, info.get("md5Hash") or "")
