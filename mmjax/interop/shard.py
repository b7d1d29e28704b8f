"""One .safetensors file, read array by array, and believed in nothing that was not checked.

The format is eight bytes with the length of a header, the header (JSON), and the arrays' bytes one
behind the other. Arrays are read from the file into memory of ours, not mapped: what is resident
is what was asked for, and a file that is cut while it is read gives an error, not a signal.

Source: safetensors, README.md (Format) and safetensors/src/tensor.rs (validate).
"""

import dataclasses
import json
import math
import os
import pathlib
import weakref
from typing import Any

import numpy as np
from jax import dtypes

from mmjax.interop.errors import WeightsError, line
from mmjax.parallel.cpu import aligned

__all__ = ["Shard"]

LARGEST_HEADER = 100_000_000  # bytes, as in the original
MOST_AXES = 16
TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where an array lies in the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int


class Shard:
    """A .safetensors file.

    Args:
      file: the file.

    Raises:
      WeightsError: it is none, or tells of itself what is not so.
    """

    def __init__(self, file: pathlib.Path):
        self.name = str(file)
        try:
            self._number = os.open(file, os.O_RDONLY)
        except OSError as error:
            raise WeightsError(f"{file} cannot be opened: {line(error)}.") from None
        weakref.finalize(self, os.close, self._number)
        try:
            self._places = self._header()
        except OSError as error:
            raise WeightsError(f"{file} cannot be read: {line(error)}.") from None

    def names(self) -> list[str]:
        """The names of all arrays."""
        return list(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one array."""
        return self._places[name].shape

    def get(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """One array, or some of its rows.

        Args:
          name: of the array.
          start: its first row that is read; of an array with axes.
          stop: the row before which to stop; None reads all.

        Raises:
          WeightsError: the file ends before, or cannot be read.
        """
        place = self._places[name]
        shape, offset = place.shape, place.start
        if stop is not None:
            shape = (stop - start, *shape[1:])
            offset += start * math.prod(shape[1:]) * place.dtype.itemsize
        made = aligned(shape, place.dtype)
        try:
            self._into(memoryview(made.reshape(-1).view(np.uint8)), offset)
        except OSError as error:
            raise WeightsError(f"{self.name}: {name} cannot be read: {line(error)}.") from None
        return made

    def _into(self, memory: memoryview, offset: int) -> None:
        """Fills memory with the file's bytes from an offset on."""
        done = 0
        while done < len(memory):
            read = os.preadv(self._number, [memory[done : done + (1 << 30)]], offset + done)
            if not read:
                raise OSError(f"the file ends {len(memory) - done} bytes too early")
            done += read

    def _header(self) -> dict[str, _Place]:
        size = os.fstat(self._number).st_size
        if size < 8:
            raise self._wrong(f"{size} bytes are none")
        length = int.from_bytes(os.pread(self._number, 8, 0), "little")
        if length > min(size - 8, LARGEST_HEADER):
            raise self._wrong(f"a header of {length} bytes in a file of {size}")
        text = bytearray(length)
        self._into(memoryview(text), 8)
        try:
            told = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise self._wrong(f"its header is no JSON ({line(error)})") from None
        if not isinstance(told, dict):
            raise self._wrong("its header is no object")
        told.pop("__metadata__", None)
        places = {name: self._place(name, entry, 8 + length) for name, entry in told.items()}
        end = 8 + length
        for name, place in sorted(places.items(), key=lambda item: item[1].start):
            if place.start != end and math.prod(place.shape):
                raise self._wrong(f"{name} does not begin where the array before it ends")
            end = max(end, place.start + math.prod(place.shape) * place.dtype.itemsize)
        if end != size:
            raise self._wrong(f"its arrays end at byte {end} and the file at {size}")
        return places

    def _place(self, name: str, entry: Any, begin: int) -> _Place:
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise self._wrong(f"{name} needs dtype, shape and data_offsets alone")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or kind not in TYPES:
            raise self._wrong(f"{name} is of dtype {kind!r}; {', '.join(TYPES)} are read")
        if not (_whole(shape) and _whole(offsets)) or len(offsets) != 2 or len(shape) > MOST_AXES:
            raise self._wrong(f"{name} has the shape {shape!r} at {offsets!r}")
        dtype, (start, stop) = np.dtype(TYPES[kind]), offsets
        if math.prod(shape) * dtype.itemsize != stop - start:
            raise self._wrong(
                f"{name} of shape {shape} and dtype {kind} does not take {stop - start} bytes"
            )
        return _Place(dtype, tuple(shape), begin + start)

    def _wrong(self, why: str) -> WeightsError:
        return WeightsError(f"{self.name}: no safetensors file: {why[:300]}.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose names are told once."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands there twice")
    return made


def _whole(numbers: Any) -> bool:
    """Whether something is a list of whole numbers from 0 on."""
    return isinstance(numbers, list) and all(type(one) is int and one >= 0 for one in numbers)
