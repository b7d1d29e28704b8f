"""How fast one core turns tars of JPEGs into batches, beside a bare loop and beside Pillow.

    python benchmarks/input.py                  # 2,000 pictures of each size, some minutes
    python benchmarks/input.py --samples 300    # a short look

One JSON line for each size. Everything runs pinned to one core and interleaved, batch by batch:
  pipeline  read, check, decode, random crop to 224, flip, tokenize, batch: what training gets
  bare      the same decode, crop boxes and resize on bytes in memory, and nothing else
  pillow    the same crop boxes by Pillow alone: whole decode, crop, bicubic resize
`pipeline_over_bare` should be 0.85 or more (0.75 at 500×375), `pipeline_over_pillow` 1.7 or more,
and 2.5 where every crop allows a scaled decode. Rates are medians over the batches, of the
core's time that the process used, so that other work on the machine disturbs them less;
`wall_over_bare` is the first ratio by the clock on the wall.
"""

import argparse
import gc
import io
import json
import os
import resource
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from mmjax.data.dataset import Dataset
from mmjax.data.fields import Fields
from mmjax.data.pipeline import BatchMaker, Reading, batches
from mmjax.data.rows import Rows, training_rows
from mmjax.data.tokenizers.training import train_bpe
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.image import RandomFlip, RandomResizedCrop
from mmjax.data.transforms.resize import resize_fast
from mmjax.data.transforms.text import Tokenize

SIZES = {"500x375": (375, 500), "640x480": (480, 640), "1024x768": (768, 1024)}
TARGET = 224
BATCH = 50
TURN = 4  # batches: a run begins its iterator once, not for each batch
LOOPS = ("pipeline", "bare", "pillow")
SCENE = "a small red dog and the old man with two bright boats near one wooden house by a river"
WORDS = tuple(SCENE.split())


