"""Named arrays in files: safetensors (sharded too) and npz, read one by one, pickles refused."""

import abc
import json
import pathlib
import re
import shlex
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import dtypes
from numpy.lib import format as npy

__all__ = [
    "Arrays",
    "Npz",
    "Safetensors",
    "Tensors",
    "WeightsError",
    "open_safetensors",
    "refuse_pickles",
    "save_safetensors",
]

INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class WeightsError(ValueError):
    """Weights that cannot be read or written; what is wrong, in one line."""


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
        from safetensors import SafetensorError, safe_open

        self.name = str(files[0] if len(files) == 1 else files[0].parent)
        self._open: dict[str, Any] = {}
        for file in files:
            if not file.is_file():
                raise WeightsError(f"{file}: this shard of the weights is missing.")
            try:
                handle = safe_open(str(file), framework="numpy")
            except (SafetensorError, OSError, ValueError) as error:
                raise WeightsError(f"{file}: no safetensors file: {_line(error)}.") from None
            for name in list(handle.keys()):
                if name in self._open:
                    raise WeightsError(f"{file}: {name} stands in another shard too.")
                if expected is not None and expected.get(name) != file.name:
                    raise WeightsError(f"{file}: {name} is not where {INDEX} says.")
                self._open[name] = handle
        lost = [name for name in expected or () if name not in self._open]
        if lost:
            raise WeightsError(f"{self.name}: {lost[0]} is in {INDEX} and in no shard.")

    def names(self) -> list[str]:
        """See `Tensors.names`."""
        return list(self._open)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Tensors.shape`."""
        return tuple(self._open[name].get_slice(name).get_shape())

    def get(self, name: str) -> np.ndarray:
        """See `Tensors.get`."""
        return self._open[name].get_tensor(name)

    def _rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._open[name].get_slice(name)[start:stop]


class Npz(Tensors):
    """A .npz file, of arrays without objects.

    Args:
      file: the file.

    Raises:
      WeightsError: it is none.
    """

    def __init__(self, file: pathlib.Path):
        self.name = str(file)
        try:
            self._file = np.load(file, allow_pickle=False)
            if not isinstance(self._file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array, not several by name")
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise WeightsError(f"{file}: no .npz file: {_line(error)}.") from None
        self._shapes: dict[str, tuple[int, ...]] = {}

    def names(self) -> list[str]:
        """See `Tensors.names`."""
        return list(self._file.files)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Tensors.shape`."""
        if name not in self._shapes:
            self._shapes[name] = self._header(name)
        return self._shapes[name]

    def _header(self, name: str) -> tuple[int, ...]:
        """An array's shape by what stands before its numbers."""
        headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        try:
            with self._file.zip.open(f"{name}.npy") as stream:
                version = npy.read_magic(stream)
                if version in headers:
                    return headers[version](stream)[0]
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise WeightsError(f"{self.name}: {name}: {_line(error)}.") from None
        return self.get(name).shape

    def get(self, name: str) -> np.ndarray:
        """See `Tensors.get`."""
        try:
            array = self._file[name]
            # The format does not know bfloat16 and keeps its two bytes without a name.
            return array.view(dtypes.bfloat16) if array.dtype == "V2" else array
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise WeightsError(f"{self.name}: {name}: {_line(error)}.") from None


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
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"{folder / INDEX}: no index of shards: {_line(error)}.") from None
    for file in files:
        if not re.fullmatch(r"[\w.-]+\.safetensors", file):
            raise WeightsError(f"{folder / INDEX}: {file!r} is no name of a shard.")
    return Safetensors([folder / file for file in files], places)


def refuse_pickles(path: pathlib.Path) -> None:
    """Raises WeightsError where the weights are a pickle, with the command that converts them."""
    if path.is_dir():
        pickles = sorted(file for file in path.iterdir() if file.suffix in PICKLES)
    else:
        pickles = [path] if path.suffix in PICKLES else []
    if not pickles:
        return
    target = pickles[0].with_name("model.safetensors")
    program = (
        "import torch, safetensors.torch as s; d = {}; "
        f"[d.update(torch.load(f, map_location='cpu', weights_only=True)) for f in "
        f"{[str(file) for file in pickles]}]; d = d.get('state_dict', d); "
        "s.save_file({k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, "
        f"{str(target)!r}, {{'format': 'pt'}})"
    )
    raise WeightsError(
        f"{pickles[0]}: a pickle, which runs whatever is in it when it is opened; it is not read. "
        f"Where torch is installed, this makes safetensors of it: python -c {shlex.quote(program)} "
        "For hf:// many repositories hold a converted copy in a branch: add @refs/pr/N."
    )


def save_safetensors(file: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes {name: array} as torch's loaders expect it.

    Args:
      file: the file; its folder is there.
      arrays: the arrays, of any type that safetensors knows.
    """
    from safetensors.numpy import save_file

    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    save_file(whole, str(file), metadata={"format": "pt"})


def _line(error: Exception) -> str:
    return str(error).split("\n")[0].rstrip(".")[:200]
