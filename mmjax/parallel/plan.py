"""What one compiled step will need and take on devices that need not be here."""

import dataclasses
import math
import re
from typing import Any

import jax
from jax.sharding import Mesh

from mmjax.parallel import compilation, hlo, traffic
from mmjax.parallel.chips import Chip
from mmjax.parallel.layout import Placement

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_PARTS = {"params": "parameters", "opt_state": "optimizer", "ema": "moving average"}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the compiler says of a program; numbers are of one device and one step.

    Attributes:
      error: why it does not fit, in the compiler's words; '' where it fits. Then the rest is empty.
      peak_bytes: most memory in use at once.
      argument_bytes: of state and batch as they lie there, padding included.
      temporary_bytes: of all that lives within the step alone.
      needed_bytes, available_bytes: of the error, 0 where it gives none.
      memory_bytes: read from and written to main memory.
      cycles: the compiler's estimate, 0 where it gives none; waiting for others is not in it.
      collectives: what is exchanged.
      unknown_loops: loops that count once because their length is not known.
    """

    error: str = ""
    peak_bytes: int = 0
    argument_bytes: int = 0
    temporary_bytes: int = 0
    needed_bytes: int = 0
    available_bytes: int = 0
    memory_bytes: float = 0.0
    cycles: int = 0
    collectives: tuple[traffic.Collective, ...] = ()
    unknown_loops: int = 0


def compile_facts(lowered: Any, mesh: Mesh) -> Facts:
    """Compiles a lowered step and reads what the compiler made of it.

    Raises:
      jax.errors.JaxRuntimeError: what has nothing to do with memory.
    """
    try:
        with compilation.no_cache():
            made = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        line = " ".join(str(error).split())
        if "RESOURCE_EXHAUSTED" not in line:
            raise
        return Facts(error=line[:400], **_said(line))
    memory = made.memory_analysis()
    program = hlo.read(made.as_text())
    parts = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    parts += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Facts(
        peak_bytes=max(memory.peak_memory_in_bytes, parts),  # the first lacks the donated state
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        memory_bytes=traffic.memory_bytes(program),
        cycles=traffic.estimated_cycles(program),
        collectives=tuple(traffic.collectives(program, mesh)),
        unknown_loops=program.unknown_loops,
    )


def _said(line: str) -> dict[str, int]:
    """Bytes that an out-of-memory message names."""
    size = r"([\d.]+)([KMGT])"
    found = re.search(rf"\({size}\) exceeds available HBM \({size}\)", line)
    found = found or re.search(rf"Used {size} of {size} hbm", line)
    if not found:
        return {}
    needed, unit, there, of = found.groups()
    return {
        "needed_bytes": round(float(needed) * _UNITS[unit]),
        "available_bytes": round(float(there) * _UNITS[of]),
    }


def alone_bytes(lowered: Any) -> int:
    """Bytes that a small function needs beside what it is given; its gradients count."""
    with compilation.no_cache():
        memory = lowered.compile().memory_analysis()
    return max(
        memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        memory.peak_memory_in_bytes - memory.argument_size_in_bytes,
    )


def state_bytes(layout: dict[str, Placement], batches: Any, mesh: Mesh) -> dict[str, int]:
    """Bytes on one device by kind of all that a step is given, from shapes alone."""
    kinds = dict.fromkeys((*_PARTS.values(), "rest of the state"), 0)
    for path, place in layout.items():
        kinds[_PARTS.get(path.split("/")[0], "rest of the state")] += place.device_bytes
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    whole = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(batches))
    return {**kinds, "batch": whole // shards}


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a step if nothing but this held it up; None where a figure is not known."""

    compute: float | None
    memory: float | None
    interconnect: float | None
    network: float | None
    cycles: float | None

    @property
    def roofline(self) -> float | None:
        """The longest of them, as if all the others went on beside it; None where memory's is not
        known, which is the longest as a rule."""
        known = [x for x in (self.compute, self.memory, self.interconnect, self.network) if x]
        return max(known) if self.compute and self.memory else None


def times(facts: Facts, executed_flops: float, chip: Chip | None, devices: int) -> Times:
    """How long a step takes by each of the chip's published rates.

    Args:
      facts: of the compiled step; where it does not fit, only the arithmetic is known.
      executed_flops: over all devices, with what is computed twice.
      chip: of one device, None where it is not known.
      devices: how many.
    """
    if chip is None:
        return Times(None, None, None, None, None)
    if facts.error:
        return Times(executed_flops / devices / chip.flops, None, None, None, None)
    near = sum((one.sent_bytes - one.network_bytes for one in facts.collectives), 0.0)
    far = sum((one.network_bytes for one in facts.collectives), 0.0)
    cycles = facts.cycles / chip.clock if facts.cycles and chip.clock else None
    return Times(
        executed_flops / devices / chip.flops,
        _seconds(facts.memory_bytes, chip.hbm_bandwidth),
        _seconds(near, chip.link_bandwidth),
        _seconds(far, chip.network_bandwidth),
        cycles,
    )


def _seconds(size: float, rate: float | None) -> float | None:
    return size / rate if rate else None
