"""Pictures in their own shape, cut into patches: as many as fit, and padding (NaFlex)."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, UInt8
from PIL import Image

from mmjax.data.transforms.decode import pixels
from mmjax.data.transforms.resize import INTERPOLATIONS

__all__ = ["PATCHES", "NaFlex", "grid_of", "picture_of"]

PATCHES = ("patches", "patch_mask", "patch_grid")  # words of a picture that is cut
LEAST, MOST, EXACT = 1e-6, 100.0, 1e-5  # scales that are tried, and how exactly one is found


def grid_of(height: int, width: int, patch_size: int, max_patches: int) -> tuple[int, int]:
    """Rows and columns of patches of a picture that is scaled until they are no more than fit.

    Both sides are scaled alike and then rounded up to whole patches, at least one.

    Args:
      height: of the picture, in pixels.
      width: the same.
      patch_size: side of a patch, in pixels.
      max_patches: most patches.

    Source: transformers, models/siglip2/image_processing_siglip2.py
    `get_image_size_for_max_num_patches`: the scale is found by halving, which its bounds decide.
    """

    def at(scale: float) -> tuple[int, int]:
        rows, columns = (math.ceil(side * scale / patch_size) for side in (height, width))
        return max(1, rows), max(1, columns)

    low, high = LEAST, MOST
    while high - low >= EXACT:
        middle = (low + high) / 2
        if math.prod(at(middle)) <= max_patches:
            low = middle
        else:
            high = middle
    return at(low)


def picture_of(
    patches: UInt8[np.ndarray, "patches values"], grid: Int32[np.ndarray, " 2"]
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture that was cut, for people to look at.

    Args:
      patches: with padding at the end, as `NaFlex` makes them.
      grid: rows and columns of patches.
    """
    rows, columns = grid.tolist()
    side = math.isqrt(patches.shape[1] // 3)
    cut = patches[: rows * columns].reshape(rows, columns, side, side, 3)
    return cut.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3)


@dataclasses.dataclass(frozen=True)
class NaFlex:
    """A picture to patches, its shape kept as far as whole patches allow.

    Makes 'patches' [max_patches, patch_size² · 3], 'patch_mask' [max_patches] and 'patch_grid' [2]
    of 'image', which is taken out. Decoded whole and resized by Pillow, so that the pixels equal
    those of the published code.

    Args:
      patch_size: side of a patch, in pixels.
      max_patches: patches of each picture, with padding.
      interpolation: 'bilinear' (SigLIP 2), 'bicubic', 'lanczos' or 'nearest'.

    Raises:
      ValueError: an argument out of range.

    Source: Tschannen et al. 2025 (SigLIP 2), section 2.4; transformers,
    models/siglip2/image_processing_pil_siglip2.py.
    """

    patch_size: int = 16
    max_patches: int = 256
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.patch_size < 1 or self.max_patches < 1:
            raise ValueError(
                f"NaFlex(patch_size={self.patch_size}, max_patches={self.max_patches}): give at "
                "least one of each."
            )
        if self.interpolation not in INTERPOLATIONS:
            allowed = ", ".join(INTERPOLATIONS)
            raise ValueError(f"NaFlex(interpolation={self.interpolation!r}): use one of {allowed}.")

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """`sample` with patches in the place of its 'image'; nothing is drawn from `rng`.

        Raises:
          BadSample: the picture cannot be decoded.
        """
        made = self.apply(pixels(sample.pop("image")))
        return {**sample, **dict(zip(PATCHES, made, strict=True))}

    def apply(
        self, image: UInt8[np.ndarray, "height width 3"]
    ) -> tuple[
        UInt8[np.ndarray, "patches values"], Bool[np.ndarray, " patches"], Int32[np.ndarray, " 2"]
    ]:
        """(patches, mask, rows and columns) of one picture."""
        side = self.patch_size
        rows, columns = grid_of(*image.shape[:2], side, self.max_patches)
        picture = Image.fromarray(np.ascontiguousarray(image))
        method = INTERPOLATIONS[self.interpolation]
        resized = np.asarray(picture.resize((columns * side, rows * side), method))
        cut = resized.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4)
        patches = np.zeros((self.max_patches, side * side * 3), np.uint8)
        patches[: rows * columns] = cut.reshape(rows * columns, -1)
        mask = np.arange(self.max_patches) < rows * columns
        return patches, mask, np.array([rows, columns], np.int32)
