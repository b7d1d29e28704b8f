"""A folder of pictures with captions beside them, or a table that names pictures."""

import collections
import csv
import io
import json
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from isal.isal_zlib import crc32

from mmjax.data.sources import base, patterns

__all__ = ["PICTURES", "Folder", "Table"]

PICTURES = ("jpg", "jpeg", "png", "webp")
_BESIDE = ("txt", "json")
_MOST_BYTES = 1 << 28
_IMAGE = "image"


class Folder(base.Source):
    """Pictures of a folder and its subfolders, with '.txt' or '.json' files of the same stem.

    Args:
      path: the folder. Hidden files, other extensions and linked folders are left out.

    Raises:
      ValueError: no pictures in it, or a link that leads out of it.
      FileNotFoundError: there is no such folder.
    """

    def __init__(self, path: str):
        patterns.refuse_address(path)
        self._root = os.path.realpath(os.path.expanduser(path))
        if not os.path.isdir(self._root):
            raise FileNotFoundError(f"{path!r} is no folder; give the one that holds the pictures.")
        found: dict[str, list[str]] = {}
        self._sizes = 0
        for name, size in _walk(self._root, ""):
            stem, _, extension = name.rpartition(".")
            if extension.lower() in PICTURES + _BESIDE:
                found.setdefault(stem, []).append(extension)
                self._sizes = crc32(
                    f"{name}:{size};".encode(errors="backslashreplace"), self._sizes
                )
        self._samples = sorted(
            (stem, tuple(extensions))
            for stem, extensions in found.items()
            if any(extension.lower() in PICTURES for extension in extensions)
        )
        if not self._samples:
            raise ValueError(f"{path!r} holds no pictures ({', '.join(PICTURES)}).")

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, position: int) -> base.Record:
        if not 0 <= position < len(self._samples):
            raise IndexError(f"Sample {position} of {len(self._samples):,} was asked for.")
        stem, extensions = self._samples[position]
        record: base.Record = {"__key__": _printable(stem)}
        for extension in extensions:
            record[extension.lower()] = _read_inside(self._root, f"{stem}.{extension}")
        return record

    def key(self, position: int) -> str:
        """The name of a record, without reading a file.

        Args:
          position: 0 ... len - 1.
        """
        return _printable(self._samples[position][0])

    def fingerprint(self) -> str:
        return base.digest(["Folder", len(self._samples), self._sizes])

    def describe(self) -> str:
        kinds = sorted({kind.lower() for _, extensions in self._samples for kind in extensions})
        return f"a folder, {len(self):,} samples of {' '.join(kinds)}"


class Table(base.Source):
    """Rows of a JSONL, CSV or TSV file, each with the path of a picture or none with one.

    A record holds the picture under its extension, the whole row as 'json' and, if asked for, one
    column as 'txt'. Where the first row has no column 'image' the table has no pictures, such as
    one of features: its records are named by their lines. The table is kept in memory; very large
    sets belong in shards.

    Args:
      path: a file ending in .jsonl, .ndjson, .csv or .tsv (these two with a header line).
      image: the column with the picture's path, relative to `root`. Any name but 'image' has to be
        there.
      caption: the column given as member 'txt', '' for none.
      root: the folder that the pictures are in, '' for the table's own. Nothing outside it is read.

    Raises:
      ValueError: another kind of file, a damaged row, a column that is not there, no rows, or a
        path that is absolute, holds '..' or has no picture's extension; names the row's line.
      FileNotFoundError: there is no such file.
    """

    def __init__(self, path: str, image: str = _IMAGE, caption: str = "", root: str = ""):
        patterns.refuse_address(path)
        path = os.path.expanduser(path)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path!r} is no file; give a .jsonl, .csv or .tsv table.")
        self._name = os.path.basename(path)
        self._image, self._caption = image, caption
        self._root = os.path.realpath(os.path.expanduser(root) if root else os.path.dirname(path))
        rows, ends, lines = bytearray(), [0], []
        for line, row in _rows(path):
            where = f"{path}: line {line}"
            if len(ends) == 1 and image == _IMAGE and image not in row:
                self._image = ""
            if image in row and not self._image:
                raise ValueError(f"{where} has a column {image!r}, the first row has none.")
            _check_row(row, where, self._image, caption)
            rows += json.dumps(row).encode("ascii")
            ends.append(len(rows))
            if not self._image:
                lines.append(line)
        if len(ends) == 1:
            raise ValueError(f"{path}: it holds no rows. Make the table again.")
        self._rows, self._ends = bytes(rows), np.array(ends, np.int64)
        self._lines = np.array(lines, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, position: int) -> base.Record:
        if not 0 <= position < len(self):
            raise IndexError(f"Sample {position} of {len(self):,} was asked for.")
        begin, end = self._ends[position : position + 2].tolist()
        row = json.loads(self._rows[begin:end])
        record: base.Record
        if self._image:
            name = row[self._image]
            record = {
                "__key__": _printable(name),
                _extension(name): _read_inside(self._root, name),
                "json": row,
            }
        else:
            record = {"__key__": str(self._lines[position]), "json": row}
        if self._caption:
            record["txt"] = row[self._caption]
        return record

    def fingerprint(self) -> str:
        facts = [len(self), crc32(self._rows), self._image, self._caption]
        return base.digest(["Table", *facts])

    def describe(self) -> str:
        columns = json.loads(self._rows[: int(self._ends[1])])
        without = "" if self._image else f", without pictures (no column {_IMAGE!r})"
        return f"{self._name}, {len(self):,} rows of {' '.join(columns)}{without}"


