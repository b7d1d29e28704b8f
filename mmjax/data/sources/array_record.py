"""ArrayRecord files: one file, random access, and a checksum in every chunk.

A record here is a small container of a sample's members that needs no pickle:

    'mmr1' | CRC32 of all that follows (4 bytes, little-endian) | length of the header (4) | header
    | the members' bytes, one after the other

The header is JSON: {"key": "...", "members": [[name, bytes, form], ...]} with form 'b' for bytes,
's' for UTF-8 text and 'j' for JSON.
"""

import bisect
import itertools
import json
import os
import struct
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from array_record.python import array_record_data_source, array_record_module
from isal.isal_zlib import crc32

from mmjax.data.sources import base, patterns

__all__ = ["ArrayRecordSource", "convert", "pack", "unpack", "write_array_record"]

_MAGIC = b"mmr1"
_PREFIX = struct.Struct("<4sII")
_FOOTER_BYTES = 1 << 16


class ArrayRecordSource(base.Source):
    """Samples of ArrayRecord files that `write_array_record` or `convert` wrote.

    Args:
      path: one pattern or several: globs and braces, such as 'train-*.array_record'.

    Raises:
      ValueError: a damaged, cut or empty file, or records of another form.
      FileNotFoundError: a pattern or a number of a range without a file.
    """

    def __init__(self, path: str | tuple[str, ...]):
        self._files = patterns.expand(path, leave_out=(".tmp",))
        self._readers = [_open(file) for file in self._files]
        self._ends = list(itertools.accumulate(map(len, self._readers)))
        begins = [0, *self._ends[:-1]]
        for file, begin in zip(self._files, begins):
            try:
                self[begin]
            except base.BadSample as error:
                if error.cause == "format":
                    raise ValueError(
                        f"{file} holds records of another form ({error.message}). Write it with "
                        "mmjax.data.sources.array_record.convert, or read it through TFDS."
                    ) from None

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, position: int) -> base.Record:
        if not 0 <= position < self._ends[-1]:
            raise IndexError(f"Sample {position} of {self._ends[-1]:,} was asked for.")
        number = bisect.bisect_right(self._ends, position)
        reader = self._readers[number]
        where = f"{self._files[number]}: record {position - self._ends[number] + len(reader)}"
        try:
            data = reader[position - self._ends[number] + len(reader)]
        except (OSError, RuntimeError) as error:
            cause = "checksum" if "hash mismatch" in str(error) else "read"
            raise base.BadSample(cause, f"{where}: {str(error)[:200]}") from None
        try:
            return unpack(data)
        except ValueError as error:
            cause = "checksum" if data.startswith(_MAGIC) else "format"
            raise base.BadSample(cause, f"{where}: {error}") from None

    def fingerprint(self) -> str:
        return base.digest(
            ["ArrayRecord", [_facts(file, len(r)) for file, r in zip(self._files, self._readers)]]
        )

    def describe(self) -> str:
        files = f"{len(self._files):,} file{'s' if len(self._files) > 1 else ''}"
        try:
            members = " ".join(name for name in self[0] if name != "__key__")
        except base.BadSample as error:
            members = f"unknown members (the first is bad: {error.cause})"
        return f"{files}, {len(self):,} samples of {members}"


def pack(record: base.Record) -> bytes:
    """One record as bytes that `unpack` understands.

    Args:
      record: '__key__' and members of bytes, text, or what JSON can hold; other names that begin
        with '__' are notes of a source and are left out.

    Raises:
      TypeError: a member is none of these, such as an array.
    """
    members, parts = [], []
    for name, value in record.items():
        if name.startswith("__"):
            continue
        if isinstance(value, bytes):
            form, data = "b", value
        elif isinstance(value, str):
            form, data = "s", value.encode("utf-8", "surrogatepass")
        else:
            form, data = "j", json.dumps(value).encode("ascii")
        members.append([name, len(data), form])
        parts.append(data)
    header = json.dumps({"key": record.get("__key__", ""), "members": members}).encode("ascii")
    rest = b"".join([struct.pack("<I", len(header)), header, *parts])
    return _MAGIC + struct.pack("<I", crc32(rest)) + rest


