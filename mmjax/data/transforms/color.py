"""Random changes of colour."""

import dataclasses
import math
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from mmjax.data.transforms.decode import pixels

__all__ = ["ColorJitter"]

_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Changes brightness, contrast, saturation and hue by random amounts, in random order.

    Args:
      brightness: largest change; the factor is drawn from max(0, 1 - b) to 1 + b. 0 for none.
      contrast: the same.
      saturation: the same.
      hue: largest turn of the colour circle either way, 0 to 0.5 of a full turn.
      probability: of any change, 0 to 1.

    Raises:
      ValueError: an argument out of range.

    Source: torchvision, transforms.ColorJitter on Pillow images: the same pixels for the same
    factors and order.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"ColorJitter({name}={getattr(self, name)}): give 0 or more.")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"ColorJitter(hue={self.hue}): give 0 to 0.5 of a turn.")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"ColorJitter(probability={self.probability}): give 0 to 1.")

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """`sample` with the colours of 'image' changed; the draws do not depend on the picture.

        Raises:
          BadSample: the picture still is encoded and cannot be decoded.
        """
        change, *draws = rng.random(5).tolist()
        order = rng.permutation(4).tolist()
        if change >= self.probability:
            return sample
        amounts = (self.brightness, self.contrast, self.saturation)
        factors = [
            max(0.0, 1 - amount) + draw * (1 + amount - max(0.0, 1 - amount))
            for amount, draw in zip(amounts, draws)
        ]
        picture = Image.fromarray(np.ascontiguousarray(pixels(sample["image"])))
        for step in order:
            if step == 3:
                picture = turn_hue(picture, (2 * draws[3] - 1) * self.hue) if self.hue else picture
            elif amounts[step]:
                picture = _ENHANCERS[step](picture).enhance(factors[step])
        sample["image"] = np.array(picture)
        return sample


def turn_hue(picture: Image.Image, turn: float) -> Image.Image:
    """The picture with its hues turned by a fraction of the colour circle, -0.5 to 0.5.

    Source: torchvision, _functional_pil.adjust_hue.
    """
    hue, saturation, value = picture.convert("HSV").split()
    turned = (np.array(hue, np.int16) + int(turn * 255)) % 256
    hue = Image.fromarray(turned.astype(np.uint8))
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")
