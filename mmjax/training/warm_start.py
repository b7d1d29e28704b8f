"""A new run that begins with another one's parameters, by ordered rename and skip rules."""

import re
from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import jax.numpy as jnp
import numpy as np

from mmjax import paths
from mmjax.models.layers.positions import resize
from mmjax.typing import PyTree


def warm_start(
    params: PyTree,
    statistics: PyTree,
    theirs: tuple[PyTree, PyTree],
    source: str,
    rules: Sequence[tuple[str, str]],
    fresh: Sequence[str] = (),
) -> tuple[PyTree, PyTree]:
    """Another run's parameters and running statistics in our trees; the rest starts anew.

    Nothing is left over silently: each array of the source is renamed or skipped by the first rule
    that matches it, and each array of ours gets a value or is named in `fresh`. The same rules
    serve both trees, since a norm's mean lies beside its scale.

    Args:
      params: the new run's parameters as initialised, or their shapes.
      statistics: its running statistics, or their shapes; {} for none.
      theirs: (parameters, running statistics) of the source.
      source: what to call it in errors.
      rules: ordered (pattern of a source path, our path with groups as in `re.sub`, or '' to skip).
        Of a stack of layers a part may be taken, and an array may go to several places with ';'
        between them: r'text/blocks/\1[:6];crossings/text/\1[6:]'.
      fresh: patterns of our arrays that keep their initialisation.

    Returns:
      (parameters, statistics), of numpy arrays where values came from the source.

    Raises:
      ValueError: arrays left over on either side, two for one place, or a shape that cannot be made
        fit.
    """
    ours = [path for tree in (params, statistics) for path in paths.flatten(tree)]
    for pattern in fresh:
        found = any(re.fullmatch(pattern, path) for path in ours)
        if not found and not pattern.startswith("(?#optional)"):
            raise ValueError(
                f"init_fresh: {pattern!r} is the path of no array of ours, such as {_some(ours)}."
            )
    pairs = zip((params, statistics), theirs, ("parameters", "running statistics"), strict=True)
    filled = [_fill(ours, given, rules, fresh, source, what) for ours, given, what in pairs]
    return filled[0], filled[1]


def _fill(
    tree: PyTree,
    source: PyTree,
    rules: Sequence[tuple[str, str]],
    fresh: Sequence[str],
    name: str,
    what: str,
) -> PyTree:
    """`tree` with the values of `source`, by the rules of `warm_start`."""
    ours, given = paths.flatten(tree), paths.flatten(source)
    made: dict[str, Any] = {}
    lost = []
    for path, value in given.items():
        targets = _targets(rules, path)
        if targets is None:
            lost.append(path)
            continue
        for target, part in targets:
            if target not in ours:
                lost.append(f"{path} -> {target}")
            elif target in made:
                raise ValueError(
                    f"init_from={name}: {path} is the second array that init_rules send to "
                    f"{target}; send one of them elsewhere, or skip it with ('pattern', '')."
                )
            else:
                made[target] = fit(target, np.asarray(value)[part], ours[target])
    if lost:
        raise ValueError(
            f"init_from={name}: no place for {len(lost)} of {len(given)} {what}: {_some(lost)}. "
            "Rename them in init_rules, or skip them with ('pattern', '')."
        )
    empty = [path for path in ours if path not in made and not _matches(fresh, path)]
    if empty:
        raise ValueError(
            f"init_from={name}: nothing for {len(empty)} of our {len(ours)} {what}: "
            f"{_some(empty)}. Rename others to them in init_rules, or name them in init_fresh."
        )
    return paths.unflatten({path: made.get(path, value) for path, value in ours.items()})


