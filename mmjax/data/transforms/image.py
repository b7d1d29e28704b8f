"""Random geometry of training pictures: resized crops and flips."""

import dataclasses
import functools
import math
import re
from typing import Any, ClassVar

import cv2
import numpy as np
from jaxtyping import UInt8

from mmjax.data.transforms.decode import DENOMINATORS, EncodedImage, PendingImage, pixels
from mmjax.data.transforms.resize import resize_fast

__all__ = ["RandomFlip", "RandomResizedCrop"]

ATTEMPTS = 10

Box = tuple[int, int, int, int]  # top, left, height, width


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the picture, resized to size × size.

    The part is drawn from the header's size before anything is decoded, and a JPEG is then decoded
    at 1/2, 1/4 or 1/8 where the part still has at least the pixels that are needed. The draws do
    not depend on the picture.

    Args:
      size: side of the result, in pixels.
      scale: (least, most) area of the part, as fractions of the picture's; 0 to 1.
      ratio: (least, most) width over height of the part, before it is resized.

    Raises:
      ValueError: an argument out of range.

    Source: Szegedy et al. 2015, "Going deeper with convolutions", section 6; attempts and fall-back
    as torchvision's RandomResizedCrop; the default scale as open_clip's.
    """

    size: int
    scale: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    leaves_pending: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"RandomResizedCrop(size={self.size}): give at least one pixel.")
        for name in ("scale", "ratio"):
            if len(getattr(self, name)) != 2:
                raise ValueError(
                    f"RandomResizedCrop({name}={getattr(self, name)}): give (least, most)."
                )
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(
                f"RandomResizedCrop(scale={self.scale}): give (least, most), 0 < least ≤ most ≤ 1."
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(
                f"RandomResizedCrop(ratio={self.ratio}): give (least, most), 0 < least ≤ most."
            )

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """`sample` with 'image' cut and resized; always 22 draws from `rng`.

        Raises:
          BadSample: the picture cannot be decoded; of one that may pend, its header is broken.
        """
        draws = rng.random(2 * ATTEMPTS + 2).tolist()
        image = sample["image"]
        if isinstance(image, EncodedImage):
            part = _Crop(image, self.box(*image.size, draws), self.size)
            sample["image"] = part if image.may_pend else part.render()
            return sample
        image = pixels(image)
        top, left, height, width = self.box(*image.shape[:2], draws)
        sample["image"] = resize_fast(image[top : top + height, left : left + width], self.size)
        return sample

    def box(self, height: int, width: int, draws: list[float]) -> Box:
        """The part to cut from a picture.

        Args:
          height: of the picture, in pixels.
          width: the same.
          draws: 22 numbers in [0, 1): area and shape of ten attempts, then the position.

        Returns:
          Its top, left, height and width, in pixels.
        """
        least_area, most_area = self.scale
        least, most = math.log(self.ratio[0]), math.log(self.ratio[1])
        for attempt in range(ATTEMPTS):
            area = (least_area + draws[2 * attempt] * (most_area - least_area)) * height * width
            ratio = math.exp(least + draws[2 * attempt + 1] * (most - least))
            part_width = round(math.sqrt(area * ratio))
            part_height = round(math.sqrt(area / ratio))
            if 0 < part_width <= width and 0 < part_height <= height:
                top = int(draws[-2] * (height - part_height + 1))
                left = int(draws[-1] * (width - part_width + 1))
                return top, left, part_height, part_width
        # Long and thin: the largest part in the middle that has an allowed shape.
        part_width = max(1, min(width, round(height * self.ratio[1])))
        part_height = max(1, min(height, round(width / self.ratio[0])))
        return (height - part_height) // 2, (width - part_width) // 2, part_height, part_width


class _Crop(PendingImage):
    """A part of an encoded picture, resized to size × size."""

    def __init__(self, image: EncodedImage, box: Box, size: int, mirror: bool = False):
        self.image, self.box, self.size, self.mirror = image, box, size, mirror
        self.shape = (size, size, 3)

    def render(
        self, out: UInt8[np.ndarray, "size size 3"] | None = None
    ) -> UInt8[np.ndarray, "size size 3"]:
        """See `PendingImage`."""
        image, (top, left, height, width) = self._decode()
        part = image[top : top + height, left : left + width]
        if not self.mirror:
            return resize_fast(part, self.size, out)
        return cv2.flip(resize_fast(part, self.size), 1, out)

    def mirrored(self) -> "_Crop":
        """See `PendingImage`."""
        return _Crop(self.image, self.box, self.size, not self.mirror)

    def _decode(self) -> tuple[UInt8[np.ndarray, "height width 3"], Box]:
        """The picture, decoded no larger than the part needs, and the part's place in it."""
        top, left, height, width = self.box
        needed = min(height, width) // self.size
        for denominator in DENOMINATORS if needed > 1 and self.image.reducible else ():
            if denominator <= needed:
                top, bottom = round(top / denominator), round((top + height) / denominator)
                left, right = round(left / denominator), round((left + width) / denominator)
                box = top, left, bottom - top, right - left
                return self.image.decode(denominator, scratch=True), box
        return self.image.decode(scratch=True), self.box


@functools.cache
def _guard_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """Finds any of the words: whole ones of Latin letters, others (such as 左) anywhere."""
    parts = (rf"\b{re.escape(word)}\b" if word.isascii() else re.escape(word) for word in words)
    return re.compile("|".join(parts), re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class RandomFlip:
    """Mirrors the picture left to right, except where its captions tell the two apart.

    Args:
      probability: of a flip, 0 to 1.
      guard: words that keep the picture as it is when its caption (or any of its captions, before
        one is picked) says them, in upper or lower case; () for none.

    Raises:
      ValueError: a probability out of range.
    """

    probability: float = 0.5
    guard: tuple[str, ...] = ("left", "right", "leftmost", "rightmost")
    leaves_pending: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"RandomFlip(probability={self.probability}): give 0 to 1.")

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """`sample` with 'image' perhaps mirrored; always one draw from `rng`.

        Raises:
          BadSample: the picture still is encoded and cannot be decoded.
        """
        if rng.random() < self.probability and not self._guarded(sample):
            image = sample["image"]
            pending = isinstance(image, PendingImage)
            sample["image"] = image.mirrored() if pending else cv2.flip(pixels(image), 1)
        return sample

    def _guarded(self, sample: dict[str, Any]) -> bool:
        if not self.guard:
            return False
        captions = (sample["caption"],) if "caption" in sample else sample.get("captions", ())
        search = _guard_pattern(tuple(self.guard)).search
        return any(search(caption) for caption in captions)
