"""SigLIP steps compiled for TPUs that are not here, beside what big_vision's compile to.

    pip install -e '.[tpu]'                           # libtpu compiles, nothing runs
    python benchmarks/tpu_plan.py                     # all rows; a compile takes minutes
    python benchmarks/tpu_plan.py --rows b16-4096 so400m
    python benchmarks/tpu_plan.py --loss              # the loss alone on 16, 64 and 256 chips
    python benchmarks/tpu_plan.py --largest b16-4096  # the most rows a chip holds, by bisection

One JSON line for each row. `peak` is what a chip needs of its memory; `seconds` are the compiler's
estimated cycles over the chip's clock, which leave waiting for other chips out, on both sides.
Wanted beside big_vision: half of its memory in no more time, or 0.7 of its time in the same
memory. `useful_over_executed` counts matrix products from shapes; wanted .92 where memory allows.

big_vision's figures were made the same way: as of 2025-05, repaired to run on jax 0.10, the image
tower in bfloat16 and the text tower in float32, Adam with its first moment in bfloat16.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from mmjax.config import override
from mmjax.parallel.accelerator import leave_out_tpu
from mmjax.parallel.topologies import open_topology
from mmjax.run.config_file import load
from mmjax.run.plan_numbers import compiled_for, loss_bytes, numbers

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"
GIB = 1 << 30
STEP = 64  # rows of a chip, in which the largest batch is looked for


@dataclasses.dataclass(frozen=True)
class Row:
    """A step to compile, and what big_vision's needs.

    Attributes:
      topology: the chips.
      config: its file.
      overrides: of the config.
      peer_gib: of a chip, None where it does not fit or was not compiled.
      peer_seconds: a step by estimated cycles.
      peer_useful: useful over executed FLOPs.
    """

    topology: str
    config: str
    overrides: Mapping[str, Any]
    peer_gib: float | None = None
    peer_seconds: float | None = None
    peer_useful: float | None = None


MOMENTS = {"optimizer.mu_dtype": "bfloat16"}
# 32 rows of a chip at a time: what a block computes then stays in the chip's own memory.
TOWERS = ("image", "text")
DOTS = {f"model.{tower}.remat": "dots_no_batch" for tower in TOWERS}
EIGHTHS = {"micro_batches": 8, **DOTS, **MOMENTS}
SIXTEENTHS = {"micro_batches": 16, "mesh.fsdp": 8, **DOTS, **MOMENTS}
LARGE = {"dim": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096}
L16 = {f"model.{tower}.{key}": n for tower in TOWERS for key, n in LARGE.items()}
L16 |= {"model.embed_dim": 1024}
ROWS = {
    "b16-4096": Row("v5e:4x4", "vit_b16", {"batch_size": 4096, **EIGHTHS}, 14.6, 0.69, 0.89),
    "b16-16384-whole": Row(
        "v5e:8x8", "vit_b16", {"batch_size": 16_384, **EIGHTHS}, 7.3, 0.78, 0.82
    ),
    "b16-16384": Row("v5e:8x8", "vit_b16", {"batch_size": 16_384, **SIXTEENTHS}, 4.0, 0.75, 0.83),
    "l16-16384": Row(
        "v5e:8x8", "vit_b16", {"batch_size": 16_384, **SIXTEENTHS, **L16}, 9.9, 2.24, 0.82
    ),
    "so400m": Row("v5e:16x16", "siglip_so400m", {"batch_size": 16_384}),
    "b16-32768": Row("v5e:16x16", "vit_b16", {"batch_size": 32_768, **DOTS, **MOMENTS}),
}


def prepared(row: Row, rows_a_chip: int = 0) -> tuple[Any, Any, Any]:
    """Config, step and topology of a row, with its own batch or another."""
    config = load(str(CONFIGS / f"{row.config}.py"))
    topology = open_topology(row.topology)
    values = dict(row.overrides)
    if rows_a_chip:
        values["batch_size"] = rows_a_chip * len(topology.devices)
    for key, value in values.items():
        override(config, key, str(value))
    return config, compiled_for(config, topology), topology


def made(row: Row, rows_a_chip: int = 0) -> dict[str, Any]:
    """The numbers of a row's plan."""
    with contextlib.redirect_stdout(sys.stderr):  # what is said; the lines are for programs
        return numbers(*prepared(row, rows_a_chip))


