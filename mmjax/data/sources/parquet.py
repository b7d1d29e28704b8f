"""Rows of Parquet files: a row group is read whole, so reads keep to a few of them at a time.

Within a row group single rows cannot be reached. A shuffled epoch therefore goes through the row
groups in a drawn order and mixes the rows of a window of them (`mmjax.data.block_order`); what two
windows take is kept in memory, so each row group is read once an epoch in each reading process.

Parquet knows a CRC for each page, but many writers leave it out. Where it is there, a flipped bit
of the data is found; where it is not, one may reach the training as a slightly other picture or
word, and `describe` says so.

Source: Apache Parquet format, "Checksumming" and PageHeader in parquet.thrift.
"""

import collections
import concurrent.futures
import itertools
import os
import threading
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from isal.isal_zlib import crc32
from pyarrow import parquet as pq

from mmjax.data.sources import base, patterns

__all__ = ["Parquet"]

_FOOTER_BYTES = 1 << 16
_MAGIC = b"PAR1"


class _Group(NamedTuple):
    """One row group."""

    file: int
    number: int
    first_row: int
    rows: int
    bytes: int  # of the columns that are read, decompressed


class _File(NamedTuple):
    """What is kept of a file when it is not open."""

    path: str
    groups: list[_Group]
    columns: list[str]
    facts: tuple[str, int, int, int]  # name, bytes, rows, CRC of the footer
    checked: bool


class Parquet(base.Source):
    """Rows of `.parquet` files, read at random by row group.

    A record holds the row's columns by name: binary as bytes, text, numbers, lists of text as
    lists, lists of numbers as arrays, structs as dicts (a field of one is 'photo:title'), dates and
    times as the whole number that is stored. A
    picture as the `datasets` library keeps it, a struct of 'bytes' and 'path', is its bytes. Nulls
    are left out. '__key__' is 'file/row'.

    Args:
      path: one pattern or several: globs and braces, such as 'train-*.parquet'.
      columns: those to read, () for all; the others are never touched.
      cache_bytes: memory for row groups in each process that reads. It decides how many of them are
        mixed, and so the order; two windows fit.

    Raises:
      ValueError: a damaged, cut or empty file, columns that are not there, or row groups too large
        for `cache_bytes`.
      FileNotFoundError: a pattern or a number of a range without a file.
    """

    def __init__(
        self,
        path: str | tuple[str, ...],
        columns: tuple[str, ...] = (),
        cache_bytes: int = 1 << 29,
    ):
        files = patterns.expand(path, leave_out=(".tmp",))
        self._columns, self._cache_bytes = tuple(columns), cache_bytes
        with concurrent.futures.ThreadPoolExecutor(min(8, len(files))) as pool:
            looked = list(pool.map(self._look, range(len(files)), files))
        self._paths = [file.path for file in looked]
        self._groups = list(itertools.chain(*(file.groups for file in looked)))
        self._names = list(dict.fromkeys(itertools.chain(*(file.columns for file in looked))))
        self._facts = [file.facts for file in looked]
        self._unchecked = [os.path.basename(file.path) for file in looked if not file.checked]
        largest = max(self._groups, key=lambda group: group.bytes)
        window = cache_bytes // (2 * max(1, largest.bytes))
        if window < 1:
            raise ValueError(
                f"{self._paths[largest.file]}: row group {largest.number} has {largest.rows:,} "
                f"rows of {largest.bytes:,} bytes in all, and twice as much has to fit in "
                f"cache_bytes={cache_bytes:,}. Raise it, read fewer columns, or write the file "
                "again with smaller row groups (row_group_size of pyarrow.parquet.write_table)."
            )
        sizes = tuple(group.rows for group in self._groups)
        self._blocks = base.Blocks(sizes, min(window, len(sizes)))
        self._forget()

    def __len__(self) -> int:
        return self._blocks.ends[-1]

    def __getitem__(self, position: int) -> base.Record:
        if not 0 <= position < len(self):
            raise IndexError(f"Sample {position} of {len(self):,} was asked for.")
        number, row = self._blocks.find(position)
        table, group = self._table(number), self._groups[number]
        path = self._paths[group.file]
        name = os.path.basename(path).removesuffix(".parquet")
        record: base.Record = {
            "__key__": f"{name}/{group.first_row + row}",
            "__shard__": path,
        }
        for column, values in zip(table.column_names, table.columns):
            try:
                value = _plain(values[row])
            except (ValueError, pa.ArrowException) as error:
                where = f"{path}: row {group.first_row + row}, column {column!r}"
                cause = "caption" if isinstance(error, UnicodeDecodeError) else "read"
                raise base.BadSample(cause, f"{where}: {str(error)[:200]}") from None
            if value is not None:
                record[column] = value
        if self._columns:  # so that an error can say what else is there
            others = [name for name in self._names if name not in self._columns]
            record["__members__"] = (*list(record)[2:], *others)
        return record

    def fingerprint(self) -> str:
        return base.digest(["Parquet", self._facts, self._columns, self._blocks.window])

    def describe(self) -> str:
        files = f"{len(self._paths):,} file{'s' if len(self._paths) > 1 else ''}"
        shown = " ".join(self._columns or self._names[:8])
        more = " ..." if not self._columns and len(self._names) > 8 else ""
        checked = ""
        if self._unchecked:
            which = f"{len(self._unchecked)} of them, " if len(self._paths) > 1 else ""
            checked = f" ({which}without page checksums: a flipped bit may pass unnoticed)"
        return f"{files}, {len(self):,} samples of {shown}{more}{checked}"

    @property
    def blocks(self) -> base.Blocks:
        return self._blocks

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_lock", "_tables", "_process")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._tables: collections.OrderedDict[int, concurrent.futures.Future] = (
            collections.OrderedDict()
        )
        self._process = os.getpid()

    def _look(self, number: int, path: str) -> _File:
        """What is kept of a file, once its footer was read."""
        try:
            with pq.ParquetFile(path) as opened:
                meta, columns = opened.metadata, opened.schema_arrow.names
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise ValueError(
                f"{path} is no sound Parquet file: {str(error)[:200]}. Get it again or leave it "
                "out."
            ) from None
        for column in self._columns:
            if column not in columns:
                raise ValueError(f"{path} has no column {column!r}; it has {', '.join(columns)}.")
        groups, row, data_end = [], 0, 0
        for index in range(meta.num_row_groups):
            group = meta.row_group(index)
            chunks = [group.column(column) for column in range(group.num_columns)]
            read = [chunk for chunk in chunks if self._wants(chunk.path_in_schema)]
            size = sum(chunk.total_uncompressed_size for chunk in read)
            if group.num_rows and chunks:
                groups.append(_Group(number, index, row, group.num_rows, size))
            row += group.num_rows
            data_end = max([data_end, *(_begin(c) + c.total_compressed_size for c in chunks)])
        if not groups:
            raise ValueError(f"{path}: it holds no samples. Make it again or leave it out.")
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            file.seek(max(0, size - _FOOTER_BYTES))
            facts = (os.path.basename(path), size, row, crc32(file.read()))
            first = meta.row_group(groups[0].number).column(0)
            file.seek(_begin(first))
            checked = _has_checksum(file.read(64))
        if data_end > size:
            raise ValueError(f"{path}: it was cut; get it again or leave it out.")
        return _File(path, groups, columns, facts, checked)

    def _wants(self, path: str) -> bool:
        """Whether a chunk is read; those of a struct's fields are 'column.field'."""
        names = self._columns
        return not names or any(path == name or path.startswith(f"{name}.") for name in names)

    def _table(self, number: int) -> pa.Table:
        """A row group, read by the first who asks; those unused for longest make room."""
        if self._process != os.getpid():  # forked: the lock may be held by a thread not here
            self._forget()
        with self._lock:
            kept = self._tables.get(number)
            first = kept is None
            if first:
                kept = self._tables[number] = concurrent.futures.Future()
            self._tables.move_to_end(number)
        if first:
            try:
                kept.set_result(self._read(number))
            except base.BadSample as problem:  # kept too: it is read no more often than others
                kept.set_result(problem)
            except BaseException as error:
                kept.set_exception(error)
                raise
            self._make_room()
        found = kept.result()
        if isinstance(found, base.BadSample):
            raise base.BadSample(found.cause, found.message)
        return found

    def _make_room(self) -> None:
        with self._lock:
            sizes = {
                number: getattr(kept.result(), "nbytes", 0)
                for number, kept in self._tables.items()
                if kept.done() and not kept.exception()
            }
            kept_bytes = sum(sizes.values())
            for number in list(sizes)[:-1]:
                if kept_bytes <= self._cache_bytes:
                    return
                kept_bytes -= sizes[number]
                del self._tables[number]

    def _read(self, number: int) -> pa.Table:
        group = self._groups[number]
        path = self._paths[group.file]
        where = f"{path}: row group {group.number}"
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as opened:
                table = opened.read_row_group(
                    group.number, list(self._columns) or None, use_threads=False
                )
        except (OSError, pa.ArrowException) as error:
            cause = "checksum" if "CRC" in str(error) else "read"
            raise base.BadSample(cause, f"{where}: {str(error)[:200]}") from None
        if table.num_rows != group.rows:
            raise base.BadSample(
                "read", f"{where}: {table.num_rows:,} rows, {group.rows:,} at the run's beginning."
            )
        return table


