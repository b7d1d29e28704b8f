"""Regions of a picture masked, as a function of seed and sample index."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

__all__ = ["MaskRegions", "overlaps"]


@dataclasses.dataclass(frozen=True)
class MaskRegions:
    """Set 'masked_regions' and 'region_asked' beside 'regions', which stay.

    Each real region is asked for with the same probability; most of these have their features set
    to zero, some get those of another picture, the others stay as they are. Padding and the whole
    picture's mean are never asked for; the mean is made again, of the regions that are left, since
    it would tell of the others. Draws are keyed by seed and sample index.

    Attributes:
      rate: probability that a region is asked for, above 0 to below 1.
      zeroed: share of those asked for whose features become zero, 0 to 1.
      other: share of those asked for that get the features of a region drawn from another picture,
        0 to 1. A transform sees one sample, so it draws a number, 'region_other', and the step puts
        there what the row half a batch away has (`preprocess.exchange_regions`).
      overlap: what overlaps a zeroed region by more than this (intersection over union, 0 to 1)
        becomes zero too, and is not asked for by that; 1 for none.

    Source: Lu et al. 2019 (ViLBERT), section 3.1, for 0.15 and 0.9; Tan and Bansal 2019 (LXMERT),
    section 3.1.2, and airsplay/lxmert, src/pretrain/lxmert_pretrain.py `random_feat`, for 0.8 and
    another picture's for 0.1; Lu et al. 2020 (12-in-1), section 3.1, for an overlap of 0.4. (Their
    code, whose boxes are a pixel wider, leaves such regions out of the mean alone.)
    """

    rate: float = 0.15
    zeroed: float = 0.9
    overlap: float = 1.0
    other: float = 0.0
    leaves_pending: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"rate={self.rate} is not above 0 and below 1.")
        if not 0 <= self.zeroed <= 1 or not 0 <= self.overlap <= 1:
            raise ValueError(f"zeroed={self.zeroed} and overlap={self.overlap} are of 0 to 1.")
        if not self.other >= 0 or self.zeroed + self.other > 1 + 1e-9:  # 0.9 + 0.1 is 1 or less
            raise ValueError(
                f"other={self.other} is of 0 to {1 - self.zeroed:g}, what zeroed={self.zeroed} "
                "leaves."
            )

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Set sample['masked_regions'], sample['region_asked'] and, if asked, 'region_other'.

        Raises:
          ValueError: regions, or boxes that are needed, were not read before; another picture's
            regions where the first is the mean of all.
        """
        if "mean_first" not in sample:
            raise ValueError("MaskRegions needs regions; put Regions(...) before it.")
        if self.overlap < 1 and "boxes" not in sample:
            raise ValueError(
                f"overlap={self.overlap} needs boxes: Regions(boxes='corners') or 'area'."
            )
        regions, mask = sample["regions"], sample["region_mask"]
        drawn = rng.random((*mask.shape, 2))
        choosable = mask.copy()
        if sample["mean_first"]:
            choosable[..., 0] = False
        asked = choosable & (drawn[..., 0] < self.rate)
        hidden = asked & (drawn[..., 1] < self.zeroed)
        if self.overlap < 1:
            near = overlaps(sample["boxes"]) > self.overlap
            hidden |= choosable & (near & hidden[..., None, :]).any(axis=-1)
        masked = np.where(hidden[..., None], np.float32(0), regions)
        if sample["mean_first"]:
            for picture in np.ndindex(mask.shape[:-1]):
                left = regions[picture][choosable[picture] & ~hidden[picture]]
                masked[picture][0] = left.mean(axis=0) if len(left) else 0
        sample["masked_regions"], sample["region_asked"] = masked, asked
        if self.other > 0:
            if sample["mean_first"]:
                raise ValueError(
                    f"other={self.other} with Regions(boxes='area'): the mean of the regions, "
                    "which comes first, would not know of another picture's. Take other=0."
                )
            taken = asked & ~hidden & (drawn[..., 1] < self.zeroed + self.other)
            places = rng.integers(0, mask.shape[-1], mask.shape)
            sample["region_other"] = np.where(taken, places, -1).astype(np.int32)
        return sample


def overlaps(
    boxes: Float[np.ndarray, "*pictures regions places"],
) -> Float[np.ndarray, "*pictures regions regions"]:
    """Intersection over union of each box with each other of its picture; 0 where both are empty.

    Args:
      boxes: x1, y1, x2, y2 first, in any unit of length.
    """
    low, high = boxes[..., :2].astype(np.float64), boxes[..., 2:4].astype(np.float64)
    left = np.maximum(low[..., :, None, :], low[..., None, :, :])  # [..., n, n, 2]
    right = np.minimum(high[..., :, None, :], high[..., None, :, :])
    both = (right - left).clip(0).prod(axis=-1)
    areas = (high - low).prod(axis=-1)
    either = areas[..., :, None] + areas[..., None, :] - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)
