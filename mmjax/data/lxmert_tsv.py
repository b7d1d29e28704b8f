"""LXMERT's table of detected regions to `.tar` shards that mmjax reads.

Such a table has a picture a line and takes tens of gigabytes, so it is read line by line. Shards
appear under their names once all lines were sound, or not at all.
"""

import base64
import binascii
import glob
import io
import itertools
import json
import os
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

__all__ = ["COLUMNS", "ConversionError", "Converted", "convert", "read_captions"]

COLUMNS = (
    *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
    *("num_boxes", "boxes", "features"),
)
# {column: (array of the .npz, type in the table, type in the .npz)}
ARRAYS = {
    "objects_id": ("objects", np.int64, np.int32),
    "objects_conf": ("object_confidence", np.float32, np.float32),
    "attrs_id": ("attributes", np.int64, np.int32),
    "attrs_conf": ("attribute_confidence", np.float32, np.float32),
    "boxes": ("boxes", np.float32, np.float32),
    "features": ("features", np.float32, np.float32),
}
_LONGEST_LINE = 1 << 28  # bytes
_MOST_BOXES = 100_000


class ConversionError(ValueError):
    """A table that is not as it should be; the message names file and line."""


class Converted(NamedTuple):
    """What was made.

    Attributes:
      files: the shards.
      samples: pictures in them.
      without_caption: pictures left out since no caption was given for them.
    """

    files: tuple[str, ...]
    samples: int
    without_caption: int


def convert(
    table: str,
    prefix: str,
    samples: int = 1000,
    captions: Mapping[str, str | list[str]] | None = None,
) -> Converted:
    """Writes a table as shards 'prefix-000000.tar', 'prefix-000001.tar' and so on.

    A sample is named by its picture and has a `.npz` with the arrays 'features', 'boxes' (pixels),
    'width', 'height', 'objects', 'object_confidence', 'attributes' and 'attribute_confidence', and
    a `.txt` with a caption a line where captions are given.

    Args:
      table: the `.tsv` file, with the columns of `COLUMNS` and no heading.
      prefix: where to, such as 'shards/train'.
      samples: pictures a shard, 1 or more.
      captions: {picture: its caption or captions}; pictures that are not in it are left out. None
        writes all pictures, without text.

    Raises:
      ConversionError: a damaged line, a picture named twice, nothing to write, or shards of this
        prefix that are there already.
      OSError: a file that cannot be read or written.

    Source: airsplay/lxmert, src/utils.py `load_obj_tsv`, for columns and types.
    """
    if samples < 1:
        raise ConversionError(f"{samples} samples a shard; give 1 or more.")
    there = sorted(glob.glob(f"{glob.escape(prefix)}-*.tar"))
    if there:
        raise ConversionError(f"{there[0]} is there already; name another prefix or remove it.")
    os.makedirs(os.path.dirname(prefix) or ".", exist_ok=True)
    mark = f".{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp"
    files: list[str] = []
    written, left_out = 0, [0]
    pictures = _wanted(_pictures(table), captions, left_out)
    try:
        while (first := next(pictures, None)) is not None:
            files.append(f"{prefix}-{len(files):06d}.tar")
            with tarfile.open(files[-1] + mark, "w") as shard:
                more = itertools.islice(pictures, samples - 1)
                for name, arrays in itertools.chain([first], more):
                    _add(shard, f"{name}.npz", _npz(arrays))
                    if captions is not None:
                        _add(shard, f"{name}.txt", _text(captions[name]))
                    written += 1
        if not written:
            why = "no picture has a caption" if left_out[0] else "it has no lines"
            raise ConversionError(f"{table}: nothing to write, {why}.")
        for file in files:
            os.replace(file + mark, file)
    except BaseException:
        for file in files:
            if os.path.exists(file + mark):
                os.unlink(file + mark)
        raise
    return Converted(tuple(files), written, left_out[0])


