"""RandAugment: a few random operations of one common strength."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from mmjax.data.transforms.decode import pixels

__all__ = ["OPERATIONS", "RandAugment"]

STRONGEST = 30  # magnitudes are 0 to 30, as in the paper's search

Colour = tuple[int, int, int]
Operation = Callable[[Image.Image, float, Colour], Image.Image]


def _affine(
    picture: Image.Image, matrix: tuple[float, float, float, float, float, float], fill: Colour
) -> Image.Image:
    return picture.transform(
        picture.size,
        Image.Transform.AFFINE,
        matrix,
        resample=Image.Resampling.BILINEAR,
        fillcolor=fill,
    )


def _shear_x(picture: Image.Image, amount: float, fill: Colour) -> Image.Image:
    return _affine(picture, (1.0, -amount, amount * picture.height / 2, 0.0, 1.0, 0.0), fill)


def _shear_y(picture: Image.Image, amount: float, fill: Colour) -> Image.Image:
    return _affine(picture, (1.0, 0.0, 0.0, -amount, 1.0, amount * picture.width / 2), fill)


def _translate_x(picture: Image.Image, amount: float, fill: Colour) -> Image.Image:
    return _affine(picture, (1.0, 0.0, -float(round(amount * picture.width)), 0.0, 1.0, 0.0), fill)


def _translate_y(picture: Image.Image, amount: float, fill: Colour) -> Image.Image:
    return _affine(picture, (1.0, 0.0, 0.0, 0.0, 1.0, -float(round(amount * picture.height))), fill)


def _rotate(picture: Image.Image, amount: float, fill: Colour) -> Image.Image:
    return picture.rotate(amount, resample=Image.Resampling.BILINEAR, fillcolor=fill)


# Name: (what it does, largest amount, whether the amount's sign is drawn). The amount is
# magnitude / 30 × largest.
OPERATIONS: dict[str, tuple[Operation, float, bool]] = {
    "identity": (lambda picture, amount, fill: picture, 0.0, False),
    "shear_x": (_shear_x, 0.3, True),
    "shear_y": (_shear_y, 0.3, True),
    "translate_x": (_translate_x, 150 / 331, True),  # the paper's 150 pixels, of 331
    "translate_y": (_translate_y, 150 / 331, True),
    "rotate": (_rotate, 30.0, True),
    "brightness": (lambda p, a, fill: ImageEnhance.Brightness(p).enhance(1 + a), 0.9, True),
    "color": (lambda p, a, fill: ImageEnhance.Color(p).enhance(1 + a), 0.9, True),
    "contrast": (lambda p, a, fill: ImageEnhance.Contrast(p).enhance(1 + a), 0.9, True),
    "sharpness": (lambda p, a, fill: ImageEnhance.Sharpness(p).enhance(1 + a), 0.9, True),
    "posterize": (lambda p, a, fill: ImageOps.posterize(p, 8 - round(a)), 4.0, False),
    "solarize": (lambda p, a, fill: ImageOps.solarize(p, round(255 - a)), 255.0, False),
    "auto_contrast": (lambda p, a, fill: ImageOps.autocontrast(p), 0.0, False),
    "equalize": (lambda p, a, fill: ImageOps.equalize(p), 0.0, False),
}


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Applies `num_ops` operations drawn from one list, all at the strength `magnitude`.

    The amount of an operation is magnitude / 30 of: shear 0.3, translation 150/331 of the side,
    rotation 30 degrees, brightness, colour, contrast and sharpness a factor of 1 ± 0.9, posterize
    8 down to 4 bits, solarize above 255 down to 0; identity, auto-contrast and equalize have none.
    The sign of an amount is drawn. No operation mirrors the picture, so captions stay true of left
    and right.

    Args:
      num_ops: operations for each picture, one after the other; 0 or more.
      magnitude: strength, 0 to 30.
      fill: the colour of what moves into the picture from outside, 0 to 255 each.
      operations: names to draw from, of `OPERATIONS`.

    Raises:
      ValueError: an argument out of range.

    Source: Cubuk et al. 2020, "RandAugment", section 3 and appendix; ranges as torchvision's
    transforms.RandAugment.
    """

    num_ops: int = 2
    magnitude: float = 9.0
    fill: tuple[int, int, int] = (128, 128, 128)
    operations: tuple[str, ...] = tuple(OPERATIONS)

    def __post_init__(self) -> None:
        if self.num_ops < 0:
            raise ValueError(f"RandAugment(num_ops={self.num_ops}): give 0 or more.")
        if not 0 <= self.magnitude <= STRONGEST:
            raise ValueError(f"RandAugment(magnitude={self.magnitude}): give 0 to {STRONGEST}.")
        unknown = [name for name in self.operations if name not in OPERATIONS]
        if unknown or not self.operations:
            raise ValueError(
                f"RandAugment(operations={self.operations!r}): use some of {', '.join(OPERATIONS)}."
            )

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """`sample` with 'image' changed; always two draws for each operation.

        Raises:
          BadSample: the picture still is encoded and cannot be decoded.
        """
        draws = rng.random((self.num_ops, 2)).tolist()
        picture = Image.fromarray(np.ascontiguousarray(pixels(sample["image"])))
        for which, sign in draws:
            name = self.operations[int(which * len(self.operations))]
            operation, largest, signed = OPERATIONS[name]
            amount = self.magnitude / STRONGEST * largest
            picture = operation(picture, -amount if signed and sign < 0.5 else amount, self.fill)
        sample["image"] = np.array(picture)
        return sample
