"""The model of a checkpoint, array by array, for whoever puts each where it belongs at once."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mmjax.training import orbax_arrays
from mmjax.training.checkpoint import STATE

__all__ = ["stream_params"]

OBJECTIVES = "objectives/"  # parameters of the objectives, which are no part of the model


def stream_params(
    folder: pathlib.Path, which: str, kind: Callable[[tuple[int, ...]], Any]
) -> Iterator[tuple[str, str, np.ndarray]]:
    """('params' or 'batch_stats', path, array) of the model, one array after the other.

    Args:
      folder: one step's, checked by `find_checkpoint`.
      which: 'params', or 'ema' for the averaged copy (frozen arrays, which have none, as they are).
      kind: the element type in which an array is wanted, by its shape.

    Raises:
      ValueError: it holds no such parameters, or an array cannot be read.
    """
    state = folder / STATE
    there = orbax_arrays.shapes(state)
    if not any(name.startswith(f"{which}/") for name in there):
        raise ValueError(f"{folder} holds no {which!r}.")
    found: dict[tuple[str, str], str] = {}  # a later part replaces what an earlier one has
    for collection, part in (("params", "params"), ("params", which), ("batch_stats",) * 2):
        for name in there:
            path = name.removeprefix(f"{part}/")
            if path != name and not path.startswith(OBJECTIVES):
                found[collection, path] = name
    wanted = {name: (there[name], kind(there[name])) for name in found.values()}
    for (collection, path), (_, array) in zip(found, orbax_arrays.stream(state, wanted)):
        yield collection, path, array
