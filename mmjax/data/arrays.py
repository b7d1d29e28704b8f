"""Arrays in the bytes of `.npy` and `.npz` files, which somebody else wrote.

numpy's own reader makes room for as many numbers as a header claims before it looks at how many
there are. Here header and length are compared first, nothing is unpickled, and whatever is damaged
is a bad sample.

Source: numpy, "NumPy enhancement proposal 1: a simple file format for NumPy arrays"; PKWARE
APPNOTE.TXT, for the container.
"""

import io
import math
import zipfile
from typing import Any

import numpy as np

from mmjax.data.sources.base import BadSample

__all__ = ["NPZ", "Npz", "numbers", "read_npy"]

NPZ = (b"PK\x03\x04", b"PK\x05\x06")  # how such files begin, the second where they are empty
_LARGEST = 1 << 28  # bytes of an array, unpacked
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Npz:
    """The arrays of a `.npz` file, each read when it is asked for.

    Args:
      data: the file's bytes.
      where: what errors call it.

    Raises:
      BadSample: 'format', the container is damaged.
    """

    def __init__(self, data: bytes, where: str):
        self._where = where
        try:
            self._file = zipfile.ZipFile(io.BytesIO(data))
        except Exception as error:  # a damaged directory ends in errors of many kinds
            raise BadSample("format", f"{where} is no sound .npz: {error}") from None
        found = (info.filename for info in self._file.infolist())
        self.names = tuple(name.removesuffix(".npy") for name in found if name.endswith(".npy"))

    def get(self, name: str) -> Any:
        """The array of a name, or None where there is none.

        Raises:
          BadSample: 'too_large', 'format', or 'checksum' where its CRC does not fit.
        """
        if name not in self.names:
            return None
        where = f"{self._where}:{name}"
        info = self._file.getinfo(f"{name}.npy")
        if info.file_size > _LARGEST:
            raise BadSample("too_large", f"{where} has {info.file_size:,} bytes.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadSample("format", f"{where} is packed in a way that numpy does not write.")
        try:
            with self._file.open(info) as member:  # no more is unpacked than it claims to hold
                data = member.read(info.file_size + 1)
        except Exception as error:  # zipfile and four decompressors each have errors of their own
            cause = "checksum" if "CRC" in str(error) else "format"
            raise BadSample(cause, f"{where} cannot be unpacked: {error}") from None
        return read_npy(data, where)


def read_npy(data: bytes, where: str) -> np.ndarray:
    """The array in the bytes of a `.npy` file.

    Args:
      data: the file's bytes.
      where: what errors call it.

    Raises:
      BadSample: 'format', it is no `.npy` file, holds anything but numbers, or is not as long as
        its header says.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        shape, fortran, kind = _HEADERS[version](file)
    except Exception as error:  # the header is evaluated as Python's literals
        raise BadSample("format", f"{where} is no sound .npy: {str(error)[:200]}") from None
    if kind.kind not in "biuf":
        raise BadSample("format", f"{where} holds {str(kind)[:50]}, not numbers.")
    begin, size = file.tell(), math.prod(shape) * kind.itemsize
    if any(side < 0 for side in shape) or len(data) - begin != size:
        raise BadSample(
            "format", f"{where} is {shape} by its header and has {len(data) - begin:,} bytes."
        )
    try:
        flat = np.frombuffer(data, kind, offset=begin)
        return flat.reshape(shape, order="F" if fortran else "C")
    except ValueError as error:  # more axes, or a longer one, than an array can have
        raise BadSample("format", f"{where} is {str(shape)[:80]}: {error}") from None


def numbers(value: Any, where: str) -> np.ndarray:
    """A member's value as an array of numbers: an array, lists, or the bytes of a `.npy` file.

    Args:
      value: what a record holds.
      where: what errors call it.

    Raises:
      BadSample: 'format', it holds something else.
    """
    if isinstance(value, bytes):
        value = read_npy(value, where)
    try:
        made = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadSample("format", f"{where} is no array: {str(error)[:200]}") from None
    if made.dtype.kind not in "biuf":
        raise BadSample("format", f"{where} holds no numbers but {type(value).__name__}.")
    return made
