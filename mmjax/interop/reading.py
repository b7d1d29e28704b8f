"""A published model's config and arrays to a model of ours with parameters in it."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import paths
from mmjax.interop.errors import line
from mmjax.interop.family import Family
from mmjax.interop.rows import Read, Table, read
from mmjax.interop.tensors import Tensors, WeightsError
from mmjax.typing import PyTree

__all__ = ["Filled", "abstract", "fill", "model_of", "words_of"]

ANY_SIDE = 64  # of a picture, for towers that take any
# Whole numbers of a model beyond these are a mistake or an attack, which building would take
# memory or hours to notice: {field: largest}, and any other.
LARGEST = {"depth": 1_000, "depths": 200, "num_block_repeats": 200, "depth_coefficient": 16}
LARGEST |= {"image_size": 1 << 13, "length": 1 << 17}
LARGEST_OTHER = 1 << 24


@dataclasses.dataclass(frozen=True)
class Filled:
    """A model of ours with published weights.

    Attributes:
      family: what kind of published model it was.
      config: theirs, with what the file alone told.
      model: ours.
      variables: {'params': ..., 'batch_stats': ...}, nested; the latter where there are any.
      table: of the model.
      read: what was read, with what was set aside.
    """

    family: Family
    config: Mapping[str, Any]
    model: Any
    variables: dict[str, PyTree]
    table: Table
    read: Read


def words_of(model: Any, method: str = "__call__") -> tuple[str, ...]:
    """The Batch words that a method of a model cannot do without."""
    takes = inspect.signature(getattr(type(model), method)).parameters.values()
    needs = [one.name for one in takes if one.default is inspect.Parameter.empty]
    return tuple(name for name in needs if name not in ("self", "row", "train"))


def _example(model: Any) -> dict[str, Any]:
    """One row of zeros for each word that the model takes."""
    if hasattr(model, "example"):
        return model.example()
    image, text = getattr(model, "image", model), getattr(model, "text", model)
    made: dict[str, Any] = {}
    for word in words_of(model):
        if word == "image":
            side = getattr(image, "image_size", ANY_SIDE)
            made[word] = jnp.zeros((1, side, side, 3))
        elif word == "token_ids":
            made[word] = jnp.zeros((1, text.length), jnp.int32)
        elif word == "text_mask":
            made[word] = jnp.ones((1, text.length), bool)
        elif word == "patches":
            made |= image.example()
    return made


def abstract(model: Any) -> dict[str, tuple[int, ...]]:
    """{path with its collection: shape} of all that a model holds; nothing is computed."""
    made = jax.eval_shape(lambda: model.init(jax.random.key(0), **_example(model)))
    kept = {name: made[name] for name in ("params", "batch_stats") if name in made}
    return {path: tuple(leaf.shape) for path, leaf in paths.flatten(kept).items()}


def model_of(
    family: Family, config: Mapping[str, Any], tensors: Tensors
) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """(our model, {path: shape} of its arrays) of a published config; no array is read.

    Args:
      family: what kind of model it is.
      config: theirs.
      tensors: the file; little more than its names is looked at.

    Raises:
      WeightsError: the config is not built, or is no config.
    """
    try:
        model = family.model(family.fitted(config, tensors))
        _check_sizes(model, tensors.name)
        return model, abstract(model)
    except WeightsError:
        raise
    except Exception as error:  # a stranger's config: of any type, with any number
        told = f"{type(error).__name__}: {line(error)}"
        raise WeightsError(f"{tensors.name}: its config makes no model: {told}.") from None


def _check_sizes(model: Any, where: str, below: str = "") -> None:
    """Raises WeightsError for a number of a model that cannot be one of its sizes."""
    for field in dataclasses.fields(model):
        value = getattr(model, field.name, None)
        name = f"{below}{field.name}"
        if field.name in ("parent", "name"):
            continue
        if dataclasses.is_dataclass(value):
            _check_sizes(value, where, f"{name}.")
        elif field.type is int and type(value) is not int:
            raise WeightsError(
                f"{where}: its config gives {name}={repr(value)[:40]}, no whole number."
            )
        for number in value if isinstance(value, tuple) else (value,):
            largest = LARGEST.get(field.name, LARGEST_OTHER)
            if isinstance(number, int | float) and not 0 <= abs(number) <= largest:
                raise WeightsError(
                    f"{where}: its config gives {name}={str(value)[:40]}; at most {largest}."
                )
            if type(number) is int and number < 0:
                raise WeightsError(f"{where}: its config gives {name}={str(value)[:40]}, below 0.")


def fill(
    family: Family,
    config: Mapping[str, Any],
    tensors: Tensors,
    place: Callable[[str, np.ndarray], Any] = lambda _, array: array,
    kind: Callable[[tuple[int, ...]], Any] = lambda _: None,
) -> Filled:
    """A model of ours with the arrays of a file.

    Args:
      family: what kind of model it is.
      config: theirs.
      tensors: the file.
      place: see `mmjax.interop.rows.read`.
      kind: the same.

    Raises:
      WeightsError: the config is not built or no config, or arrays are left over.
    """
    model, shapes = model_of(family, config, tensors)
    table = family.table(model)
    found = read(table, tensors, shapes, place, kind)
    variables = {
        collection: paths.unflatten(flat) for collection, flat in found.trees().items() if flat
    }
    return Filled(family, family.fitted(config, tensors), model, variables, table, found)
