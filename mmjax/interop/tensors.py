"""Named arrays in files: safetensors (sharded too) and npz, read one by one, pickles refused."""

import abc
import json
import math
import pathlib
import re
from collections.abc import Iterator, Mapping

import numpy as np

from mmjax.interop.archive import Archive
from mmjax.interop.errors import WeightsError, line
from mmjax.interop.pickles import PICKLES, refuse_pickles
from mmjax.interop.shard import Shard

__all__ = [
    "PICKLES",
    "Arrays",
    "Npz",
    "Safetensors",
    "Tensors",
    "WeightsError",
    "open_safetensors",
    "refuse_pickles",
    "save_safetensors",
]

PIECE = 1 << 18  # numbers
INDEX = "model.safetensors.index.json"


class Tensors(abc.ABC):
    """Named arrays, each read when it is asked for.

    Attributes:
      name: what to call the file in errors.
    """

    name: str

    @abc.abstractmethod
    def names(self) -> list[str]:
        """The names of all arrays."""

    @abc.abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one array; its numbers are not read."""

    @abc.abstractmethod
    def get(self, name: str) -> np.ndarray:
        """One array."""

    def part(self, name: str, number: int, parts: int) -> np.ndarray:
        """The `number`th of so many equal parts of an array along its first axis.

        Raises:
          WeightsError: the axis has no such parts.
        """
        length = self.shape(name)[0] if self.shape(name) else 0
        if not length or length % parts:
            raise WeightsError(
                f"{self.name}: {name} has the shape {self.shape(name)}, not {parts} equal parts."
            )
        size = length // parts
        return self._rows(name, number * size, (number + 1) * size)

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """An array in pieces along its first axis, of a size that is no matter."""
        yield self.get(name)

    def _rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return self.get(name)[start:stop]


class Arrays(Tensors):
    """Arrays that are in memory already.

    Args:
      arrays: {name: array}.
      name: what to call them in errors.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], name: str = "arrays"):
        self._arrays, self.name = dict(arrays), name

    def names(self) -> list[str]:
        """See `Tensors.names`."""
        return list(self._arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Tensors.shape`."""
        return tuple(self._arrays[name].shape)

    def get(self, name: str) -> np.ndarray:
        """See `Tensors.get`."""
        return self._arrays[name]


class Safetensors(Tensors):
    """One or several .safetensors files.

    Args:
      files: the files; together they hold each name once.
      expected: {name: file name} of an index; () where there is none.

    Raises:
      WeightsError: a file is missing or damaged, or the index tells otherwise.
    """

    def __init__(self, files: list[pathlib.Path], expected: Mapping[str, str] | None = None):
        self.name = str(files[0] if len(files) == 1 else files[0].parent)
        self._shards: dict[str, Shard] = {}
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise WeightsError(f"{missing[0]}: this shard of the weights is missing.")
        for file in files:
            shard = Shard(file)
            for name in shard.names():
                if name in self._shards:
                    raise WeightsError(f"{file}: {name} stands in another shard too.")
                if expected is not None and expected.get(name) != file.name:
                    raise WeightsError(f"{file}: {name} is not where {INDEX} says.")
                self._shards[name] = shard
        lost = [name for name in expected or () if name not in self._shards]
        if lost:
            raise WeightsError(f"{self.name}: {lost[0]} is in {INDEX} and in no shard.")

    def names(self) -> list[str]:
        """See `Tensors.names`."""
        return list(self._shards)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Tensors.shape`."""
        return self._shards[name].shape(name)

    def get(self, name: str) -> np.ndarray:
        """See `Tensors.get`."""
        return self._shards[name].get(name)

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """See `Tensors.pieces`."""
        shape = self.shape(name)
        if not math.prod(shape):
            yield self.get(name)
            return
        rows = max(1, PIECE // math.prod(shape[1:])) if shape else 1
        for start in range(0, shape[0] if shape else 1, rows):
            stop = min(start + rows, shape[0]) if shape else None
            yield self._shards[name].get(name, start, stop)

    def _rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._shards[name].get(name, start, stop)


class Npz(Tensors):
    """A .npz file, of arrays without objects.

    Args:
      file: the file.

    Raises:
      WeightsError: it is none.
    """

    def __init__(self, file: pathlib.Path):
        self.name = str(file)
        self._archive = Archive(file)

    def names(self) -> list[str]:
        """See `Tensors.names`."""
        return self._archive.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Tensors.shape`."""
        return self._archive.shape(name)

    def get(self, name: str) -> np.ndarray:
        """See `Tensors.get`."""
        return self._archive.get(name)


def open_safetensors(folder: pathlib.Path, single: tuple[str, ...]) -> Safetensors:
    """The safetensors of a folder: one file, or shards by their index.

    Args:
      folder: where they lie.
      single: names that one file may have, in this order.

    Raises:
      WeightsError: there are none (where pickles lie instead, the message says what makes
        safetensors of them), or they are damaged.
    """
    for name in single:
        if (folder / name).is_file():
            return Safetensors([folder / name])
    if not (folder / INDEX).is_file():
        refuse_pickles(folder)
        raise WeightsError(f"{folder}: no weights; it needs {single[0]} or {INDEX}.")
    try:
        places = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        files = sorted({str(file) for file in places.values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise WeightsError(f"{folder / INDEX}: no index of shards: {line(error)}.") from None
    if not files:
        raise WeightsError(f"{folder / INDEX}: its weight_map names no shard.")
    for file in files:
        if not re.fullmatch(r"[\w.-]+\.safetensors", file):
            raise WeightsError(f"{folder / INDEX}: {file!r} is no name of a shard.")
    return Safetensors([folder / file for file in files], places)


def save_safetensors(file: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes {name: array} as torch's loaders expect it.

    Args:
      file: the file; its folder is there.
      arrays: the arrays, of any type that safetensors knows.
    """
    from safetensors.numpy import save_file

    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    save_file(whole, str(file), metadata={"format": "pt"})
