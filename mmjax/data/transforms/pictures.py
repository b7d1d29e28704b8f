"""Several pictures of one sample, each cut by itself, as one array."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from mmjax.data.sources.base import BadSample

__all__ = ["EachPicture"]


@dataclasses.dataclass(frozen=True)
class EachPicture:
    """Turn sample['images'] into words with an axis of pictures before those of one picture.

    Attributes:
      transforms: applied to each picture in order, as to a sample with the one 'image'.
      words: what they make, of each picture.
    """

    transforms: tuple[Callable[[dict[str, Any], np.random.Generator], dict[str, Any]], ...]
    words: tuple[str, ...] = ("image",)

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The sample with each of `words` stacked over the pictures.

        Raises:
          BadSample: 'missing', no pictures; 'format', pictures of unlike size after all.
        """
        if "images" not in sample:
            raise BadSample("missing", "the sample has no images; set Fields(images_from=(...)).")
        found = []
        for picture in sample["images"]:
            one = {**sample, "image": picture}
            for transform in self.transforms:
                one = transform(one, rng)
            found.append([np.asarray(one[word]) for word in self.words])
        made = {}
        for word, arrays in zip(self.words, zip(*found, strict=True), strict=True):
            if len({array.shape for array in arrays}) > 1:
                shapes = ", ".join(str(array.shape) for array in arrays)
                raise BadSample("format", f"{word!r} is {shapes}; cut pictures to one size.")
            made[word] = np.stack(arrays)
        return {**sample, **made}
