"""Dense layers: as the platform multiplies fastest, cut by FSDP, biases summed in float32."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.models.layers import bfloat16
from mmjax.parallel.sharding import platform, used_and_stored
from mmjax.typing import Array, Float


class Dense(nn.Module):
    """x · kernel + bias over the last axis of x.

    Under FSDP each device gathers the kernel right where the layer uses it, in the type it computes
    in, and hands its gradient back in parts. Left to itself the compiler at times gathers the
    activations instead, as they are smaller in a head, and sums whole gradients on each device.

    Attributes:
      features: width of the result.
      use_bias: whether there is one; it begins as zeros.
      kernel_init: draws the kernel, [dim, features].
      dtype: type to compute in; None for that of x and the kernel together.
    """

    features: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "... dim"]) -> Float[Array, "... features"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        made = product(x, kernel, "/".join((*self.path, "kernel")))
        if not self.use_bias:
            return made
        return plus(made, self.param("bias", nn.initializers.zeros, (self.features,)))


@jax.custom_jvp
def plus(x: Float[Array, "..."], table: Float[Array, "..."]) -> Float[Array, "..."]:
    """x + table, which has the last dimensions of x (such as a bias), in the type of x.

    The table's gradient is summed in the type of the table.

    Left to itself the sum over a batch and all its tokens would be in the type that is computed in,
    and a GPU does add bfloat16 to bfloat16: beyond some hundreds of terms the next is lost.
    """
    return x + table.astype(x.dtype)


@plus.defjvp
def _plus(primals: Any, tangents: Any) -> tuple[Any, Any]:
    (x, table), (by_x, by_table) = primals, tangents
    return plus(x, table), by_x + jnp.broadcast_to(by_table, x.shape).astype(x.dtype)


def product(
    x: Float[Array, "... dim"], kernel: Float[Array, "dim features"], path: str = ""
) -> Float[Array, "... features"]:
    """x · kernel over the last axis of x, both of one type.

    On a CPU all axes before the last are made one. Otherwise the kernel's gradient sums over two
    axes, for which XLA turns both of its operands round, inside a scan even by a copy: a training
    step of Ti/16 took a fifth longer. A TPU pads the second last axis, so there the reshape itself
    would be a copy.

    Args:
      x: what a dense layer is applied to.
      kernel: of the layer.
      path: of the kernel within the model, which may store it in parts, see `Dense`.
    """
    places = used_and_stored(path, kernel.ndim)
    if places is None:
        return _multiply(x, kernel)
    return _gathered(x, kernel, None, *places)


def scores(
    x: Float[Array, "... dim"], table: Float[Array, "rows dim"], path: str = ""
) -> Float[Array, "... rows"]:
    """x · tableᵀ in float32: how well each row of a table suits, such as each word of a vocabulary.

    Args:
      x: what is to be scored, in the type to compute in.
      table: a vector for each row.
      path: of the table within the model; stored in parts, it is gathered as in `product`.
    """
    kernel = table.astype(x.dtype).T
    places = used_and_stored(path, 2)
    if places is None:
        return _multiply(x, kernel, jnp.float32)
    turned = [NamedSharding(one.mesh, PartitionSpec(*one.spec[::-1])) for one in places]
    return _gathered(x, kernel, jnp.float32, *turned)


def _multiply(x: Any, kernel: Any, made_type: Any = None) -> Any:
    if platform() != "cpu" or x.dtype != jnp.bfloat16 or made_type is not None:
        return _linear(x, kernel, made_type)
    made = bfloat16.multiply(x.reshape(-1, x.shape[-1]), kernel)
    return made.reshape(*x.shape[:-1], kernel.shape[-1])


def _linear(x: Any, kernel: Any, made_type: Any) -> Any:
    """The product as one that JAX can transpose."""
    how = {"preferred_element_type": made_type}
    if x.ndim < 3 or platform() != "cpu":
        contracted = (((x.ndim - 1,), (0,)), ((), ()))
        return jax.lax.dot_general(x, kernel, contracted, **how)
    rows = x.reshape(-1, x.shape[-1])  # [b, n, dim] -> [b * n, dim]
    made = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **how)
    return made.reshape(*x.shape[:-1], kernel.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _gathered(
    x: Any, kernel: Any, made_type: Any, used: NamedSharding, stored: NamedSharding
) -> Any:
    """The product with a kernel that is whole only for its time."""
    return _multiply(x, jax.lax.with_sharding_constraint(kernel, used), made_type)


def _forward(x: Any, kernel: Any, made_type: Any, used: Any, stored: Any) -> tuple[Any, Any]:
    return _gathered.fun(x, kernel, made_type, used, stored), (x, kernel)


def _backward(made_type: Any, used: Any, stored: Any, saved: Any, gradient: Any) -> tuple[Any, Any]:
    x, kernel = saved  # in parts, so that what a loop over layers keeps is in parts too
    whole = jax.lax.with_sharding_constraint(kernel, used)
    back = jax.linear_transpose(lambda x: _linear(x, whole, made_type), x)  # no second product
    return *back(gradient), sum_in_parts(x, gradient, made_type, used, stored)


def sum_in_parts(
    x: Float[Array, "batch ... dim"],
    gradient: Float[Array, "batch ... features"],
    made_type: Any,
    used: NamedSharding,
    stored: NamedSharding,
) -> Float[Array, "dim features"]:
    """A kernel's gradient, of which no device ever holds the sum as a whole (reduce-scatter).

    Written out, since compilers made of the same product and a constraint an all-reduce of the
    whole gradient and cut it afterwards.

    Args:
      x: what the layer was applied to, rows over the batch axes.
      gradient: of the layer's output.
      made_type: type of the product; None for that of what is multiplied.
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
            preferred_element_type=made_type,
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