def fit(path: str, value: np.ndarray, ours: Any) -> np.ndarray:
    """A source array in our shape.

    Tables of positions are resized; a vocabulary may have grown, and its new rows keep their
    initial values; a table that tells text and pictures apart may have grown by further pictures,
    which begin as the last one (ViLT's released code does the same); anything else must match.

    Args:
      path: of our array.
      value: the source's.
      ours: our array as initialised, or its shape and type where nothing has grown.

    Raises:
      ValueError: shapes differ otherwise.
    """
    shape = tuple(ours.shape)
    if value.shape == shape:
        return value
    if path.endswith("token_embedding") and value.shape[1:] == shape[1:] and len(value) < shape[0]:
        return np.concatenate([value, np.asarray(ours[len(value) :], value.dtype)])
    more = shape[0] - len(value) if shape else 0
    if path.endswith("modality_embedding") and value.shape[1:] == shape[1:] and more > 0:
        return np.concatenate([value, np.repeat(value[-1:], more, axis=0)])
    is_table = path.endswith("position_embedding") and len(shape) == 2
    if not is_table or value.shape[1:] != shape[1:]:
        raise ValueError(f"init_from: {path} is {value.shape} there and {shape} here.")
    if path.startswith("text"):
        return _resize_length(value, shape[0])
    extra = 0 if _is_square(value.shape[0]) and _is_square(shape[0]) else 1
    return np.asarray(resize(jnp.asarray(value), shape[0] - extra, extra))


def taken(tree: PyTree, rules: Sequence[tuple[str, str]], theirs: str, ours: str) -> bool:
    """Whether any array of one part of a source goes to a part of ours.

    Args:
      tree: the source's parameters.
      rules: see `warm_start`.
      theirs: the first step of the source's paths, e.g. 'image'; '' is any.
      ours: the first step of our paths.
    """
    chosen = (path for path in paths.flatten(tree) if not theirs or path.startswith(f"{theirs}/"))
    targets = (target for path in chosen for target, _ in _targets(rules, path) or ())
    return any(target.startswith(f"{ours}/") for target in targets)


def _resize_length(table: np.ndarray, length: int) -> np.ndarray:
    """Positions of a text: a shorter one keeps the first, a longer one is stretched linearly."""
    if length <= len(table):
        return table[:length]
    at = np.linspace(0, len(table) - 1, length)
    below = np.floor(at).astype(int)
    above = np.minimum(below + 1, len(table) - 1)
    share = (at - below)[:, None].astype(table.dtype)
    return table[below] * (1 - share) + table[above] * share


def _is_square(number: int) -> bool:
    return round(number**0.5) ** 2 == number


def check_renaming(rules: Any, fresh: Any) -> None:
    """Raises ValueError for what are no `init_rules` and `init_fresh`.

    Args:
      rules: as a person wrote them: ordered (pattern of the source's paths, our path or '').
      fresh: patterns of our paths.
    """
    paths.check_rules(rules, "init_rules")
    for pattern, target in rules:
        if not isinstance(target, str):
            raise ValueError(
                f"init_rules: {target!r}, for {pattern!r}, is no path; '' skips what matches."
            )
        groups = re.compile(pattern)
        for number in re.findall(r"\\(\d+)", target):
            if int(number) > groups.groups:
                raise ValueError(
                    f"init_rules: {target!r} asks for group {number}, and {pattern!r} has "
                    f"{groups.groups}."
                )
    paths.check_rules([(pattern, True) for pattern in fresh], "init_fresh")


def _targets(
    rules: Sequence[tuple[str, str]], path: str
) -> tuple[tuple[str, slice | EllipsisType], ...] | None:
    """((our path, part of the stack that goes there), ...); () to skip, None where no rule is."""
    for pattern, target in rules:
        found = re.fullmatch(pattern, path)
        if found:
            places = found.expand(target).split(";") if target else ()
            return tuple(_part(place) for place in places)
    return None


def _part(place: str) -> tuple[str, slice | EllipsisType]:
    """(path, layers) of a place such as 'text/blocks/mlp/up/bias[:6]'."""
    found = re.fullmatch(r"(.*)\[(\d*):(\d*)\]", place)
    if found is None:
        return place, ...
    path, *ends = found.groups()
    return path, slice(*(int(end) if end else None for end in ends))


def _matches(patterns: Sequence[str], path: str) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in patterns)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
