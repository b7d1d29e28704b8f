"""A published model's config and arrays to a model of ours with parameters in it."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import paths
from mmjax.interop.family import Family
from mmjax.interop.rows import Read, Table, read
from mmjax.interop.tensors import Tensors, WeightsError
from mmjax.typing import PyTree

__all__ = ["Filled", "abstract", "fill", "words_of"]

ANY_SIDE = 64  # of a picture, for towers that take any


@dataclasses.dataclass(frozen=True)
class Filled:
    """A model of ours with published weights.

    Attributes:
      family: what kind of published model it was.
      model: ours.
      variables: {'params': ..., 'batch_stats': ...}, nested; the latter where there are any.
      table: of the model.
      read: what was read, with what was set aside.
    """

    family: Family
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


def fill(
    family: Family,
    config: Mapping[str, Any],
    tensors: Tensors,
    place: Callable[[str, np.ndarray], Any] = lambda _, array: array,
) -> Filled:
    """A model of ours with the arrays of a file.

    Args:
      family: what kind of model it is.
      config: theirs.
      tensors: the file.
      place: see `mmjax.interop.rows.read`.

    Raises:
      WeightsError: the config is not built or no config, or arrays are left over.
    """
    try:
        model = family.model(family.fitted(config, tensors.names()))
        shapes = abstract(model)
    except WeightsError:
        raise
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise WeightsError(f"{tensors.name}: its config makes no model: {reason[:200]}.") from None
    table = family.table(model)
    found = read(table, tensors, shapes, place)
    variables = {
        collection: paths.unflatten(flat) for collection, flat in found.trees().items() if flat
    }
    return Filled(family, model, variables, table, found)
