"""How one published array becomes one of ours and back: the same numbers, laid out otherwise.

Both ways are exact, and both are rearrangements of the same numbers, so a gradient goes back
through the same form and keeps its norm.
"""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

__all__ = ["CONVOLUTION", "POINTWISE", "SAME", "TRANSPOSED", "Form", "patches", "reshaped"]


@dataclasses.dataclass(frozen=True)
class Form:
    """Two ways between an array of theirs and one of ours.

    Attributes:
      name: for errors.
      to_ours: their array in our form.
      to_theirs: our array in their form.
      put: as `to_ours`, into memory that is there already; None where there is no such way.
    """

    name: str
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]
    put: Callable[[np.ndarray, np.ndarray], None] | None = None

    def into(self, array: np.ndarray, ours: np.ndarray) -> None:
        """Their array in our form, into memory of ours.

        Args:
          array: theirs.
          ours: of any element type.

        Raises:
          ValueError: it has another shape.
        """
        if self.put is not None:
            self.put(array, ours)
            return
        made = self.to_ours(array)
        if made.shape != ours.shape:
            raise ValueError(f"{made.shape} is not {ours.shape}")
        ours[...] = made


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _transposed(array: np.ndarray) -> np.ndarray:
    """[out, in] of a dense layer in torch as [in, out]."""
    if array.dtype == np.float32 and array.ndim == 2 and array.flags.c_contiguous:
        return cv2.transpose(array)  # in blocks; numpy's walks one side against the cache
    return np.ascontiguousarray(array.T)


def _put_transposed(array: np.ndarray, ours: np.ndarray) -> None:
    if array.T.shape != ours.shape:
        raise ValueError(f"{array.T.shape} is not {ours.shape}")
    if array.dtype == ours.dtype == np.float32 and array.ndim == 2 and array.flags.c_contiguous:
        cv2.transpose(array, dst=ours)  # no copy between
    else:
        ours[...] = _transposed(array)


SAME = Form("as it is", _same, _same)
TRANSPOSED = Form("transposed", _transposed, _transposed, _put_transposed)
# [out, in, height, width] of torch, [height, width, in, out] of ours.
CONVOLUTION = Form(
    "of a convolution",
    lambda array: np.ascontiguousarray(array.transpose(2, 3, 1, 0)),
    lambda array: np.ascontiguousarray(array.transpose(3, 2, 0, 1)),
)
# [out, in, 1, 1] of torch, our dense layer's [in, out].
POINTWISE = Form(
    "of a convolution over single places",
    lambda array: _transposed(array.reshape(array.shape[:2])),
    lambda array: _transposed(array)[:, :, None, None],
)


def patches(patch_size: int, channels: int = 3) -> Form:
    """A convolution over patches, [dim, channels, side, side], as our dense layer over pixels.

    Args:
      patch_size: side of a patch, in pixels.
      channels: of a picture.
    """
    side = patch_size

    def to_ours(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0)).reshape(-1, array.shape[0])

    def to_theirs(array: np.ndarray) -> np.ndarray:
        unfolded = array.reshape(side, side, channels, -1)  # [side * side * c, dim] -> 4 axes
        return np.ascontiguousarray(unfolded.transpose(3, 2, 0, 1))

    return Form("of a convolution over patches", to_ours, to_theirs)


def reshaped(ours: tuple[int, ...], theirs: tuple[int, ...]) -> Form:
    """The same numbers in the same order in another shape; -1 stands for what is left.

    Args:
      ours: our shape.
      theirs: their shape.
    """
    return Form("reshaped", lambda array: array.reshape(ours), lambda array: array.reshape(theirs))
