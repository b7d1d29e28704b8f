"""The file that holds a tar's index: a magic word, a JSON header and plain columns.

The columns are mapped, not read: a million members take some 50 MB that all processes share, and
open in milliseconds. No pickle: types and places follow from the counts in the header alone.
"""

import contextlib
import json
import mmap
import os
import stat
import struct
import uuid
from typing import Any

import numpy as np
from isal.isal_zlib import crc32

from mmjax.data.sources import tar

__all__ = ["StaleIndex", "TarIndex", "open_index", "read_counts", "write_index"]

_MAGIC = b"mmjaxtar"
_VERSION = 1
_PREFIX = struct.Struct("<8sIII")  # magic, version, length of the header, CRC32 of the header
_ALIGN = 64
_COLUMNS = {  # name: element type, the count of the header that gives its length, what is added
    "first": ("<u4", "samples", 1),  # members of sample i: first[i] ... first[i + 1]
    "key_at": ("<u8", "samples", 0),
    "key_size": ("<u2", "samples", 0),
    "block": ("<u4", "members", 0),  # data begin at 512 × block: a tar aligns them
    "size": ("<u8", "members", 0),
    "crc": ("<u4", "members", 0),
    "kind": ("<u2", "members", 0),  # a number into the header's kinds (extensions)
    "keys": ("<u1", "key_bytes", 0),
}


class StaleIndex(Exception):
    """An index file that cannot serve: damaged, of another version, or of another shard."""


class TarIndex:
    """The opened index of one shard.

    Attributes:
      path: where the index lies.
      kinds: the shard's extensions in order of appearance, lower case.
      body: CRC32 of the columns: which index this is.
      content: CRC32 over the members' CRCs and sizes: what the data are, wherever they lie.
      shard_bytes, shard_mtime_ns, probe: what the shard was when the index was made.
      columns: {name: array}, as in the file.
    """

    def __init__(self, path: str, header: dict[str, Any], columns: dict[str, np.ndarray]):
        self.path = path
        self.columns = columns
        self.kinds: list[str] = header["kinds"]
        self.body: int = header["body"]
        self.content: int = header["content"]
        self.shard_bytes: int = header["shard_bytes"]
        self.shard_mtime_ns: int = header["shard_mtime_ns"]
        self.probe: int = header["probe"]
        self._samples: int = header["samples"]

    def __len__(self) -> int:
        return self._samples

    def sample(self, number: int) -> tuple[str, list[tuple[int, int, int, int]]]:
        """The key of a sample and (kind, offset, size, CRC32) of its members, in tar order.

        Args:
          number: 0 ... len - 1; not checked here.
        """
        columns = self.columns
        begin, end = columns["first"][number : number + 2].tolist()
        at, size = int(columns["key_at"][number]), int(columns["key_size"][number])
        members = zip(
            columns["kind"][begin:end].tolist(),
            [tar.BLOCK * block for block in columns["block"][begin:end].tolist()],
            columns["size"][begin:end].tolist(),
            columns["crc"][begin:end].tolist(),
        )
        key = columns["keys"][at : at + size].tobytes().decode("utf-8", "backslashreplace")
        return key, list(members)


