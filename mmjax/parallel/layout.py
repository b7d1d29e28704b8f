"""How the state lies on the mesh: ordered rules over paths, and what they came to.

A rule is (path pattern, spec). A spec has an entry for each of the array's last dimensions, so a
rule is the same for one layer and for a stack: None (whole), a mesh axis, or a tuple of axes. The
state's parts end in the same paths ('params/image/...', 'opt_state/adam/mu/image/...',
'ema/image/...'), so one rule decides for a parameter and all that belongs to it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh, PartitionSpec

from mmjax.paths import Rules, check_rules, choose, flatten

KEPT_WHOLE = "whole"  # instead of a spec: whole on each device, however large

WHOLE: Rules = ((".*", ()),)

# For all towers of this package. Layers that widen are cut by `tensor` along what they make, layers
# that narrow along what they read, so that between the two nothing is exchanged (Shoeybi et al.,
# "Megatron-LM", section 3). `fsdp` cuts the other dimension. With axes of size 1 it means whole.
TOWERS: Rules = (
    (r"(?#optional)(.*/)?v_(row|col)/.*", ()),  # means over a kernel's columns or rows: small
    # As many scores as there are answers or classes, a number that nothing need divide.
    (
        r"(?#optional)(.*/)?((scene_)?answer|class|regions)_head/(.*/)?kernel",
        (("tensor", "fsdp"), None),
    ),
    (r"(?#optional)(.*/)?head/kernel", (("tensor", "fsdp"), None)),
    (r"(?#optional)(.*/)?(query|key|value|up)/kernel", ("fsdp", "tensor")),
    (r"(?#optional)(.*/)?(query|key|value|up)/bias", ("tensor",)),
    (r"(?#optional)(.*/)?kernel", ("tensor", "fsdp")),
    (r"(?#optional)(.*/)?((token|output)_)?embedding", ("tensor", "fsdp")),
    (r"(?#optional)(.*/)?position_embedding", (None, "fsdp")),
    (".*", ()),
)

WHOLE_ABOVE_BYTES = 4 << 20  # no bias, norm or position table of the published towers is larger


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where one array of the state lies.

    Attributes:
      path: of the array.
      shape: of the whole array.
      itemsize: bytes of an element.
      spec: mesh axes for each dimension; () where it is whole on each device.
      ways: number of different parts.
      fallbacks: what the rule asks for and the shape does not allow, in words.
      kept_whole: the rule says that it may be whole, however large.
    """

    path: str
    shape: tuple[int, ...]
    itemsize: int
    spec: PartitionSpec
    ways: int
    fallbacks: tuple[str, ...] = ()
    kept_whole: bool = False

    @property
    def bytes(self) -> int:
        """Of the whole array."""
        return math.prod(self.shape) * self.itemsize

    @property
    def device_bytes(self) -> int:
        """Of the part on one device."""
        return self.bytes // self.ways


def lay_out(
    tree: Any, mesh: Mesh, rules: Rules = (), whole_above_bytes: int = WHOLE_ABOVE_BYTES
) -> dict[str, Placement]:
    """{path: Placement} of all arrays of a state, in the tree's order.

    An axis that does not divide its dimension leaves it whole, which the placement tells.

    Args:
      tree: arrays or their shapes (`jax.eval_shape`).
      mesh: the run's mesh.
      rules: ordered (path pattern, spec or 'whole'), tried before `TOWERS`.
      whole_above_bytes: most bytes of an array that may lie whole on each device where `fsdp` or
        `tensor` are above 1; 0 allows any.

    Raises:
      ValueError: a rule that decides nothing (unless it begins with '(?#optional)'), a spec that
        does not fit its array, or an array that is whole and too large for that.
    """
    flat = flatten(tree)
    check_rules(rules, "sharding_rules")
    rules = (*rules, *TOWERS)
    for pattern, spec in rules:
        _check_spec(pattern, spec, mesh)
    chosen = choose(rules, flat, "sharding_rules")
    placements = {path: _place(path, leaf, chosen[path], mesh) for path, leaf in flat.items()}
    if mesh.shape["fsdp"] * mesh.shape["tensor"] > 1 and whole_above_bytes:
        _check_whole(placements.values(), whole_above_bytes)
    return placements