def measure(name: str, row: Row) -> dict[str, Any]:
    plan = made(row)
    cycles = plan["by"].get("estimated_cycles", {})
    peak, seconds = plan["bytes"]["peak"] / GIB, cycles.get("seconds")
    line = {
        "benchmark": "tpu_plan",
        "row": name,
        "topology": row.topology,
        "overrides": dict(row.overrides),
        "fits": plan["fits"],
        "peak_gib": round(peak, 2),
        "loss_bytes": plan["bytes"]["loss"],
        "seconds": seconds and round(seconds, 4),
        "roofline_seconds": round(plan["by"]["roofline"]["seconds"], 4),
        "mfu": cycles and round(cycles["mfu"], 3),
        "useful_over_executed": round(plan["flops"]["useful"] / plan["flops"]["executed"], 3),
        "peer_gib": row.peer_gib,
        "peer_seconds": row.peer_seconds,
        "peer_useful_over_executed": row.peer_useful,
        "passed": plan["fits"],
    }
    if row.peer_gib and seconds:
        memory, time = peak / row.peer_gib, seconds / row.peer_seconds
        line["memory_over_peer"], line["seconds_over_peer"] = round(memory, 3), round(time, 3)
        line["passed"] = (memory <= 0.5 and time <= 1) or (memory <= 1 and time <= 0.7)
    return line


def loss_alone() -> dict[str, Any]:
    """What comparing over a ring needs with 256 rows a chip on 16, 64 and 256 chips."""
    sizes = {}
    ring = {**ROWS["b16-4096"].overrides, "goals.sigmoid.objective.comparison": "ring"}
    for topology in ("v5e:4x4", "v5e:8x8", "v5e:16x16"):
        row = Row(topology, "vit_b16", ring)
        _, compiled, chips = prepared(row, 256)
        sizes[topology] = loss_bytes(compiled, chips)
    largest, smallest = max(sizes.values()), min(sizes.values())
    return {
        "benchmark": "tpu_plan_loss",
        "rows_a_chip": 256,
        "bytes": sizes,
        "largest_over_smallest": round(largest / smallest, 4),
        "passed": largest <= 1.05 * smallest,
    }


def largest(name: str, row: Row) -> dict[str, Any]:
    """The most rows a chip holds, in steps of `STEP`."""

    def fits(rows: int) -> bool:
        plan = made(row, rows)
        tried[rows] = round(plan["bytes"]["peak"] / GIB, 2)
        return bool(plan["fits"])

    tried: dict[int, float] = {}
    chips = math.prod(map(int, row.topology.split(":")[1].split("x")))
    low, high = 0, row.overrides["batch_size"] // chips
    while fits(high):
        low, high = high, 2 * high
    while high - low > STEP:
        middle = (low + high) // 2 // STEP * STEP
        low, high = (middle, high) if fits(middle) else (low, middle)
    return {
        "benchmark": "tpu_plan_largest",
        "row": name,
        "rows_a_chip": low,
        "batch": low * chips,
        "peak_gib_by_rows": dict(sorted(tried.items())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--loss", action="store_true", help="the loss alone, and nothing else")
    parser.add_argument("--largest", choices=ROWS, help="the largest batch of this row")
    options = parser.parse_args()
    leave_out_tpu()
    if options.loss:
        print(json.dumps(loss_alone()), flush=True)
    elif options.largest:
        print(json.dumps(largest(options.largest, ROWS[options.largest])), flush=True)
    else:
        for name in options.rows:
            print(json.dumps(measure(name, ROWS[name])), flush=True)


if __name__ == "__main__":
    main()