def photo_spectrum(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A YCbCr picture whose power falls with the square of the frequency, as in photographs."""
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(down, across)
    frequency[0, 0] = np.inf
    planes = []
    for exponent, spread in ((1.4, 50), (1.6, 14), (1.6, 14)):
        wave = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
        plane = np.fft.irfft2(wave / frequency**exponent, s=(height, width))
        planes.append((plane - plane.mean()) / plane.std() * spread + 128)
    return np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)


def add_shapes(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Edges, which noise has none of: some flat ellipses and boxes, half see-through."""
    height, width = picture.shape[:2]
    drawn = picture.copy()
    for _ in range(6):
        centre = int(rng.integers(width)), int(rng.integers(height))
        axes = (
            int(rng.integers(width // 40, width // 6)),
            int(rng.integers(height // 40, height // 6)),
        )
        colour = rng.integers(60, 200, 3).tolist()
        if rng.random() < 0.5:
            cv2.ellipse(drawn, centre, axes, float(rng.integers(180)), 0, 360, colour, -1)
        else:
            far = centre[0] + axes[0], centre[1] + axes[1]
            cv2.rectangle(drawn, centre, far, colour, -1)
    return cv2.addWeighted(picture, 0.5, drawn, 0.5, 0)


def write_shards(folder: str, height: int, width: int, samples: int) -> list[str]:
    """Tars of up to 500 JPEGs (quality 90, 4:2:0) with a caption each; returns the captions."""
    rng = np.random.default_rng(height)
    bases = [photo_spectrum(rng, height, width) for _ in range(16)]
    captions = []
    for first in range(0, samples, 500):
        with tarfile.open(os.path.join(folder, f"{width}-{first:06d}.tar"), "w") as tar:
            for number in range(first, min(first + 500, samples)):
                shift = int(rng.integers(height)), int(rng.integers(width))
                picture = np.roll(bases[number % len(bases)], shift, (0, 1))
                rgb = cv2.cvtColor(add_shapes(rng, picture), cv2.COLOR_YCrCb2RGB)
                jpeg = simplejpeg.encode_jpeg(rgb, quality=90, colorsubsampling="420")
                captions.append(" ".join(rng.choice(WORDS, rng.integers(6, 16))))
                for name, data in (("jpg", jpeg), ("txt", captions[-1].encode())):
                    member = tarfile.TarInfo(f"{number:06d}.{name}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return captions


class Boxes:
    """Stands before the crop and keeps the box it is about to draw."""

    def __init__(self, crop: RandomResizedCrop):
        self.crop = crop
        self.found: list[tuple[int, int, int, int]] = []

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        state = rng.bit_generator.state
        self.found.append(self.crop.box(*sample["image"].size, rng.random(22).tolist()))
        rng.bit_generator.state = state
        return sample


def bare(data: list[bytes], boxes: list, size: tuple[int, int], buffer: np.ndarray) -> list:
    """Decode, cut, resize."""
    pictures = []
    for jpeg, (top, left, height, width) in zip(data, boxes):
        needed = min(height, width) // TARGET
        scale = next((d for d in (8, 4, 2) if d <= needed), 1)
        tall, wide = -(-size[0] // scale), -(-size[1] // scale)
        image = simplejpeg.decode_jpeg(
            jpeg, min_height=tall, min_width=wide, min_factor=scale, buffer=buffer
        )
        top, bottom = round(top / scale), round((top + height) / scale)
        left, right = round(left / scale), round((left + width) / scale)
        pictures.append(resize_fast(image[top:bottom, left:right], TARGET))
    return pictures


def pillow(data: list[bytes], boxes: list) -> list[np.ndarray]:
    """The same with Pillow alone, as torchvision's transforms do it."""
    pictures = []
    for jpeg, (top, left, height, width) in zip(data, boxes):
        picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
        part = picture.crop((left, top, left + width, top + height))
        resized = part.resize((TARGET, TARGET), Image.Resampling.BICUBIC)
        pictures.append(np.asarray(resized))
    return pictures


class Clock:
    """Rates of each loop by batch: of the core's time, and of the clock on the wall."""

    def __init__(self) -> None:
        self.core: dict[str, list[float]] = {name: [] for name in LOOPS}
        self.wall: dict[str, list[float]] = {name: [] for name in LOOPS}

    def run(self, name: str, loop: Callable[..., Any], *arguments: Any) -> Any:
        gc.collect()
        core, wall = time.process_time(), time.perf_counter()
        result = loop(*arguments)
        self.core[name].append(BATCH * TURN / (time.process_time() - core))
        self.wall[name].append(BATCH * TURN / (time.perf_counter() - wall))
        return result


def measure(folder: str, height: int, width: int, samples: int) -> dict[str, Any]:
    captions = write_shards(folder, height, width, samples)
    tokenizer = train_bpe(captions, 8192, os.path.join(folder, f"{width}.json"))
    crop = RandomResizedCrop(TARGET)
    # Text first: between pictures the interpreter's own code has left the cache.
    words = (PickCaption(), Tokenize(tokenizer, 64))

    def rows(*before: Boxes) -> Rows:
        path = os.path.join(folder, f"{width}-*.tar")
        dataset = Dataset(
            path=path, fields=Fields(), transforms=(*words, *before, crop, RandomFlip())
        )
        return training_rows((dataset,), seed=0, stream="train")

    maker = BatchMaker(rows(), BATCH, process=0, processes=1, threads=1)
    recording, source = Boxes(crop), maker.rows.datasets[0].source
    recorder = rows(recording)
    buffer = np.empty(height * width * 3, np.uint8)
    clock, reduced, jpeg_bytes = Clock(), [], []
    for turn in range(samples // (BATCH * TURN)):
        # Not timed: the boxes of a turn, and its bytes for the two loops that do not read.
        first = turn * TURN
        indices = range(first * BATCH, (first + TURN) * BATCH)
        recording.found.clear()
        for index in indices:
            recorder.load(index)
        boxes = list(recording.found)
        data = [source[recorder.order(index)[1]]["jpg"] for index in indices]
        reduced += [min(box[2:]) >= 2 * TARGET for box in boxes]
        jpeg_bytes += [len(jpeg) for jpeg in data]

        pictures = clock.run("bare", bare, data, boxes, (height, width), buffer)
        made = clock.run(
            "pipeline", lambda n: list(batches(maker, n, n + TURN, Reading(threads=1))), first
        )
        clock.run("pillow", pillow, data, boxes)
        rows_made = [row for batch in made for row in batch["image"]]
        for ours, theirs in zip(rows_made, pictures, strict=True):
            if not (np.array_equal(ours, theirs) or np.array_equal(ours[:, ::-1], theirs)):
                raise SystemExit("the pipeline's pictures are not the bare loop's")
    core, wall = (
        {name: statistics.median(values) for name, values in rates.items()}
        for rates in (clock.core, clock.wall)
    )
    share = float(np.mean(reduced))
    return {
        "benchmark": "input",
        "size": f"{width}x{height}",
        "samples": len(jpeg_bytes),
        "mean_bytes": round(float(np.mean(jpeg_bytes))),
        "scaled_decode_share": round(share, 3),
        **{f"{name}_images_per_second": round(core[name], 1) for name in LOOPS},
        "pipeline_over_bare": round(core["pipeline"] / core["bare"], 3),
        "target_over_bare": 0.75 if width == 500 else 0.85,
        "pipeline_over_pillow": round(core["pipeline"] / core["pillow"], 2),
        "target_over_pillow": 2.5 if share == 1 else 1.7,
        "wall_over_bare": round(wall["pipeline"] / wall["bare"], 3),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2000, help="pictures of each size")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--core", type=int, default=None, help="the core to run on")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        core = max(os.sched_getaffinity(0)) if options.core is None else options.core
        os.sched_setaffinity(0, {core})
    if options.samples < BATCH * TURN:
        parser.error(f"--samples {options.samples}: give at least {BATCH * TURN}.")
    for height, width in (SIZES[name] for name in options.sizes):
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(folder, height, width, options.samples)), flush=True)


if __name__ == "__main__":
    main()
