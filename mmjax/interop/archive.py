"""One .npz file of plain arrays, read array by array; no objects, nothing that unfolds to more.

Over damaged files zipfile and numpy raise errors of a dozen types, that of tokenize among them, so
all are caught here.
"""

import io
import math
import os
import pathlib
import zipfile
from typing import Any

import numpy as np
from jax import dtypes
from numpy.lib import format as npy

from mmjax.interop.errors import WeightsError, line
from mmjax.parallel.cpu import aligned

__all__ = ["Archive"]

ENDING = ".npy"
# Weights that were trained are hardly compressible; a file that unfolds to far more is a bomb.
MOST_UNFOLDED, ALWAYS = 100, 1 << 26  # times the file's size; bytes that are no matter
READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
MOST_AXES = 32


class Archive:
    """A .npz file.

    Args:
      file: the file.

    Raises:
      WeightsError: it is none, or its members tell of themselves what is not so.
    """

    def __init__(self, file: pathlib.Path):
        self.name = str(file)
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._headers: dict[str, tuple[tuple[int, ...], bool, np.dtype]] = {}
        try:
            size = os.stat(file).st_size
            self._zip = zipfile.ZipFile(file)
        except Exception as error:
            raise self._wrong(line(error)) from None
        members = self._zip.infolist()
        unfolded = sum(member.file_size for member in members)
        if unfolded > max(MOST_UNFOLDED * size, ALWAYS):
            raise self._wrong(f"{size} bytes would unfold to {unfolded}")
        for member in members:
            name = member.filename.removesuffix(ENDING)
            if name == member.filename:
                raise self._wrong(f"{name!r} is no array")
            if name in self._members:
                raise self._wrong(f"{name!r} stands there twice")
            self._members[name] = member

    def names(self) -> list[str]:
        """The names of all arrays."""
        return list(self._members)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one array, by what stands before its numbers.

        Raises:
          WeightsError: it is damaged, holds objects, or is not as long as it says.
        """
        return self._header(name)[0]

    def get(self, name: str) -> np.ndarray:
        """One array.

        Raises:
          WeightsError: as of `shape`.
        """
        shape, by_columns, dtype = self._header(name)
        try:
            with self._zip.open(self._members[name]) as stream:
                self._told(stream)
                made = aligned(shape[::-1] if by_columns else shape, dtype)
                memory = memoryview(made.reshape(-1).view(np.uint8))
                while memory:
                    read = stream.readinto(memory[: 1 << 22])
                    if not read:
                        raise ValueError(f"it ends {len(memory)} bytes too early")
                    memory = memory[read:]
                stream.read(1)  # the end, where the checksum is compared
        except Exception as error:
            raise WeightsError(f"{self.name}: {name}: {line(error)}.") from None
        made = made.T if by_columns else made
        # The format does not know bfloat16 and keeps its two bytes without a name.
        return made.view(dtypes.bfloat16) if dtype == "V2" else made

    def _header(self, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
        if name not in self._headers:
            member = self._members[name]
            try:
                with self._zip.open(member) as stream:
                    shape, by_columns, dtype, begin = self._told(stream)
                size = begin + math.prod(shape) * dtype.itemsize
                if size != member.file_size or len(shape) > MOST_AXES:
                    raise ValueError(
                        f"{dtype} of shape {shape} takes {size} bytes, not {member.file_size}"
                    )
            except Exception as error:
                raise WeightsError(f"{self.name}: {name}: {line(error)}.") from None
            self._headers[name] = (shape, by_columns, dtype)
        return self._headers[name]

    def _told(self, stream: Any) -> tuple[tuple[int, ...], bool, np.dtype, int]:
        """(shape, whether it lies by columns, element type, bytes before the numbers)."""
        counted = _Counted(stream)
        version = npy.read_magic(counted)
        if version not in READERS:
            raise ValueError(f"version {version} of the format is not read")
        shape, by_columns, dtype = READERS[version](counted)
        if dtype.hasobject:
            raise ValueError("it holds objects, which run whatever is in them; they are not read")
        if dtype.fields is not None or dtype.subdtype is not None or not dtype.itemsize:
            raise ValueError(f"elements of type {dtype} are not read")
        if any(side < 0 for side in shape):
            raise ValueError(f"the shape {shape}")
        return shape, by_columns, dtype, counted.position

    def _wrong(self, why: str) -> WeightsError:
        return WeightsError(f"{self.name}: no .npz file: {why[:300]}.")


class _Counted(io.RawIOBase):
    """A stream that counts what was read of it."""

    def __init__(self, stream: Any):
        super().__init__()
        self._stream, self.position = stream, 0

    def read(self, size: int = -1) -> bytes:
        """As of any stream."""
        found = self._stream.read(size)
        self.position += len(found)
        return found
