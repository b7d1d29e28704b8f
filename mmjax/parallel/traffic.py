"""What a compiled program moves: bytes between devices by mesh axis, bytes to and from memory."""

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh

from mmjax.parallel.hlo import (
    Computation,
    Instruction,
    Program,
    array_bytes,
    operand_bytes,
)

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call")
_FREE += ("conditional", "iota", "after-all", "partition-id", "replica-id", "opt-barrier")


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind over the same mesh axes.

    Attributes:
      kind: one of `KINDS`.
      axes: mesh axes along which devices exchange.
      times: how many run in a step.
      sent_bytes: that a device sends in a step, as the best algorithm on a ring does.
      network_bytes: the part of them that goes between slices.
    """

    kind: str
    axes: tuple[str, ...]
    times: int
    sent_bytes: float
    network_bytes: float


def collectives(program: Program, mesh: Mesh) -> list[Collective]:
    """What devices exchange in a step, the most bytes first."""
    found: dict[tuple[str, tuple[str, ...]], np.ndarray] = {}
    for kind, groups, size, times in _exchanges(program, mesh):
        axes = tuple(name for name in mesh.axis_names if name in _axes(groups, mesh))
        group = np.unique(groups) if kind == "collective-permute" else groups[0]
        if not axes:
            continue
        sent = _sent(kind, len(group), size)
        between = sent * _share_between(group, kind, mesh)
        total = found.setdefault((kind, axes), np.zeros(3))
        total += np.array([times, times * sent, times * between])
    made = [
        Collective(*key, int(n), float(sent), float(far)) for key, (n, sent, far) in found.items()
    ]
    return sorted(made, key=lambda one: -one.sent_bytes)


def memory_bytes(program: Program) -> float:
    """Bytes that a device reads from and writes to its main memory in a step.

    Each instruction that runs reads its operands and writes its result once. What lies in the
    chip's own memory is left out; of an array that is only sliced or updated in place, as the
    stacks of a loop are, the slice counts.
    """
    total = 0.0
    for computation, instruction, times in program.running():
        if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
            continue
        total += times * _touched(program, computation, instruction)
    return total


def estimated_cycles(program: Program) -> int:
    """The compiler's own estimates, of all instructions that run; 0 where it gives none."""
    total = 0
    for _, instruction, times in program.running():
        found = re.search(r'"estimated_cycles":"(\d+)"', instruction.rest)
        total += times * int(found[1]) if found else 0
    return total


def _exchanges(program: Program, mesh: Mesh) -> Iterator[tuple[str, np.ndarray, int, int]]:
    """(kind, groups of devices, bytes of a device's operands, times) of each collective."""
    for computation, instruction, times in program.running():
        for inside, one in ((computation, instruction), *_within(program, instruction)):
            kind = one.opcode.removesuffix("-start")
            # Sent a part at a time beside other work: each part shows the collective again.
            if kind in KINDS and ("chain_id=" not in one.rest or _begins(inside)):
                yield kind, _groups(one, mesh), operand_bytes(one, inside), times


def _within(program: Program, fusion: Instruction) -> Iterator[tuple[Computation, Instruction]]:
    computation = program.fused(fusion)
    for one in computation.values():
        yield computation, one


def _begins(computation: Computation) -> bool:
    """Whether this piece of a collective that is sent in parts is its first."""
    return any('"AsyncCollectiveStart"' in one.rest for one in computation.values())


def _groups(collective: Instruction, mesh: Mesh) -> np.ndarray:
    """[groups, devices]: numbers, in the mesh's order, of those that exchange with each other."""
    listed = re.search(r"(?:source_target_pairs|replica_groups)=\{(\{.*?\})\}", collective.rest)
    if listed:
        inside = re.findall(r"\{([\d,]+)\}", listed[1])
        return np.array([[int(number) for number in one.split(",")] for one in inside])
    iota = re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", collective.rest
    )
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
        r" \{([^}]*)\}",
        collective.rest,
    )
    if named:
        return _groups_of_axes(*named.groups())
    if iota is None and re.search(r"replica_groups=(?!\{\})", collective.rest):
        raise ValueError(f"groups that are not understood: {collective.rest[:200]}")
    if iota is None:
        return np.arange(mesh.size)[None]
    shape, dims, order = (tuple(map(int, x.split(","))) if x else () for x in iota.groups())
    numbers = np.arange(np.prod(dims)).reshape(dims)
    return (numbers.transpose(order) if order else numbers).reshape(shape)


