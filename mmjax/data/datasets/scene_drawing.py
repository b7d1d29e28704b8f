"""Drawing of scenes: a record in, a picture out, with nothing random in between.

Outlines are polygons in a unit box, filled by OpenCV with anti-aliased edges; a texture is a second
shade of the object's colour laid over it by a tiled pattern.
"""

import colorsys
import functools
import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from mmjax.data.datasets.scene_captions import pick

# Hue in degrees, saturation, value: centre and half width of each, as a colour's name allows.
HUES = {
    "red": ((0, 8), (0.92, 0.08), (0.85, 0.10)),
    "orange": ((28, 5), (0.95, 0.05), (0.97, 0.03)),
    "yellow": ((54, 5), (0.90, 0.10), (0.94, 0.05)),
    "green": ((125, 18), (0.80, 0.15), (0.60, 0.14)),
    "cyan": ((182, 8), (0.85, 0.14), (0.87, 0.08)),
    "blue": ((225, 11), (0.88, 0.12), (0.80, 0.15)),
    "purple": ((277, 10), (0.75, 0.15), (0.62, 0.12)),
    "pink": ((330, 8), (0.45, 0.10), (0.97, 0.03)),
}
SOLID_FRACTION = 0.75  # of objects, before a texture is drawn evenly
SHADE_DARK = 0.45  # of the colour, for the second shade of a texture
SHADE_LIGHT = 0.35  # of the colour, the rest white
STRIPE_PERIOD = 0.08  # of the picture's side
DOT_PERIOD = 0.09
OUTLINE = 0.12  # thickness of an outlined object over its diameter


def colour_of(rng: Random, name: str) -> list[int]:
    """One RGB of the many that a colour's name allows."""
    hue, saturation, value = (
        centre + (2 * rng.random() - 1) * width for centre, width in HUES[name]
    )
    rgb = colorsys.hsv_to_rgb(hue / 360 % 1.0, min(saturation, 1.0), min(value, 1.0))
    return [round(255 * channel) for channel in rgb]


def texture_of(rng: Random, textures: Sequence[str]) -> str:
    """A texture for an object; mostly a plain surface, where that is among them."""
    if "solid" in textures and rng.random() < SOLID_FRACTION:
        return "solid"
    return pick(rng, textures)


def background_of(rng: Random, kind: str) -> dict[str, Any]:
    """The choices behind a background of one kind: two dull tones, an angle, a cell, a seed.

    Backgrounds are dark and objects bright: where each may be either, a small model sees shapes
    only after many more samples.
    """
    level = 10 + 60 * rng.random()
    step = 15 + 20 * rng.random()
    if kind == "gradient":
        step *= 2
    tint = [24 * (rng.random() - 0.5) for _ in range(3)]
    tones = [[round(min(max(tone + t, 0), 255)) for t in tint] for tone in (level, level + step)]
    return {
        "kind": kind,
        "tones": tones,
        "angle": round(360 * rng.random(), 1),
        "cell": round(0.08 + 0.10 * rng.random(), 4),
        "seed": int(rng.random() * 2**32),
    }


@functools.lru_cache(maxsize=1)
def unit_outlines() -> dict[str, Float[np.ndarray, "points two"]]:
    """Every shape's outline, about one wide and high, round the origin; y is down."""
    turn = 2 * np.pi * np.arange(32) / 32
    circle = np.stack([np.cos(turn), np.sin(turn)], 1) / 2
    spikes = -np.pi / 2 + np.pi * np.arange(10) / 5
    radii = np.where(np.arange(10) % 2 == 0, 0.56, 0.23)
    t = 2 * np.pi * np.arange(28) / 28
    heart = np.stack(
        [
            16 * np.sin(t) ** 3,
            -13 * np.cos(t) + 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t),
        ],
        1,
    )
    a, b = 0.5, 0.18
    return {
        "circle": circle,
        "square": 0.45 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]),
        "triangle": np.array([[0, -0.5], [0.52, 0.42], [-0.52, 0.42]]),
        "cross": np.array(
            [
                *[(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b)],
                *[(b, a), (-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b)],
            ]
        ),
        "star": np.stack([radii * np.cos(spikes), radii * np.sin(spikes)], 1),
        "heart": heart / 32 + np.array([0, -0.04]),
    }


@functools.lru_cache(maxsize=1)
def unit_holes() -> dict[str, Float[np.ndarray, "points two"]]:
    """Every outline moved inward by `OUTLINE`: what an outlined object leaves open."""
    return {shape: inset(points, OUTLINE) for shape, points in unit_outlines().items()}