def _walk(root: str, folder: str) -> Iterator[tuple[str, int]]:
    """(path from root, size) of every file, by name; linked folders are not entered."""
    with os.scandir(os.path.join(root, folder)) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        name = os.path.join(folder, entry.name)
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, name)
        elif entry.is_file():
            if entry.is_symlink() and not _leads_inside(root, name):
                raise ValueError(
                    f"{entry.path} is a link out of {root}; put the file itself there or remove it."
                )
            yield name, entry.stat().st_size


def _rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a table."""
    kind = _extension(path)
    if kind not in ("jsonl", "ndjson", "csv", "tsv"):
        raise ValueError(f"{path}: a table ends in .jsonl, .ndjson, .csv or .tsv.")
    line = 0
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            if kind in ("csv", "tsv"):
                csv.field_size_limit(_MOST_BYTES)  # a long caption is cut, and stops nobody
                # Strict, or one stray quote swallows the rows up to the next one.
                reader = csv.DictReader(file, delimiter="," if kind == "csv" else "\t", strict=True)
                _check_once(reader.fieldnames or (), path)
                for row in reader:
                    if None in row or None in row.values():
                        raise ValueError(
                            f"{path}: line {reader.line_num} has another number of columns than "
                            "the header. Correct the table."
                        )
                    line = reader.line_num
                    yield line, row
                return
            for line, text in enumerate(file, 1):
                if text.strip():
                    yield line, _parse(text, f"{path}: line {line}")
        except (csv.Error, UnicodeDecodeError) as error:
            after = f" after line {line}" if line else ""
            raise ValueError(f"{path} cannot be read as a UTF-8 table{after}: {error}.") from None


def _object(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    _check_once([name for name, _ in pairs], where)
    return dict(pairs)


def _check_once(names: Sequence[str], where: str) -> None:
    """Raises ValueError for a column that is there twice: which one is meant nobody can tell."""
    for name, times in collections.Counter(names).items():
        if times > 1:
            raise ValueError(f"{where}: the column {name!r} is there {times} times.")


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, where))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}. Correct the table.") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where} is a {type(row).__name__}; each line is one JSON object.")
    return row


def _check_row(row: dict[str, Any], where: str, image: str, caption: str) -> None:
    for column in filter(None, (image, caption)):
        if not isinstance(row.get(column), str):
            raise ValueError(
                f"{where} has no text in column {column!r}; its columns are {', '.join(row)}."
            )
    if not image:
        return
    name = row[image]
    if os.path.isabs(name) or ".." in name.split("/") or "\0" in name:
        raise ValueError(f"{where} leads out of the table's folder: {name[:200]!r} is refused.")
    if _extension(name) not in PICTURES:
        raise ValueError(f"{where} names {name[:200]!r}; a picture is a {', '.join(PICTURES)}.")


def _read_inside(root: str, name: str) -> bytes:
    """The bytes of a file below root, wherever links may lead."""
    path = os.path.join(root, name)
    try:
        if not _leads_inside(root, name):
            raise base.BadSample("read", f"{path} is a link out of {root}.")
        # O_NONBLOCK: a pipe of that name must not hang the reader.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with io.FileIO(file) as opened:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise base.BadSample("format", f"{path} is not a file.")
            if found.st_size > _MOST_BYTES:
                raise base.BadSample(
                    "too_large", f"{path} has {found.st_size:,} bytes; {_MOST_BYTES:,} are allowed."
                )
            return opened.readall()
    except FileNotFoundError:
        raise base.BadSample("missing", f"{path} is not there.") from None
    except (OSError, ValueError) as error:
        raise base.BadSample("read", f"{path}: {error}") from None


def _leads_inside(root: str, name: str) -> bool:
    return os.path.realpath(os.path.join(root, name)).startswith(os.path.join(root, ""))


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _printable(name: str) -> str:
    """A file's name as text that any encoding takes (Linux names may be any bytes)."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