def _plain(value: pa.Scalar) -> Any:
    """A cell as the rest of the data room takes it, None for null."""
    if not value.is_valid:
        return None
    kind = value.type
    # Python has no word for some of them.
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return value.value
    if pa.types.is_struct(kind):
        if {field.name for field in kind} == {"bytes", "path"}:
            return value["bytes"].as_py()
        return {field.name: _plain(value[n]) for n, field in enumerate(kind)}
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if is_list or pa.types.is_fixed_size_list(kind):
        inner = kind.value_type
        if pa.types.is_integer(inner) or pa.types.is_floating(inner):
            if value.values.null_count:
                raise ValueError("nulls in a list of numbers")
            return np.asarray(value.values.to_numpy(zero_copy_only=False))
        return [_plain(one) for one in value.values]
    return value.as_py()


def _begin(chunk: Any) -> int:
    """Where a column chunk begins in its file."""
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        return min(chunk.dictionary_page_offset, chunk.data_page_offset)
    return chunk.data_page_offset


def _has_checksum(header: bytes) -> bool:
    """Whether a page's header holds a CRC: field 4 behind three required numbers.

    In Thrift's compact protocol each of these is a byte (step to the field, kind 5) and a varint.
    """
    at = 0
    for _ in range(3):
        at += 1
        while at < len(header) and header[at] & 0x80:
            at += 1
        at += 1
    return header[at : at + 1] == b"\x15"
