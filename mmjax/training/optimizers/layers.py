"""Transformations that take each layer of a stack as an array of its own."""

from typing import Any

import jax
import optax

from mmjax import paths
from mmjax.typing import PyTree

# What a tower's blocks, and the layers of two streams that meet, lie under: the depth comes first.
STACKS = frozenset({"blocks", "crossings", "layers"})


def stacked(path: str) -> bool:
    """Whether the first axis of the array at `path` counts layers."""
    return not STACKS.isdisjoint(path.split("/"))


def layer_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an array, or of one layer of a stack."""
    return shape[1:] if stacked(path) else shape


def by_layer(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """`transform` run on each array by itself, and on each layer of a stack by itself.

    For methods that look at an array as a whole: its norm, its root mean square, its two sides. On
    a stack they would mix the layers. Must look at no more than one array at a time.

    Args:
      transform: its `update` may use the parameters.

    Returns:
      A transformation whose state is, at each array's path, the state for that array alone; in
      that of a stack every leaf has the depth as first axis.
    """

    def init(params: PyTree) -> PyTree:
        return paths.map_with_path(
            lambda path, leaf: (jax.vmap(transform.init) if stacked(path) else transform.init)(
                leaf
            ),
            params,
        )

    def update(updates: PyTree, state: PyTree, params: Any = None) -> tuple[PyTree, PyTree]:
        places, structure = jax.tree_util.tree_flatten_with_path(updates)
        made = []
        for (place, leaf), own, param in zip(
            places, structure.flatten_up_to(state), structure.flatten_up_to(params)
        ):
            one = transform.update
            one = jax.vmap(one) if stacked(paths.path_name(place)) else one
            made.append(one(leaf, own, param))
        if not made:  # all arrays are masked
            return updates, state
        changed, states = zip(*made)
        return structure.unflatten(changed), structure.unflatten(states)

    return optax.GradientTransformation(init, update)
