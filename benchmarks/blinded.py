"""Transforms that take the picture or the text away: what the other alone can tell."""

import dataclasses
from typing import Any, ClassVar

import numpy as np


@dataclasses.dataclass(frozen=True)
class NoPicture:
    """Every picture becomes grey, or every region's numbers 0 and their number the same."""

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        del rng
        for word, value in (("image", 128), ("regions", 0), ("boxes", 0), ("region_mask", True)):
            if word in sample:
                sample = {**sample, word: np.full_like(sample[word], value)}
        return sample


@dataclasses.dataclass(frozen=True)
class NoText:
    """Every caption becomes the same word."""

    leaves_pending: ClassVar[bool] = True

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        del rng
        return {**sample, "caption": "nothing"}
