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
import statistics
import sys
import time
from typing import Any

import peer
from sides import (
    PAUSE_SECONDS,
    Side,
    in_turn,
    our_step,
    ratios,
    serve,
    spread,
    steps_of_a_block,
    their_step,
)

SIDES = ("ours", "ours_bfloat16", "open_clip", "open_clip_bfloat16")


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


def work(side: str, shape: Shape) -> None:
    """The side's process."""
    dtype = "bfloat16" if side.endswith("bfloat16") else "float32"
    if side.startswith("ours"):
        from mmjax.parallel.cpu import keep_freed_memory

        keep_freed_memory()  # as the trainer does
        serve(lambda: our_step(shape.size, shape.batch, dtype))
    else:
        serve(lambda: their_step(shape.size, shape.batch, dtype))


def measure(name: str, sides: list[str], turns: int, block_seconds: float) -> dict[str, Any]:
    """The rates of all sides at one shape."""
    shape = SHAPES[name]
    command = [sys.executable, os.path.abspath(__file__), "--shapes", name, "--work"]
    running = {side: Side([*command, side]) for side in sides}  # one after the other
    rates: dict[str, list[float]] = {side: [] for side in sides}
    steps = {side: steps_of_a_block(one, block_seconds) for side, one in running.items()}
    load = []
    for turn in range(turns):
        for side in in_turn(sides, turn):
            seconds = running[side].seconds(steps[side])
            rates[side].append(shape.batch * steps[side] / seconds)
            time.sleep(PAUSE_SECONDS)
        load.append(os.getloadavg()[0])
    for process in running.values():
        process.close()
    result: dict[str, Any] = {"benchmark": "step", "shape": name, "batch": shape.batch}
    for side in sides:
        rate = spread(rates[side], 2)
        result[side] = {
            "images_per_second": rate.pop("median"),
            **rate,
            "first_step_seconds": round(running[side].first, 1),
            "peak_rss_bytes": running[side].peak,
        }
    for side in sides:
        if side != "open_clip" and "open_clip" in sides:
            result[f"{side}_over_open_clip"] = ratios(rates[side], rates["open_clip"])
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
