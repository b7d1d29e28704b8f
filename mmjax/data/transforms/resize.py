"""Pictures to a fixed size: the published models' exact forms, and a fast one for training."""

import dataclasses
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mmjax.data.sources.base import BadSample
from mmjax.data.transforms.decode import pixels
from mmjax.data.transforms.header import MAX_PIXELS

__all__ = ["FORMS", "INTERPOLATIONS", "Resize", "resize_fast"]

FORMS = ("squash", "shortest", "longest")
ROUNDINGS = {"even": round, "down": int}
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# Pictures are decoded side by side in threads or processes already, and OpenCV's own threads only
# get in their way.
cv2.setNumThreads(0)


def resize_fast(
    image: UInt8[np.ndarray, "height width 3"],
    size: int,
    out: UInt8[np.ndarray, "size size 3"] | None = None,
) -> UInt8[np.ndarray, "size size 3"]:
    """The picture squashed to size × size, for training.

    Drawn by bicubic interpolation at double the size, then averaged two by two: one or two grey
    levels from Pillow's bicubic in a fifth of its time. OpenCV's area interpolation is no nearer
    and two to four times slower, so it is left for pictures with a side of three times the size or
    more; OpenCV's other ways skip pixels when they shrink.

    Args:
      image: at least one pixel.
      size: side of the result, in pixels.
      out: where the result is written; a new array where it is None. No part of `image`.

    Returns:
      `out`, or the new array; `image` stays as it is.
    """
    out = np.empty((size, size, 3), np.uint8) if out is None else out
    height, width = image.shape[:2]
    if height == width == size:
        out[:] = image
        return out
    if max(height, width) >= 3 * size:
        height, width = min(height, size), min(width, size)
        if height == width == size:
            return cv2.resize(image, (size, size), out, interpolation=cv2.INTER_AREA)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    if height <= size and width <= size:
        return cv2.resize(image, (size, size), out, interpolation=cv2.INTER_CUBIC)
    double = cv2.resize(image, (2 * size, 2 * size), interpolation=cv2.INTER_CUBIC)
    return cv2.resize(double, (size, size), out, interpolation=cv2.INTER_AREA)


@dataclasses.dataclass(frozen=True)
class Resize:
    """A picture to size × size without chance, as the published models were evaluated.

    Decoded whole and resized by Pillow, so that the pixels equal those of the published code; the
    forms differ in what they do with a picture that is not square.

    Args:
      size: side of the result, in pixels.
      form: 'squash' (SigLIP: both sides to size, changing the shape), 'shortest' (CLIP: the
        shortest side to size, then the centre) or 'longest' (the longest side to size, then
        padding, the odd pixel below or to the right).
      interpolation: 'bicubic', 'bilinear', 'lanczos' or 'nearest'.
      pad_value: grey level of the padding of 'longest', 0 to 255.
      resize_size: for 'squash' and 'shortest', the size that comes first, of which the centre is
        then cut out at `size`; 0 is `size` itself.
      crop_rounding: where the centre begins when an odd number of pixels is left over: at the even
        one of the two that are nearest ('even': torchvision, and so open_clip and timm) or at the
        lower one ('down': transformers).

    Raises:
      ValueError: an argument out of range.

    Source: open_clip, src/open_clip/transform.py (image_transform, ResizeKeepRatio,
    CenterCropOrPad); torchvision, Resize and CenterCrop, for 'shortest'; transformers,
    image_transforms.py (center_crop), for 'down'.
    """

    size: int
    form: str = "squash"
    interpolation: str = "bicubic"
    pad_value: int = 0
    resize_size: int = 0
    crop_rounding: str = "even"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Resize(size={self.size}): give a side of at least one pixel.")
        if self.form not in FORMS:
            raise ValueError(f"Resize(form={self.form!r}): use one of {', '.join(FORMS)}.")
        if self.interpolation not in INTERPOLATIONS:
            allowed = ", ".join(INTERPOLATIONS)
            raise ValueError(f"Resize(interpolation={self.interpolation!r}): use one of {allowed}.")
        if self.crop_rounding not in ROUNDINGS:
            raise ValueError(
                f"Resize(crop_rounding={self.crop_rounding!r}): use one of {', '.join(ROUNDINGS)}."
            )
        if not 0 <= self.pad_value <= 255:
            raise ValueError(f"Resize(pad_value={self.pad_value}): give a grey level, 0 to 255.")
        if self.resize_size and (self.resize_size < self.size or self.form == "longest"):
            raise ValueError(
                f"Resize(resize_size={self.resize_size}): give at least size={self.size}, with "
                "form='squash' or 'shortest', or 0."
            )

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """`sample` with 'image' at the size; nothing is drawn from `rng`.

        Raises:
          BadSample: the picture cannot be decoded, or is so long and thin that its shortest side
            at `size` would make it larger than any picture may be.
        """
        sample["image"] = self.apply(pixels(sample["image"]))
        return sample

    def apply(self, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "size size 3"]:
        """The picture at the size; `image` stays as it is.

        Raises:
          BadSample: as `__call__`, for a long and thin picture.
        """
        height, width = self._inner_size(*image.shape[:2])
        if height * width > MAX_PIXELS:
            raise BadSample(
                "too_large",
                f"{image.shape[0]} × {image.shape[1]} pixels with the shortest side at "
                f"{self.size} would be {height} × {width}",
            )
        if (height, width) == image.shape[:2]:
            resized = image.copy()
        else:
            picture = Image.fromarray(np.ascontiguousarray(image))
            method = INTERPOLATIONS[self.interpolation]
            resized = np.array(picture.resize((width, height), method))
        if self.form == "shortest" or self.resize_size:
            rounded = ROUNDINGS[self.crop_rounding]
            top, left = rounded((height - self.size) / 2), rounded((width - self.size) / 2)
            return resized[top : top + self.size, left : left + self.size]
        if self.form == "longest":
            padded = np.full((self.size, self.size, 3), self.pad_value, np.uint8)
            top, left = (self.size - height) // 2, (self.size - width) // 2
            padded[top : top + height, left : left + width] = resized
            return padded
        return resized

    def _inner_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that the whole picture is resized to."""
        size = self.resize_size or self.size
        if self.form == "squash":
            return size, size
        if self.form == "shortest":
            if height <= width:
                return size, int(size * width / height)
            return int(size * height / width), size
        ratio = max(height, width) / size
        return max(1, round(height / ratio)), max(1, round(width / ratio))