def fallbacks(placements: Mapping[str, Placement]) -> list[str]:
    """A line for each array of the parameters that an axis does not divide.

    What belongs to a parameter (moments, moving average) falls back as it does, and is not told.
    """
    return [
        f"{one.path} {one.shape}: {', '.join(one.fallbacks)}."
        for one in placements.values()
        if one.fallbacks and not one.path.startswith(("opt_state/", "ema/"))
    ]


def _check_spec(pattern: str, spec: Any, mesh: Mesh) -> None:
    """Raises ValueError where a spec names what is no axis, or one axis twice."""
    if spec == KEPT_WHOLE:
        return
    entries = () if isinstance(spec, str) else spec
    named = [axis for entry in entries for axis in _axes(entry)]
    unknown = [axis for axis in named if axis not in mesh.axis_names]
    if isinstance(spec, str) or unknown or len(set(named)) < len(named):
        raise ValueError(
            f"sharding_rules: ({pattern!r}, {spec!r}) is no spec. Give an entry for each of the "
            f"last dimensions: None or one of {', '.join(mesh.axis_names)} or a tuple of these, "
            f"each axis once; or {KEPT_WHOLE!r} for an array that may be whole however large."
        )


def _axes(entry: Any) -> tuple[str, ...]:
    """The axes of one entry of a spec."""
    if entry is None:
        return ()
    return tuple(entry) if isinstance(entry, Sequence) and not isinstance(entry, str) else (entry,)


def _place(path: str, leaf: Any, spec: Any, mesh: Mesh) -> Placement:
    """The placement of one array by its rule."""
    shape, itemsize = tuple(leaf.shape), np.dtype(leaf.dtype).itemsize
    kept_whole = spec == KEPT_WHOLE
    if kept_whole or math.prod(shape) <= 1:  # optimizers hold the place of what they lack by one
        return Placement(path, shape, itemsize, PartitionSpec(), 1, kept_whole=kept_whole)
    if len(spec) > len(shape):
        raise ValueError(
            f"sharding_rules: {spec} has {len(spec)} dimensions, {path!r} has {len(shape)} {shape}."
        )
    entries, lost, ways = [], [], 1
    for size, entry in zip(shape, (None,) * (len(shape) - len(spec)) + tuple(spec)):
        kept: tuple[str, ...] = ()
        for axis in _axes(entry):
            parts = mesh.shape[axis]
            if size % (parts * math.prod(mesh.shape[name] for name in kept)):
                lost.append(f"{axis}={parts} does not divide {size}, so it stays whole there")
            elif parts > 1:
                kept = (*kept, axis)
                ways *= parts
        entries.append(kept if len(kept) > 1 else kept[0] if kept else None)
    spec = PartitionSpec(*entries) if ways > 1 else PartitionSpec()
    return Placement(path, shape, itemsize, spec, ways, tuple(lost))


def _check_whole(placements: Any, limit: int) -> None:
    """Raises ValueError where an array above the limit is whole on each device."""
    large = [
        one for one in placements if one.ways == 1 and one.bytes > limit and not one.kept_whole
    ]
    if not large:
        return
    first = max(large, key=lambda one: one.bytes)
    why = ", ".join(first.fallbacks) or "no rule cuts it"
    raise ValueError(
        f"{len(large)} arrays above whole_above_bytes={limit:,} would lie whole on each device, "
        f"the largest is {first.path!r} {first.shape} of {first.bytes:,} bytes ({why}). Take a "
        f"mesh that divides it, add a rule to sharding_rules, or let it be whole by the rule "
        f"({first.path!r}, {KEPT_WHOLE!r})."
    )
