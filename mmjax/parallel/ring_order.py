"""In which order a ring goes through the chips: each the neighbour of the one before.

A TPU's chips stand in a grid, and a mesh numbers them row by row. From the end of one row to the
start of the next is a long way, and with one such hop among them XLA waits for every hop of the
ring instead of sending while it computes.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh


def ring_order(mesh: Mesh) -> tuple[int, ...]:
    """The order of the parts into which the mesh (data, fsdp, tensor) cuts the batch."""
    return order_of(list(mesh.devices.reshape(-1, mesh.shape["tensor"])[:, 0]))


def order_of(devices: Sequence[Any]) -> tuple[int, ...]:
    """Numbers of the devices in the order in which they hand on, the last one to the first.

    Args:
      devices: TPUs have a place in the grid, `coords`. Where there is none, or the places fill no
        grid with an even side, the order is 0, 1, 2, ...
    """
    places = [getattr(device, "coords", None) for device in devices]
    plain = tuple(range(len(devices)))
    if any(place is None for place in places):
        return plain
    slices: dict[Any, dict[tuple[int, ...], int]] = {}
    for number, (device, place) in enumerate(zip(devices, places)):
        inside = slices.setdefault(getattr(device, "slice_index", 0), {})
        inside[tuple(place)] = number
    order: list[int] = []
    for _, inside in sorted(slices.items()):
        sides = [sorted(set(side)) for side in zip(*inside)]
        cycle = _cycle(sides)
        if cycle is None or len(cycle) != len(inside):
            return plain
        order += [inside[place] for place in cycle]
    return tuple(order) if len(order) == len(devices) else plain


def _cycle(sides: Sequence[Sequence[int]]) -> list[tuple[int, ...]] | None:
    """A way through all places of a grid, by neighbours only, that ends beside its start."""
    long = [number for number, side in enumerate(sides) if len(side) > 1]
    if len(long) < 2:
        return list(itertools.product(*sides))  # a row: its ends are as near as they can be
    even = next((number for number in reversed(long) if len(sides[number]) % 2 == 0), None)
    if even is None:
        return None
    others = [side for number, side in enumerate(sides) if number != even]
    across = _snake(others)
    flat = [(place, step) for place in across[:1] for step in sides[even]]  # out along one edge
    for turn, step in enumerate(reversed(sides[even])):  # and back in rows beside it
        row = across[1:] if turn % 2 == 0 else across[:0:-1]
        flat += [(place, step) for place in row]
    return [(*place[:even], step, *place[even:]) for place, step in flat]


def _snake(sides: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """A way through all places of a grid by neighbours, from one corner."""
    if not sides:
        return [()]
    rest = _snake(sides[1:])
    return [
        (first, *place)
        for turn, first in enumerate(sides[0])
        for place in (rest if turn % 2 == 0 else rest[::-1])
    ]
