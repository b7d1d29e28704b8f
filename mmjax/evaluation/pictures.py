"""Small pictures and short captions for the report."""

import base64
import io
from collections.abc import Iterable

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from mmjax.evaluation.base import Context

SIDE = 96
CAPTION_LENGTH = 240


def thumbnail(image: UInt8[np.ndarray, "height width channels"], side: int = SIDE) -> str:
    """A picture as base64 JPEG whose longer side has at most `side` pixels."""
    picture = PIL.Image.fromarray(np.ascontiguousarray(image[..., :3]))
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=82)
    return base64.b64encode(file.getvalue()).decode("ascii")


def thumbnails(context: Context, positions: Iterable[int]) -> dict[str, str]:
    """{position: thumbnail} of those samples that have a picture."""
    made = {}
    for position in sorted(set(positions)):
        sample = context.sample(position)
        if "image" in sample:
            made[str(position)] = thumbnail(sample["image"])
    return made


def shorten(caption: str) -> str:
    """A caption cut to what a report can show."""
    return caption if len(caption) <= CAPTION_LENGTH else caption[: CAPTION_LENGTH - 1] + "…"


def spread(length: int, count: int) -> list[int]:
    """At most `count` places spread evenly over `length`, the first included."""
    count = min(length, count)
    return [place * length // count for place in range(count)]