def inset(
    points: Float[np.ndarray, "points two"], distance: float
) -> Float[np.ndarray, "corners two"]:
    """A polygon whose edges are moved inward, without the corners that then lie outside of it."""
    edges = np.roll(points, -1, 0) - points
    edges /= np.linalg.norm(edges, axis=1, keepdims=True)
    x, y = points.T
    turn = np.sign(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
    normals = turn * np.stack([-edges[:, 1], edges[:, 0]], 1)
    before = np.roll(normals, 1, 0)
    spread = 1 + np.sum(normals * before, axis=1, keepdims=True)
    moved = points + distance * (normals + before) / np.maximum(spread, 0.15)
    hull = points.astype(np.float32)[:, None]
    depth = [cv2.pointPolygonTest(hull, tuple(point), True) for point in moved.tolist()]
    return moved[np.array(depth) > 0.9 * distance]


def outline(
    shape: str, x: float, y: float, diameter: float, angle: float, hole: bool = False
) -> Float[np.ndarray, "points two"]:
    """An object's outline.

    Args:
      shape: one of `SHAPES`.
      x, y: centre, in any unit.
      diameter: in the same unit.
      angle: turn to the right in degrees.
      hole: True for the inner edge of an outlined object.

    Returns:
      Corners in the same unit.
    """
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = np.array([[cosine, sine], [-sine, cosine]]) * diameter
    return (unit_holes() if hole else unit_outlines())[shape] @ turn + (x, y)


def box_of(points: Float[np.ndarray, "points two"], image_size: int) -> list[int]:
    """[x1, y1, x2, y2] of an outline in whole pixels; x2 and y2 are the first pixels outside."""
    x1, y1 = np.floor(points.min(0) - 0.25).astype(int).tolist()
    x2, y2 = np.ceil(points.max(0) + 0.25).astype(int).tolist()
    return [max(x1, 0), max(y1, 0), min(x2, image_size), min(y2, image_size)]


@functools.lru_cache(maxsize=8)
def _grid(size: int) -> Float[np.ndarray, "two height width"]:
    """Pixel centres from -0.5 to 0.5, x then y."""
    ramp = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    return np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None]))


@functools.lru_cache(maxsize=8)
def patterns(size: int) -> dict[tuple[str, int], Bool[np.ndarray, "height width"]]:
    """Where a texture's second shade lies, by texture and variant, on twice the picture's side."""
    span = np.arange(2 * size)
    period = max(3, round(STRIPE_PERIOD * size))
    x, y = np.broadcast_arrays(span[None, :], span[:, None])
    wide = max(3, round(1.4 * period))
    found = {
        ("striped", variant): along % every < (every + 1) // 2
        for variant, (along, every) in enumerate(
            [(x, period), (y, period), (x + y, wide), (x - y, wide)]
        )
    }
    period = max(4, round(DOT_PERIOD * size))
    radius = 0.29 * period
    for variant, shift in enumerate((0, period // 2, 0, period // 2)):
        row = y // period
        dx = (x + shift * (row % 2)) % period - (period - 1) / 2
        dy = y % period - (period - 1) / 2
        found["dotted", variant] = dx * dx + dy * dy <= radius * radius + 0.5
    return found


def draw_background(background: Mapping[str, Any], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A picture without objects."""
    first, second = np.array(background["tones"], np.float32)
    kind = background["kind"]
    if kind == "flat":
        return np.full((size, size, 3), first.astype(np.uint8))
    if kind == "noise":
        rng = np.random.Generator(np.random.SFC64(background["seed"]))
        grains = np.frombuffer(rng.bytes(size * size), np.uint8).reshape(size, size)
        share = grains * np.float32(1 / 255)
    else:
        x, y = _grid(size)
        if kind == "gradient":
            angle = math.radians(background["angle"])
            share = np.clip(0.5 + x * math.cos(angle) + y * math.sin(angle), 0, 1)
        else:
            cell = max(2, round(background["cell"] * size))
            steps = np.arange(size) // cell
            share = ((steps[None, :] + steps[:, None]) % 2).astype(np.float32)
    return (first + share[:, :, None] * (second - first)).astype(np.uint8)


def draw_object(image: UInt8[np.ndarray, "size size 3"], item: Mapping[str, Any]) -> None:
    """Lay one object of a record over a picture."""
    x1, y1, x2, y2 = item["box"]
    points = outline(item["shape"], *item["centre"], item["diameter"], item["angle"])
    # OpenCV takes a pixel's centre, not its corner, as the whole number; 4 binary places follow.
    origin = (x1 + 0.5, y1 + 0.5)
    mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
    cv2.fillPoly(mask, [np.rint((points - origin) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    if item["texture"] == "outlined":
        hole = outline(item["shape"], *item["centre"], item["diameter"], item["angle"], hole=True)
        cv2.fillPoly(mask, [np.rint((hole - origin) * 16).astype(np.int32)], 0, cv2.LINE_AA, 4)
    paint = np.array(item["rgb"], np.float32)
    if item["texture"] in ("striped", "dotted"):
        pattern = patterns(len(image))[item["texture"], item["variant"]]
        left, top = item["phase"]
        second = pattern[top : top + y2 - y1, left : left + x2 - x1, None]
        paint = np.where(second, np.array(item["shade"], np.float32), paint)
    region = image[y1:y2, x1:x2]
    share = mask[:, :, None] * np.float32(1 / 255)
    region[:] = (region + (paint - region) * share + 0.5).astype(np.uint8)


def draw(record: Mapping[str, Any]) -> UInt8[np.ndarray, "size size 3"]:
    """The picture of a scene.

    Args:
      record: the scene's full record; objects are drawn in their order, containers first.

    Returns:
      RGB of 'image_size' pixels a side, the same for the same record.
    """
    image = draw_background(record["background"], record["image_size"])
    for item in record["objects"]:
        draw_object(image, item)
    return image


def paint_of(rng: Random, colour: str, image_size: int) -> dict[str, Any]:
    """The choices behind an object's surface: its colour, second shade, pattern and turn."""
    rgb = colour_of(rng, colour)
    # A lighter shade of a light colour is not seen; luma after ITU-R BT.601.
    light = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] < 130 and rng.random() < 0.5
    return {
        "rgb": rgb,
        "shade": [
            round(SHADE_LIGHT * c + (1 - SHADE_LIGHT) * 255) if light else round(SHADE_DARK * c)
            for c in rgb
        ],
        "variant": int(rng.random() * 4),
        "phase": [int(rng.random() * image_size // 2), int(rng.random() * image_size // 2)],
        "angle": round(pick(rng, (-1, 1)) * 12 * rng.random(), 1),
    }
