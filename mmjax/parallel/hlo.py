"""A compiled program's text: its instructions, and how often each of them runs.

XLA counts the body of a loop once in all that it says of a program; a tower is a loop. So the text
is read here: computations, who calls whom, and how many times each loop goes round.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLS = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CARRIED = ("call", "conditional", "async-start")  # whose computations run as they stand


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      name: of its result.
      shape: of its result as text, layouts and memory spaces included.
      opcode: such as 'fusion' or 'all-reduce-start'.
      operands: names of what it reads.
      literal: what stands in its parentheses.
      rest: what follows them: attributes, metadata, backend_config.
      root: whether its result is its computation's.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    literal: str
    rest: str
    root: bool


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      computations: {name: {name of a result: its instruction}}.
      times: {computation: how often it runs}, of those that the chip runs instruction by
        instruction; a fused computation is part of its fusion and is not in it.
      unknown_loops: loops whose length does not stand in the text; their bodies count once.
    """

    computations: dict[str, Computation]
    times: dict[str, int]
    unknown_loops: int

    def running(self) -> Iterator[tuple[Computation, Instruction, int]]:
        """(its computation, an instruction that the chip runs, how often)."""
        for name, times in self.times.items():
            computation = self.computations[name]
            for instruction in computation.values():
                yield computation, instruction, times

    def fused(self, instruction: Instruction) -> Computation:
        """The computation inside a fusion; {} where it is none."""
        found = _CALLS.search(instruction.rest) if instruction.opcode == "fusion" else None
        return self.computations.get(found[1], {}) if found else {}


def read(text: str) -> Program:
    """Parses `compiled.as_text()`.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.startswith("}"):
            current = None
        elif line.startswith("  ") and current is not None:
            instruction = _instruction(line.strip())
            if instruction is not None:
                current[instruction.name] = instruction
        elif head := _HEAD.match(line):
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
    if not entry:
        raise ValueError("this is no text of a compiled program: it has no ENTRY.")
    times: dict[str, int] = {}
    unknown = _run(entry, 1, computations, times)
    return Program(computations, times, unknown)


def array_bytes(shape: str, memory: bool = False) -> int:
    """Bytes of all arrays in a shape's text.

    Args:
      shape: 'f32[8,128]{1,0:T(8,128)}' or a tuple of such.
      memory: leave out what lies in another memory space than the device's main memory.
    """
    total = 0
    for kind, sizes, layout in _ARRAY.findall(shape):
        if memory and re.search(r"S\(\d+\)", layout):
            continue
        total += -(-math.prod(map(int, sizes.split(",") if sizes else ())) * bits(kind) // 8)
    return total


def bits(kind: str) -> int:
    """Bits of an element of a type such as 'bf16'; 0 for what is no array ('token')."""
    if kind in _BITS:
        return _BITS[kind]
    found = re.match(r"[a-z]+(\d+)", kind)
    return int(found[1]) if found else 0


def operand_bytes(instruction: Instruction, computation: Computation) -> int:
    """Bytes of all that an instruction reads, whichever memory it lies in."""
    return sum(
        array_bytes(computation[name].shape) for name in instruction.operands if name in computation
    )


def _instruction(line: str) -> Instruction | None:
    root = line.startswith("ROOT ")
    name, found, rest = line.removeprefix("ROOT ").partition(" = ")
    if not found:
        return None
    end = _close(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    start = rest.find("(")
    if start < 0:
        return None
    stop = _close(rest, start)
    literal = rest[start + 1 : stop]
    return Instruction(
        name.lstrip("%"),
        shape,
        rest[:start],
        tuple(_NAME.findall(literal)),
        literal,
        rest[stop + 1 :],
        root,
    )


def _close(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return len(text)


def _run(name: str, times: int, computations: dict[str, Computation], found: dict[str, int]) -> int:
    """Adds up in `found` how often computations run; the number of loops of unknown length."""
    found[name] = found.get(name, 0) + times
    unknown = 0
    for instruction in computations.get(name, {}).values():
        if instruction.opcode == "while":
            trips = _trips(instruction, computations)
            unknown += trips is None
            for body in _CALLS.findall(instruction.rest):
                unknown += _run(body, times * (1 if trips is None else trips), computations, found)
        elif instruction.opcode in _CARRIED:
            called = _CALLS.findall(instruction.rest)
            for branches in _BRANCHES.findall(instruction.rest):
                called += [branch.strip().lstrip("%") for branch in branches.split(",")]
            for one in called:
                unknown += _run(one, times, computations, found)
    return unknown


def _trips(loop: Instruction, computations: dict[str, Computation]) -> int | None:
    """How often a loop goes round: as XLA notes it, or the number its condition compares with."""
    known = _TRIPS.search(loop.rest)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    test = computations.get(condition[1], {}) if condition else {}
    root = next((one for one in test.values() if one.root), None)
    if root is None or root.opcode != "compare" or "direction=LT" not in root.rest:
        return None
    limits = [
        int(test[name].literal)
        for name in root.operands
        if name in test and test[name].opcode == "constant" and test[name].literal.isdigit()
    ]
    return limits[0] if len(limits) == 1 else None
