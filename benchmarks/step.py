"""How fast the training step is, beside open_clip's model and loss.

    pip install -e '.[peers]'                   # this script's own extra
    python benchmarks/step.py                   # three shapes, float32, about 5 minutes on 2 cores
    python benchmarks/step.py --sides ours ours_bfloat16 open_clip open_clip_bfloat16

One JSON line for each shape. A side is the whole training step: forward, backward, AdamW, on the
same sizes and the same random pictures and tokens. Ours is the step that training runs
(preprocessing, norms, counters and the skip of bad updates included); open_clip's is its `CLIP`,
its `ClipLoss` and torch's AdamW with its groups, as its trainer builds them. Each side lives in a
process of its own and they take turns, a block of steps each, so never two compute at once; rates
are medians over the blocks, ratios medians over the turns, with the lowest and highest beside.
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import peer

SIDES = ("ours", "ours_bfloat16", "open_clip", "open_clip_bfloat16")
BATCHES = 4  # different ones, in turn


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model, a batch, and how much faster than open_clip in float32 the step should be."""

    size: peer.Size
    batch: int
    target: float


TINY = peer.Size(64, 16, image_width=192, text_width=192, depth=12, length=16, embed_dim=192)
BASE = peer.Size(224, 32, image_width=768, text_width=512, depth=12, length=77, embed_dim=512)
SHAPES = {
    "ti16-b16": Shape(TINY, 16, 1.7),
    "ti16-b64": Shape(TINY, 64, 1.85),
    "b32-b8": Shape(BASE, 8, 1.1),
}


def made_up(shape: Shape) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random pictures and texts of random lengths, the same for every side."""
    rng, size = np.random.default_rng(0), shape.size
    batches = []
    for _ in range(BATCHES):
        image = rng.integers(0, 256, (shape.batch, size.image_size, size.image_size, 3), np.uint8)
        tokens = rng.integers(1, size.eos_id, (shape.batch, size.length), np.int32)
        for row, end in zip(tokens, rng.integers(size.length // 2, size.length, shape.batch)):
            row[end], row[end + 1 :] = size.eos_id, 0
        batches.append((image, tokens))
    return batches


def our_step(shape: Shape, dtype: str) -> Callable[[int], None]:
    """A function that takes so many steps of ours and waits for the last."""
    import jax

    from mmjax.data.device import to_devices
    from mmjax.data.sources.base import CAUSES
    from mmjax.parallel.cpu import keep_freed_memory
    from mmjax.parallel.layout import WHOLE
    from mmjax.parallel.mesh import make_mesh
    from mmjax.parallel.sharding import batch_sharding
    from mmjax.training.compiled import Compiled
    from mmjax.training.schedules import cosine

    keep_freed_memory()  # as the trainer does
    rows = shape.batch
    recipe = peer.our_recipe(shape.size, cosine(peak=1e-3, steps=10_000), dtype)
    mesh = make_mesh(devices=jax.devices()[:1])
    batches = [
        {
            "image": image,
            "token_ids": tokens,
            "text_mask": tokens > 0,
            "row": np.arange(rows, dtype=np.int32),
            "valid": np.ones(rows, bool),
            "sample_id": np.stack([np.zeros(rows), np.arange(rows)], -1).astype(np.int32),
            "bad_samples": np.zeros((rows, len(CAUSES)), np.int32),
        }
        for image, tokens in made_up(shape)
    ]
    shapes = {word: (value.shape, value.dtype) for word, value in batches[0].items()}
    compiled = Compiled(recipe, mesh, {"main": shapes}, WHOLE)
    placed = [{"main": to_devices(batch, batch_sharding(mesh))} for batch in batches]
    stop = jax.numpy.zeros((1,), jax.numpy.int32)
    held = {"state": compiled.init()}

    def run(steps: int) -> None:
        state = held.pop("state")
        for number in range(steps):
            state, metrics = compiled.step(state, placed[number % BATCHES], stop)
        jax.block_until_ready((state, metrics))
        if not np.isfinite(metrics["loss"]):
            raise SystemExit("our loss is not finite")
        held["state"] = state

    return run


def their_step(shape: Shape, dtype: str) -> Callable[[int], None]:
    """A function that takes so many steps of open_clip's."""
    step = peer.TheirStep(shape.size, dtype=dtype)
    batches = [step.batch(*batch) for batch in made_up(shape)]

    def run(steps: int) -> None:
        for number in range(steps):
            loss = step(*batches[number % BATCHES], rate=1e-3)
        if not np.isfinite(loss.item()):
            raise SystemExit("open_clip's loss is not finite")

    return run


def work(side: str, shape: Shape) -> None:
    """The side's process: takes as many steps as each line of its input says."""
    make = our_step if side.startswith("ours") else their_step
    start = time.perf_counter()
    run = make(shape, "bfloat16" if side.endswith("bfloat16") else "float32")
    run(1)
    print(json.dumps({"first_step_seconds": time.perf_counter() - start}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        run(int(line))
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak_rss_bytes": peak}), flush=True)


class Side:
    """A process that computes only when asked to."""

    def __init__(self, side: str, shape: str):
        command = [sys.executable, os.path.abspath(__file__), "--work", side, "--shapes", shape]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first = self._answer()["first_step_seconds"]
        self.peak = 0

    def seconds(self, steps: int) -> float:
        """Seconds for so many steps."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.peak = answer["peak_rss_bytes"]
        return answer["seconds"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, float]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended with exit code {self.process.wait()}")
        return json.loads(line)


def measure(name: str, sides: list[str], turns: int, block_seconds: float) -> dict[str, Any]:
    """The rates of all sides at one shape."""
    shape = SHAPES[name]
    running = {side: Side(side, name) for side in sides}  # one after the other
    rates: dict[str, list[float]] = {side: [] for side in sides}
    steps = {}
    for side, process in running.items():
        process.seconds(2)
        steps[side] = max(1, round(block_seconds / (process.seconds(2) / 2)))
    load = []
    for turn in range(turns):
        for side in sides if turn % 2 else reversed(sides):
            seconds = running[side].seconds(steps[side])
            rates[side].append(shape.batch * steps[side] / seconds)
            time.sleep(0.1)  # the other's idle threads stop spinning
        load.append(os.getloadavg()[0])
    for process in running.values():
        process.close()
    result: dict[str, Any] = {"benchmark": "step", "shape": name, "batch": shape.batch}
    for side in sides:
        result[side] = {
            "images_per_second": round(statistics.median(rates[side]), 2),
            "lowest": round(min(rates[side]), 2),
            "highest": round(max(rates[side]), 2),
            "first_step_seconds": round(running[side].first, 1),
            "peak_rss_bytes": running[side].peak,
        }
    for side in sides:
        if side != "open_clip" and "open_clip" in sides:
            ratios = [a / b for a, b in zip(rates[side], rates["open_clip"])]
            result[f"{side}_over_open_clip"] = {
                "median": round(statistics.median(ratios), 3),
                "lowest": round(min(ratios), 3),
                "highest": round(max(ratios), 3),
            }
    return result | {
        "target_over_open_clip": shape.target,
        "turns": turns,
        "load_average": round(statistics.median(load), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["ours", "open_clip"])
    parser.add_argument("--turns", type=int, default=9, help="blocks of steps of each side")
    parser.add_argument("--block-seconds", type=float, default=3.0, help="length of a block")
    parser.add_argument("--work", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, SHAPES[options.shapes[0]])
        return
    for name in options.shapes:
        line = measure(name, options.sides, options.turns, options.block_seconds)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
