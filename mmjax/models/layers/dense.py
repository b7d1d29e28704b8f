"""The matrix product of dense layers: laid out as the platform multiplies fastest, cut by FSDP."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.parallel.sharding import platform, used_and_stored
from mmjax.typing import Array, Float


def product_of(module: nn.Module, layer: str) -> Callable[..., Any]:
    """The field `dot_general` of a `flax.linen.Dense` whose kernel may be stored in parts.

    Under FSDP each device gathers the kernel right where the layer uses it, in the type it computes
    in, and hands its gradient back in parts. Left to itself the compiler at times gathers the
    activations instead, as they are smaller in a head, and sums whole gradients on each device.

    Args:
      module: what the layer is a part of.
      layer: the layer's name.
    """
    return functools.partial(product, path="/".join((*module.path, layer, "kernel")))


def product(
    x: Float[Array, "... dim"],
    kernel: Float[Array, "dim features"],
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
    path: str = "",
) -> Float[Array, "... features"]:
    """x · kernel over the last axis of x.

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
      path: of the kernel within the model, see `product_of`.
    """
    del dimension_numbers
    how = (precision, preferred_element_type)
    places = used_and_stored(path, kernel.ndim)
    if places is None:
        return _multiply(x, kernel, how)
    return _gathered(x, kernel, how, *places)


def scores(
    x: Float[Array, "... dim"], table: Float[Array, "rows dim"], path: str = ""
) -> Float[Array, "... rows"]:
    """x · tableᵀ in float32: how well each row of a table suits, such as each word of a vocabulary.

    Args:
      x: what is to be scored, in the type to compute in.
      table: a vector for each row.
      path: of the table within the model; stored in parts, it is gathered as in `product`.
    """
    kernel, how = table.astype(x.dtype).T, (None, jnp.float32)
    places = used_and_stored(path, 2)
    if places is None:
        return _multiply(x, kernel, how)
    turned = [NamedSharding(one.mesh, PartitionSpec(*one.spec[::-1])) for one in places]
    return _gathered(x, kernel, how, *turned)


def _multiply(x: Any, kernel: Any, how: tuple[Any, Any]) -> Any:
    types = {"precision": how[0], "preferred_element_type": how[1]}
    if x.ndim < 3 or platform() != "cpu":
        contracted = (((x.ndim - 1,), (0,)), ((), ()))
        return jax.lax.dot_general(x, kernel, contracted, **types)
    rows = x.reshape(-1, x.shape[-1])  # [b, n, dim] -> [b * n, dim]
    made = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **types)
    return made.reshape(*x.shape[:-1], kernel.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _gathered(
    x: Any, kernel: Any, how: tuple[Any, Any], used: NamedSharding, stored: NamedSharding
) -> Any:
    """The product with a kernel that is whole only for its time."""
    return _multiply(x, jax.lax.with_sharding_constraint(kernel, used), how)


def _forward(x: Any, kernel: Any, how: Any, used: Any, stored: Any) -> tuple[Any, Any]:
    return _gathered.fun(x, kernel, how, used, stored), (x, kernel)


def _backward(how: Any, used: Any, stored: Any, saved: Any, gradient: Any) -> tuple[Any, Any]:
    x, kernel = saved  # in parts, so that what a loop over layers keeps is in parts too
    whole = jax.lax.with_sharding_constraint(kernel, used)
    back = jax.linear_transpose(lambda x: _multiply(x, whole, how), x)  # no second product
    return *back(gradient), sum_in_parts(x, gradient, how, used, stored)


def sum_in_parts(
    x: Float[Array, "batch ... dim"],
    gradient: Float[Array, "batch ... features"],
    how: tuple[Any, Any],
    used: NamedSharding,
    stored: NamedSharding,
) -> Float[Array, "dim features"]:
    """A kernel's gradient, of which no device ever holds the sum as a whole (reduce-scatter).

    Written out, since compilers made of the same product and a constraint an all-reduce of the
    whole gradient and cut it afterwards.

    Args:
      x: what the layer was applied to, rows over the batch axes.
      gradient: of the layer's output.
      how: precision and type of the product.
      used: how the kernel lies while it is used.
      stored: how it is stored: as `used`, and one dimension along `fsdp` too.
    """
    cut = next(axis for axis, name in enumerate(stored.spec) if name != used.spec[axis])

    def local(x: Any, gradient: Any) -> Any:
        rows, errors = (value.reshape(-1, value.shape[-1]) for value in (x, gradient))
        made = jax.lax.dot_general(
            rows,
            errors,
            (((0,), (0,)), ((), ())),
            precision=how[0],
            preferred_element_type=how[1],
        )
        made = jax.lax.psum_scatter(made, "fsdp", scatter_dimension=cut, tiled=True)
        return jax.lax.psum(made, "data")

    middle = (None,) * (x.ndim - 2)
    places = [PartitionSpec(("data", "fsdp"), *middle, axes) for axes in used.spec]
    made = [(*_axes(axes), *(("fsdp",) if n == cut else ())) for n, axes in enumerate(used.spec)]
    summed = jax.shard_map(
        local, mesh=used.mesh, in_specs=tuple(places), out_specs=PartitionSpec(*made)
    )(x, gradient)
    return jax.lax.with_sharding_constraint(summed, stored)


def _axes(entry: Any) -> tuple[str, ...]:
    """The axes of one entry of a spec."""
    return () if entry is None else entry if isinstance(entry, tuple) else (entry,)


_gathered.defvjp(_forward, _backward)
