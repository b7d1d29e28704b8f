"""Pictures in their own shape on a canvas of one size, with the mask of what is picture (ViLT)."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from mmjax.data.transforms.decode import pixels
from mmjax.data.transforms.resize import INTERPOLATIONS

__all__ = ["Padded", "size_of"]

LONGEST = 1333 / 800  # of the longer side to the shorter, before patches are made whole


def size_of(height: int, width: int, shortest: int, patch_size: int) -> tuple[int, int]:
    """(height, width) that a picture is resized to.

    The shorter side becomes `shortest`, or less where the longer one would be above 1333/800 of
    that; both are then cut down to whole patches, at least one.

    Args:
      height: of the picture, in pixels.
      width: the same.
      shortest: what the shorter side becomes, in pixels.
      patch_size: side of a patch, in pixels.

    Source: Kim et al. 2021 (ViLT), section 4.1; transformers,
    models/vilt/image_processing_pil_vilt.py `get_resize_output_image_size`.
    """
    scale = shortest / min(height, width)
    sides = [shortest if side == min(height, width) else scale * side for side in (height, width)]
    most = int(LONGEST * shortest)
    if max(sides) > most:
        scale = most / max(sides)
        sides = [scale * side for side in sides]
    tall, wide = (max(1, int(side + 0.5) // patch_size) * patch_size for side in sides)
    return tall, wide


@dataclasses.dataclass(frozen=True)
class Padded:
    """A picture at the upper left of a square canvas, its shape kept up to whole patches.

    Makes 'image' [side, side, 3] and 'image_mask' [side, side], where `side` is the longest that a
    picture can become: 608 for the published size, of which a picture fills at most 228 patches.
    The model's `max_patches` may be that number; the run's `preprocess.image_size` is `side`.
    Decoded whole and resized by Pillow, so that the pixels equal those of the published code.

    Args:
      shortest: what the shorter side of a picture becomes, in pixels; see `size_of`.
      patch_size: side of a patch, in pixels.
      interpolation: 'bicubic' (ViLT), 'bilinear', 'lanczos' or 'nearest'.

    Raises:
      ValueError: an argument out of range.

    Source: Kim et al. 2021 (ViLT), section 4.1; transformers,
    models/vilt/image_processing_pil_vilt.py, which pads to the largest picture of a batch.
    """

    shortest: int = 384
    patch_size: int = 32
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if not 1 <= self.patch_size <= self.shortest:
            raise ValueError(
                f"Padded(shortest={self.shortest}, patch_size={self.patch_size}): give a patch of "
                "at least one pixel that fits the shorter side."
            )
        if self.interpolation not in INTERPOLATIONS:
            allowed = ", ".join(INTERPOLATIONS)
            raise ValueError(f"Padded(interpolation={self.interpolation!r}): use one of {allowed}.")

    @property
    def side(self) -> int:
        """Of the canvas, in pixels."""
        return int(LONGEST * self.shortest) // self.patch_size * self.patch_size

    @property
    def most_patches(self) -> int:
        """Most patches that a picture fills."""
        return self.shortest // self.patch_size * (self.side // self.patch_size)

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """`sample` with 'image' on the canvas and 'image_mask'; nothing is drawn from `rng`.

        Raises:
          BadSample: the picture cannot be decoded.
        """
        sample["image"], sample["image_mask"] = self.apply(pixels(sample["image"]))
        return sample

    def apply(
        self, image: UInt8[np.ndarray, "height width 3"]
    ) -> tuple[UInt8[np.ndarray, "side side 3"], Bool[np.ndarray, "side side"]]:
        """(canvas, mask) of one picture, black where it is padded."""
        height, width = size_of(*image.shape[:2], self.shortest, self.patch_size)
        picture = Image.fromarray(np.ascontiguousarray(image))
        canvas = np.zeros((self.side, self.side, 3), np.uint8)
        mask = np.zeros((self.side, self.side), bool)
        canvas[:height, :width] = picture.resize(
            (width, height), INTERPOLATIONS[self.interpolation]
        )
        mask[:height, :width] = True
        return canvas, mask