def open_index(path: str, body: int | None = None) -> TarIndex:
    """Opens an index file.

    Args:
      path: the index file.
      body: the `TarIndex.body` it must have, when it was checked before (in this process or
        another); None checks the whole file.

    Raises:
      StaleIndex: damaged, or another index than `body` says.
      OSError: it cannot be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # a folder, or a pipe that would never open
        raise StaleIndex(f"{path} is no file.")
    with open(path, "rb", buffering=0) as file:
        total = os.fstat(file.fileno()).st_size
        prefix = file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size or not prefix.startswith(_MAGIC):
            raise StaleIndex(f"{path} is no index of a tar.")
        _, version, length, checksum = _PREFIX.unpack(prefix)
        text = file.read(min(length, total))
        if version != _VERSION or crc32(text) != checksum:
            raise StaleIndex(f"{path} is damaged or of another version.")
        try:
            header = json.loads(text)
            layout, end = _layout(header, length)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StaleIndex(f"{path} has no sound header: {error}") from None
        if end != total:
            raise StaleIndex(f"{path} is {total:,} bytes long and should be {end:,}.")
        if body is not None and header["body"] != body:
            raise StaleIndex(f"{path} was replaced while it was in use.")
        mapped = mmap.mmap(file.fileno(), total, access=mmap.ACCESS_READ)
    columns = {
        name: np.frombuffer(mapped, dtype, count, at) for name, (at, dtype, count) in layout.items()
    }
    if body is None:
        _check(path, header, columns)
    return TarIndex(path, header, columns)


def read_counts(beginning: bytes) -> tuple[int, int]:
    """(bytes of the shard, samples in it), from the beginning of an index file.

    Args:
      beginning: as far as the header goes at least.

    Raises:
      StaleIndex: damaged, of another version, or not all of the header.
    """
    try:
        magic, version, length, checksum = _PREFIX.unpack_from(beginning)
        text = beginning[_PREFIX.size : _PREFIX.size + length]
        if magic != _MAGIC or version != _VERSION or crc32(text) != checksum:
            raise ValueError("damaged")
        header = json.loads(text)
        return int(header["shard_bytes"]), int(header["samples"])
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise StaleIndex(f"this is no sound index: {error}") from None


def write_index(path: str, header: dict[str, Any], columns: dict[str, np.ndarray]) -> None:
    """Writes an index file at once or not at all, so that several processes may do it together.

    Args:
      path: the index file; its folder must exist.
      header: counts and facts; 'body' is added.
      columns: the arrays named in this module's table.

    Raises:
      OSError: it cannot be written.
    """
    header = {**header, "body": _body(columns)}
    text = json.dumps(header).encode("ascii")
    layout, end = _layout(header, len(text))
    temporary = f"{path}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(_PREFIX.pack(_MAGIC, _VERSION, len(text), crc32(text)) + text)
            for name, (at, dtype, _) in layout.items():
                file.seek(at)
                file.write(np.ascontiguousarray(columns[name], dtype).data)
            file.truncate(end)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _layout(
    header: dict[str, Any], header_bytes: int
) -> tuple[dict[str, tuple[int, str, int]], int]:
    """{column: (offset, type, count)} and the file's length; column sizes follow from counts."""
    layout, at = {}, _PREFIX.size + header_bytes
    for name, (dtype, count, extra) in _COLUMNS.items():
        number = int(header[count]) + extra
        if number <= extra:
            raise ValueError(f"{count} is {header[count]}")
        at = -(-at // _ALIGN) * _ALIGN
        layout[name] = (at, dtype, number)
        at += number * np.dtype(dtype).itemsize
    return layout, at


def _body(columns: dict[str, np.ndarray]) -> int:
    crc = 0
    for name, (dtype, _, _) in _COLUMNS.items():
        crc = crc32(np.ascontiguousarray(columns[name], dtype).data, crc)
    return crc


def _check(path: str, header: dict[str, Any], columns: dict[str, np.ndarray]) -> None:
    """Refuses an index with a flipped bit, or one whose numbers would lead out of the shard."""
    if _body(columns) != header["body"]:
        raise StaleIndex(f"{path} is damaged.")
    first = columns["first"].astype(np.int64)
    ends = columns["block"] * np.uint64(tar.BLOCK) + columns["size"]
    key_ends = columns["key_at"] + columns["key_size"]
    sound = (
        first[0] == 0
        and first[-1] == header["members"]
        and np.all(np.diff(first) > 0)
        and columns["block"].min() > 0
        and columns["size"].max() <= header["shard_bytes"]
        and ends.max() <= header["shard_bytes"]
        and columns["key_at"].max() < header["key_bytes"]
        and key_ends.max() <= header["key_bytes"]
        and columns["kind"].max() < len(header["kinds"])
        and all(isinstance(kind, str) for kind in header["kinds"])
    )
    if not sound:
        raise StaleIndex(f"{path} does not describe its shard.")
