"""The matrix product of dense layers, laid out as the platform multiplies fastest."""

from typing import Any

import jax

from mmjax.parallel.sharding import platform
from mmjax.typing import Array, Float


def product(
    x: Float[Array, "... dim"],
    kernel: Float[Array, "dim features"],
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Float[Array, "... features"]:
    """x · kernel over the last axis of x; for the field `dot_general` of `flax.linen.Dense`.

    On a CPU all axes before the last are made one. Otherwise the kernel's gradient sums over two
    axes, for which XLA turns both of its operands round, inside a scan even by a copy: a training
    step of Ti/16 took a fifth longer. A TPU pads the second last axis, so there the reshape itself
    would be a copy.

    Args:
      x: what a dense layer is applied to.
      kernel: of the layer.
      dimension_numbers: the last axis of x with the first of the kernel, as Dense asks for.
      precision: see `jax.lax.dot_general`.
      preferred_element_type: see `jax.lax.dot_general`.
    """
    how = {"precision": precision, "preferred_element_type": preferred_element_type}
    if x.ndim < 3 or platform() != "cpu":
        return jax.lax.dot_general(x, kernel, dimension_numbers, **how)
    rows = x.reshape(-1, x.shape[-1])  # [b, n, dim] -> [b * n, dim]
    made = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **how)
    return made.reshape(*x.shape[:-1], kernel.shape[-1])