def read_captions(path: str) -> dict[str, str | list[str]]:
    """The captions in a JSON file, one object: {picture: text or list of texts}.

    Raises:
      ConversionError: it holds something else.
      OSError: it cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path} is not JSON: {error}") from None
    fits = isinstance(found, dict) and all(
        isinstance(x, str) or (isinstance(x, list) and all(isinstance(one, str) for one in x))
        for x in found.values()
    )
    if not fits:
        raise ConversionError(
            f'{path} is no object of captions; write it as {{"picture": "text" or ["text", ...]}}.'
        )
    return found


def _wanted(
    pictures: Iterator[tuple[str, dict[str, Any]]],
    captions: Mapping[str, str | list[str]] | None,
    left_out: list[int],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Pictures with a caption, where there are captions; counts the others."""
    for name, arrays in pictures:
        if captions is None or captions.get(name):
            yield name, arrays
        else:
            left_out[0] += 1


def _pictures(table: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, arrays) of each line."""
    seen: set[str] = set()
    with open(table, "rb") as file:
        for number, line in enumerate(_lines(file, table), start=1):
            try:
                name, arrays = _decoded(line)
                if name in seen:
                    raise ValueError(f"picture {name!r} was named before")
            except ValueError as error:
                raise ConversionError(
                    f"{table}, line {number}: {error}. Get the file again, or remove the line; "
                    "nothing was written."
                ) from None
            seen.add(name)
            yield name, arrays


def _lines(file: BinaryIO, table: str) -> Iterator[bytes]:
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE:
            raise ConversionError(f"{table}, line {number} is longer than {_LONGEST_LINE:,} bytes.")
        yield line.rstrip(b"\r\n")


def _decoded(line: bytes) -> tuple[str, dict[str, Any]]:
    """(name, arrays) of one line; a ValueError says what is wrong with it."""
    fields = line.split(b"\t")
    if len(fields) != len(COLUMNS):
        raise ValueError(f"{len(fields)} columns where there should be {len(COLUMNS)}")
    row = dict(zip(COLUMNS, fields))
    try:
        name = row["img_id"].decode()
    except UnicodeDecodeError:
        raise ValueError("img_id is not UTF-8") from None
    if not name or set(name) & set("./\\\0\"'") or name != name.strip():
        raise ValueError(f"img_id={name[:60]!r} is no name of a sample")
    boxes, width, height = (_number(row, key) for key in ("num_boxes", "img_w", "img_h"))
    if boxes > _MOST_BOXES:
        raise ValueError(f"num_boxes={boxes:,}")
    made: dict[str, Any] = {"width": np.int32(width), "height": np.int32(height)}
    for column, (array, kind, stored) in ARRAYS.items():
        try:
            data = base64.b64decode(row[column], validate=True)
        except binascii.Error as error:
            raise ValueError(f"{column} is not base64 ({error})") from None
        columns = 4 if column == "boxes" else 1
        size = boxes * columns * np.dtype(kind).itemsize
        ragged = column == "features" and data and len(data) % size == 0
        if len(data) != size and not ragged:
            raise ValueError(f"{column} has {len(data):,} bytes for {boxes} boxes")
        numbers = np.frombuffer(data, kind)
        if not np.isfinite(numbers).all():
            raise ValueError(f"{column} holds numbers that are not finite")
        if columns > 1 or column == "features":
            numbers = numbers.reshape(boxes, -1)
        elif numbers.max() >= 1 << 31 or numbers.min() < -(1 << 31):
            raise ValueError(f"{column} holds no class numbers")
        made[array] = numbers.astype(stored)
    return name, made


def _number(row: Mapping[str, bytes], column: str) -> int:
    text = row[column]
    if not text.isdigit() or len(text) > 9 or not int(text):
        raise ValueError(f"{column}={text[:40].decode('utf-8', 'replace')!r} is no number above 0")
    return int(text)


def _npz(arrays: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _text(captions: str | list[str]) -> bytes:
    """A caption a line."""
    texts = [captions] if isinstance(captions, str) else captions
    return "\n".join(" ".join(text.split()) for text in texts).encode("utf-8", "replace")


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    shard.addfile(entry, io.BytesIO(data))
