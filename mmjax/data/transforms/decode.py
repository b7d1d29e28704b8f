"""Encoded pictures: what their header says, and their pixels."""

import dataclasses
import functools

import numpy as np
from jaxtyping import UInt8

MAX_PIXELS = 64_000_000
MAX_SIDE = 16_384


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """The bytes of a picture file, decoded only when asked.

    Args:
      data: the file's bytes.
      name: what to call the picture in errors, e.g. 'shard-000.tar/000123.jpg'.
      background: the colour that transparent pixels are laid on, 0 to 255 each.
      max_pixels: larger pictures are refused from their header.
      max_side: the same for one side, in pixels.
    """

    data: bytes
    name: str
    background: tuple[int, int, int] = (255, 255, 255)
    max_pixels: int = MAX_PIXELS
    max_side: int = MAX_SIDE

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels after EXIF rotation, read from the header alone."""
        raise NotImplementedError

    def decode(self, denominator: int = 1) -> UInt8[np.ndarray, "height width 3"]:
        """RGB pixels, upright, at 1/denominator of the size."""
        raise NotImplementedError
