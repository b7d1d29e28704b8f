"""One sequential pass over a tar: where each ordinary file lies, and its CRC.

Python's `tarfile` keeps every member in memory, follows sparse maps and stops silently where a tar
was cut between two members. This reader does none of that: memory is flat, nothing is extracted,
and a tar that does not end as a tar must is an error.

Source: POSIX.1-2008 `pax` (ustar and pax interchange formats); GNU tar manual, "Basic Tar Format".
"""

import os
from collections.abc import Iterator
from typing import BinaryIO

from isal.isal_zlib import crc32

__all__ = ["BLOCK", "scan"]

BLOCK = 512
_CHUNK = 1 << 20
_ZEROS = bytes(BLOCK)
_LONGEST_NAME = 4096  # PATH_MAX: no file could have a longer one
_LONGEST_PAX = 1 << 20
_FILES = (b"0", b"\0", b"7")
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
}


def scan(shard: str) -> Iterator[tuple[bytes, int, int, int]]:
    """Yields (name, offset of the data, size, CRC32) of each ordinary file in a tar.

    Links, devices, folders, sparse files and names that are absolute or hold '..' are left out:
    none of them can be a member of a sample.

    Args:
      shard: path of an uncompressed tar (ustar, pax or GNU).

    Raises:
      ValueError: the file is no tar, was cut, or has a damaged header; names shard and byte.
      OSError: it cannot be read.
    """
    with open(shard, "rb", buffering=_CHUNK) as file:
        yield from _Scan(file, shard).members()


class _Scan:
    """The state of one pass: the file, where it stands and how long it is."""

    def __init__(self, file: BinaryIO, shard: str):
        self.file = file
        self.shard = shard
        self.total = os.fstat(file.fileno()).st_size
        self.position = 0

    def fail(self, what: str) -> ValueError:
        return ValueError(f"{self.shard}: {what}. Make the shard again or leave it out.")

    def members(self) -> Iterator[tuple[bytes, int, int, int]]:
        name, pax = b"", {}
        while True:
            start = self.position
            block = self.take(BLOCK, "has no end-of-archive mark")
            if block == _ZEROS:
                self.check_tail(start)
                return
            kind, size = block[156:157], self.check_header(block, start)
            if kind == b"L":
                name = self.take_padded(size, _LONGEST_NAME, "a long name").rstrip(b"\0")
                continue
            if kind in (b"x", b"X"):
                pax = self.parse_pax(self.take_padded(size, _LONGEST_PAX, "a pax header"), start)
                continue
            if kind == b"g":
                shared = self.parse_pax(self.take_padded(size, _LONGEST_PAX, "a pax header"), start)
                if shared:
                    raise self.fail(f"its global header at byte {start:,} sets {sorted(shared)[0]}")
                continue
            if kind == b"S":
                more = block[482]
                while more:
                    more = self.take(BLOCK, "ends within a sparse map")[504]
            size = self.pax_size(pax, size, start)
            full = pax.get("path") or name or _short_name(block)
            sparse = kind == b"S" or "sparse" in pax
            offset = self.position
            if kind in _FILES and not sparse and _is_inside(full):
                yield full, offset, size, self.checksum(full, size)
            elif kind not in _WITHOUT_DATA:
                self.skip(size, full)
            if kind != b"K":  # a long link name stands between a long name and its member
                name, pax = b"", {}

    def take(self, size: int, otherwise: str) -> bytes:
        data = self.file.read(size)
        if len(data) < size:
            raise self.fail(f"was cut at byte {self.position + len(data):,}: it {otherwise}")
        self.position += size
        return data

    def take_padded(self, size: int, most: int, what: str) -> bytes:
        if size > most:
            raise self.fail(f"{what} at byte {self.position:,} claims {size:,} bytes")
        return self.take(_padded(size), f"ends within {what}")[:size]

    def room(self, name: bytes, size: int) -> None:
        if self.position + size > self.total:
            raise self.fail(
                f"member {_show(name)} claims {size:,} bytes at byte {self.position:,}, past the "
                f"file's end at {self.total:,} (the shard was cut or its header is damaged)"
            )

    def skip(self, size: int, name: bytes) -> None:
        self.room(name, size)
        self.position += _padded(size)
        self.file.seek(self.position)

    def checksum(self, name: bytes, size: int) -> int:
        self.room(name, size)
        crc, left = 0, size
        while left > _CHUNK:
            crc = crc32(self.take(_CHUNK, f"ends within member {_show(name)}"), crc)
            left -= _CHUNK
        rest = self.take(_padded(left), f"ends within the padding of member {_show(name)}")
        return crc32(memoryview(rest)[:left], crc)

    def check_tail(self, start: int) -> None:
        """Only zeros may follow the end: joined tars would lose every sample but the first's."""
        while data := self.file.read(_CHUNK):
            if data.count(0) != len(data):
                raise self.fail(
                    f"ends at byte {start:,} but data follow (joined tars, or a damaged header)"
                )

    def check_header(self, block: bytes, start: int) -> int:
        """The size that a header claims, after its own checksum was checked."""
        told = _octal(block[148:156])
        plain = sum(block) - sum(block[148:156]) + 8 * ord(" ")
        if told != plain and told != plain - 256 * sum(byte > 127 for byte in block):
            for magic, form in _COMPRESSED.items():
                if start == 0 and block.startswith(magic):
                    raise self.fail(f"is a {form} file; shards are read in place, so plain tars")
            raise self.fail(f"has a damaged header (or is no tar) at byte {start:,}")
        size = _octal(block[124:136])
        if size is None:
            raise self.fail(f"has a header without a size at byte {start:,}")
        return size

    def parse_pax(self, data: bytes, start: int) -> dict[str, bytes]:
        """What matters here of a pax header: 'path', 'size', and whether it is 'sparse'."""
        found, position = {}, 0
        while position < len(data) and data[position]:
            digits, space, _ = data[position : position + 20].partition(b" ")
            length = int(digits) if space and digits.isdigit() else 0
            record = data[position : position + length]
            word, equals, value = record[len(digits) + 1 : -1].partition(b"=")
            if not (equals and record.endswith(b"\n") and len(record) == length):
                raise self.fail(f"has a damaged pax header at byte {start:,}")
            if word in (b"path", b"size"):
                found[word.decode()] = value
            elif word.startswith(b"GNU.sparse"):
                found["sparse"] = value
            position += length
        if len(found.get("path", b"")) > _LONGEST_NAME:
            raise self.fail(f"a long name at byte {start:,} claims {len(found['path']):,} bytes")
        return found

    def pax_size(self, pax: dict[str, bytes], size: int, start: int) -> int:
        if "size" not in pax:
            return size
        if not pax["size"].isdigit() or len(pax["size"]) > 20:
            raise self.fail(f"has a damaged pax header before byte {start:,}")
        return int(pax["size"])


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _octal(field: bytes) -> int | None:
    """A header's number: octal digits, or base 256 behind a first byte of 0x80 (GNU)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    return int(digits, 8) if digits.isdigit() and max(digits) < ord("8") else None


def _short_name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0":  # GNU keeps times where POSIX keeps the folder
        folder = block[345:500].partition(b"\0")[0]
        return folder + b"/" + name if folder else name
    return name


def _is_inside(name: bytes) -> bool:
    """Whether a name stays below the folder it would be unpacked in, and is a file's."""
    if name[:1] == b"/" or name[-1:] in (b"/", b"") or b"\0" in name:
        return False
    return b".." not in name or b".." not in name.split(b"/")


def _show(name: bytes) -> str:
    return repr(name[:100].decode("utf-8", "backslashreplace"))