def _groups_of_axes(mesh: str, dims: str | None, order: str | None, along: str) -> np.ndarray:
    """The groups of XLA's own small mesh: "'a'=4,'b'=2", its devices' order, and "'b'"."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh)}
    axes = re.findall(r"'(\w+)'", along)
    if ":" in along or not axes:
        raise ValueError(f"groups that are not understood: {along!r} of {mesh!r}.")
    numbers = np.arange(math.prod(sizes.values()))
    if dims:
        numbers = numbers.reshape([int(size) for size in dims.split(",")])
        numbers = numbers.transpose([int(axis) for axis in order.split(",")] if order else None)
    numbers = numbers.reshape(list(sizes.values()))
    last = range(-len(axes), 0)
    numbers = np.moveaxis(numbers, [list(sizes).index(axis) for axis in axes], last)
    return numbers.reshape(-1, math.prod(sizes[axis] for axis in axes))


def _axes(groups: np.ndarray, mesh: Mesh) -> set[str]:
    """The mesh axes along which the devices of a group differ."""
    places = np.unravel_index(groups, mesh.devices.shape)  # an array like `groups` for each axis
    return {name for name, place in zip(mesh.axis_names, places) if (place != place[:, :1]).any()}


def _sent(kind: str, ways: int, size: int) -> float:
    """Bytes that each of `ways` devices sends, with `size` bytes of operands each."""
    parts = {
        "all-reduce": 2 * (ways - 1) / ways,
        "all-gather": ways - 1.0,
        "reduce-scatter": (ways - 1) / ways,
        "all-to-all": (ways - 1) / ways,
        "collective-permute": 1.0,
    }
    return parts[kind] * size


def _share_between(group: np.ndarray, kind: str, mesh: Mesh) -> float:
    """The part of what a device sends that goes to another slice.

    Within a slice first, between slices then each device its own part: so an exchange over s slices
    of m devices each sends (s - 1) / s of a part of 1 / m, to (s·m - 1) / (s·m) of the whole.
    """
    slices = [getattr(mesh.devices.flat[n], "slice_index", None) for n in group]
    number, ways = len(set(slices)), len(group)
    if number == 1:
        return 0.0
    if kind == "collective-permute":
        return number / ways  # a ring leaves each slice once
    return (number - 1) / (ways - 1)


def _touched(program: Program, computation: Computation, one: Instruction) -> int:
    """Bytes of main memory that one run of an instruction reads and writes."""
    if one.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * array_bytes(one.shape, memory=True)
    if one.opcode == "dynamic-update-slice":
        update = computation.get(one.operands[1])
        return 2 * array_bytes(update.shape, memory=True) if update else 0
    written = array_bytes(one.shape, memory=True)
    read = [
        array_bytes(computation[name].shape, memory=True) if name in computation else 0
        for name in one.operands
    ]
    inside = program.fused(one)
    if inside:
        read = [min(size, _read_inside(inside, n)) for n, size in enumerate(read)]
        written = min(written, _written_inside(inside))
    return written + sum(read)


def _read_inside(inside: Computation, number: int) -> int:
    """Bytes of a fusion's operand that it reads, where it only slices or updates it."""
    parameter = next(
        (o for o in inside.values() if o.opcode == "parameter" and o.literal == str(number)), None
    )
    if parameter is None:
        return 1 << 62
    users = [one for one in inside.values() if parameter.name in one.operands]
    total = 0
    for user in users:
        if user.opcode in ("dynamic-slice", "slice", "gather"):
            total += array_bytes(user.shape)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name:
            total += 0  # it is written in place
        else:
            return 1 << 62
    return total


def _written_inside(inside: Computation) -> int:
    """Bytes that a fusion writes, where its result is an array updated in place."""
    root = next((one for one in inside.values() if one.root), None)
    while root is not None and root.opcode in ("bitcast", "copy"):
        root = inside.get(root.operands[0]) if root.operands else None
    if root is not None and root.opcode == "dynamic-update-slice":
        update = inside.get(root.operands[1])
        return array_bytes(update.shape) if update else 1 << 62
    return 1 << 62