def unpack(data: bytes) -> base.Record:
    """The record that `pack` made into bytes.

    Raises:
      ValueError: the bytes are of another form, cut, or changed.
    """
    if len(data) < _PREFIX.size or not data.startswith(_MAGIC):
        raise ValueError(f"a record begins with {_MAGIC!r}, not {data[:4]!r}")
    _, crc, length = _PREFIX.unpack_from(data)
    if crc32(memoryview(data)[8:]) != crc:
        raise ValueError("the record's CRC does not fit")
    at = _PREFIX.size + length
    try:
        header = json.loads(data[_PREFIX.size : at])
        record: base.Record = {"__key__": str(header["key"])}
        for name, size, form in header["members"]:
            value = data[at : at + size]
            at += size
            record[name] = _FORMS[form](value)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"the record's header is damaged: {error!r}") from None
    if at != len(data):
        raise ValueError(f"the record holds {len(data):,} bytes, its header says {at:,}")
    return record


_FORMS = {
    "b": bytes,
    "s": lambda data: data.decode("utf-8", "surrogatepass"),
    "j": json.loads,
}


def write_array_record(path: str, records: Iterable[base.Record]) -> int:
    """Writes records to one ArrayRecord file, at once or not at all.

    Args:
      path: the file; an older one is replaced.
      records: at least one.

    Returns:
      How many records were written.

    Raises:
      ValueError: there are none.
      TypeError: a record holds what `pack` cannot take.
    """
    temporary = f"{path}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp"
    count = 0
    writer = array_record_module.ArrayRecordWriter(temporary, "group_size:1")
    try:
        for record in records:
            writer.write(pack(record))
            count += 1
        if not count:
            raise ValueError(f"There are no records for {path}; a file must hold one at least.")
        writer.close()
        os.replace(temporary, path)
    except BaseException:
        if writer.is_open():
            writer.close()
        os.unlink(temporary)
        raise
    return count


def convert(source: base.Source, prefix: str, records_per_file: int = 10_000) -> list[str]:
    """Writes any source, such as tars, as ArrayRecord files; a bad sample stops it.

    Args:
      source: what to write, in its own order.
      prefix: where to: 'folder/train' gives 'folder/train-00000-of-00004.array_record'.
      records_per_file: how many samples a file gets.

    Returns:
      The files.

    Raises:
      BadSample: a sample of the source cannot be read.
    """
    number_of_files = -(-len(source) // records_per_file)
    files = []
    for number in range(number_of_files):
        begin = number * records_per_file
        span = range(begin, min(begin + records_per_file, len(source)))
        files.append(f"{prefix}-{number:05d}-of-{number_of_files:05d}.array_record")
        write_array_record(files[-1], _records(source, span))
    return files


def _records(source: base.Source, span: range) -> Iterator[base.Record]:
    for position in span:
        yield source[position]


def _open(file: str) -> array_record_data_source.ArrayRecordDataSource:
    """A file's reader; it opens lazily, in each process anew."""
    try:
        reader = array_record_data_source.ArrayRecordDataSource([file])
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{file} is no sound ArrayRecord file: {str(error)[:200]}. Make it again or leave it "
            "out."
        ) from None
    if not len(reader):
        raise ValueError(f"{file}: it holds no samples. Make it again or leave it out.")
    return reader


def _facts(file: str, records: int) -> list[Any]:
    """Name, length, count and the CRC of the footer, which holds every chunk's place."""
    size = os.path.getsize(file)
    with open(file, "rb") as opened:
        opened.seek(max(0, size - _FOOTER_BYTES))
        return [os.path.basename(file), size, records, crc32(opened.read())]
