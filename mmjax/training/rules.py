"""Ordered rules over parameter paths that may also address the layers of a stack.

Blocks of a tower are stacked: one array holds a weight of all layers, its first axis is the depth.
A pattern may address layers by a slice in brackets directly behind the stacked component:
'image/blocks[0:6]/.*' decides for layers 0 to 5 of what 'image/blocks/.*' matches, [-2:] for the
last two, [3] for one. A later rule then has to decide for the other layers. So layer-wise rates
are rules like

  rate_rules=(('image/blocks[0:6]/.*', 0.1), ('image/blocks[6:]/.*', 0.5), ('.*', 1.0))
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmjax import paths

# [3], [0:6], [-2:], [:]; none of them is of use as a set of characters.
_LAYERS = re.compile(r"\[(-?\d+)\]|\[((?:-?\d+)?):((?:-?\d+)?)\]")


def names_layers(pattern: str) -> bool:
    """True where the pattern addresses layers of a stack."""
    return _LAYERS.search(pattern) is not None


def decide(
    rules: Sequence[tuple[str, float]], shapes: Mapping[str, tuple[int, ...]], what: str
) -> dict[str, Any]:
    """One multiplier for each array by ordered rules, or one for each layer of a stack.

    Args:
      rules: ordered (pattern, number); a pattern may end a component in a slice of layers.
      shapes: {path: shape} of all arrays.
      what: what the rules are for, named in errors.

    Returns:
      {path: number, or array [depth, 1, ...] that broadcasts over the layers}.

    Raises:
      ValueError: an array or a layer that no rule matches, a slice beyond the depth, or a rule
        that decides nothing.
    """
    if not any(names_layers(pattern) for pattern, _ in rules):
        return paths.choose(rules, shapes, what)
    for pattern, _ in rules:
        if len(_LAYERS.findall(pattern)) > 1:
            raise ValueError(f"{what}: {pattern!r} has two slices of layers; write two rules.")
    used = [False] * len(rules)
    chosen = {path: _decide_one(rules, path, shape, what, used) for path, shape in shapes.items()}
    for (pattern, _), hit in zip(rules, used):
        if not hit and pattern != ".*" and not pattern.startswith("(?#optional)"):
            raise ValueError(f"{what}: rule {pattern!r} decides nothing. Correct it or drop it.")
    return chosen


def whole(rules: Sequence[tuple[str, Any]], names: Iterable[str], what: str) -> dict[str, Any]:
    """{path: value} by ordered rules that decide for whole arrays alone.

    Raises:
      ValueError: a rule that addresses layers, a path that no rule matches, or a rule that never
        decides anything.
    """
    for pattern, _ in rules:
        if names_layers(pattern):
            raise ValueError(
                f"{what}: {pattern!r} addresses layers; these rules take whole arrays."
            )
    return paths.choose(rules, names, what)


def _decide_one(
    rules: Sequence[tuple[str, float]],
    path: str,
    shape: tuple[int, ...],
    what: str,
    used: list[bool],
) -> Any:
    """`decide` for one array; marks the rules that decided something in `used`."""
    layers: dict[int, float] = {}  # stays empty unless a rule addresses layers of this array
    for number, (pattern, value) in enumerate(rules):
        if not re.fullmatch(_LAYERS.sub("", pattern), path):
            continue
        addressed = _LAYERS.search(pattern)
        if addressed is None and not layers:
            used[number] = True
            return value
        depth = shape[0] if shape else 0
        covered = range(depth) if addressed is None else _covered(addressed, depth)
        if covered is None:
            raise ValueError(
                f"{what}: {pattern!r} addresses layers beyond the {depth} of {path!r} {shape}."
            )
        for layer in covered:
            if layer not in layers:
                layers[layer] = value
                used[number] = True
        if len(layers) == depth:
            values = np.array([layers[layer] for layer in range(depth)], np.float32)
            return values.reshape(depth, *[1] * (len(shape) - 1))
    missing = sorted(set(range(shape[0] if layers else 0)) - set(layers))
    raise ValueError(
        f"{what}: no rule matches {f'layers {missing} of ' if layers else ''}{path!r}. Add a rule, "
        "or end the list with ('.*', value)."
    )


def _covered(addressed: re.Match[str], depth: int) -> range | None:
    """The layers that a bracket means, or None where it reaches beyond the depth or is empty."""
    one, first, last = addressed.groups()
    if one is not None:
        start = int(one)
        start += depth if start < 0 else 0
        return range(start, start + 1) if 0 <= start < depth else None
    ends = [int(end) if end else default for end, default in ((first, 0), (last, depth))]
    start, stop = (end + depth if end < 0 else end for end in ends)
    return range(start, stop) if 0 <= start < stop <= depth else None
