"""The two-layer perceptron of a Transformer block, and the activations of the published models."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.dense import Dense
from mmjax.models.layers.remat import kept
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Float

Activation = Callable[[jax.Array], jax.Array]


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x · sigmoid(1.702 x).

    Source: OpenAI CLIP, clip/model.py `QuickGELU`.
    """
    return x * jax.nn.sigmoid(1.702 * x)


@jax.custom_jvp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x · Φ(x) with the exact normal distribution function, in float32 at least.

    Φ is (1 + erf(x ÷ √2)) ÷ 2. JAX's own form by erfc took a GPU three times as long as the memory
    that it reads and writes; and its backward pass stores several arrays where one will do.

    Source: Hendrycks and Gimpel 2016, section 2; torch's default `GELU`.
    """
    wide = _widened(x)
    return (wide * _normal(wide)).astype(x.dtype)


@gelu.defjvp
def _gelu_slope(primals: Any, tangents: Any) -> tuple[Any, Any]:
    """Φ(x) + x · φ(x) times the tangent, of which the backward pass stores this alone."""
    (x,), (tangent,) = primals, tangents
    wide = _widened(x)
    density = jnp.exp(-0.5 * wide * wide) * (2 * math.pi) ** -0.5
    return gelu(x), (_normal(wide) + wide * density).astype(x.dtype) * tangent


def _widened(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))  # 1 + erf cancels where x is below 0


def _normal(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The normal distribution function."""
    return 0.5 * (1.0 + jax.lax.erf(x * 0.5**0.5))


def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The tanh form of GELU.

    Source: Hendrycks and Gimpel 2016, section 2; flax's and big_vision's default.
    """
    return jax.nn.gelu(x, approximate=True)


ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
}


def activation(name: str) -> Activation:
    """The function behind an activation's name.

    Args:
      name: 'gelu' (with erf), 'gelu_tanh', 'quick_gelu' or 'relu'.

    Raises:
      ValueError: another name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is none of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


class Mlp(nn.Module):
    """Widen, activate, narrow.

    Attributes:
      mlp_dim: width between the two layers.
      activation: see `activation`.
      init_scale: factor on the initial standard deviation of the narrowing layer; deep stacks
        shrink what each block adds.
      dtype: type to compute in, see `compute_type`.

    Source: Vaswani et al. 2017, section 3.3; initial values as in OpenAI CLIP, clip/model.py
    `initialize_parameters`.
    """

    mlp_dim: int
    activation: str = "gelu_tanh"
    init_scale: float = 1.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "batch length dim"]) -> Float[Array, "batch length dim"]:
        dim = x.shape[-1]
        x = kept(self._dense("up", self.mlp_dim, (2 * dim) ** -0.5)(x))
        x = constrain(activation(self.activation)(x), "batch", None, "mlp")
        return kept(self._dense("down", dim, self.init_scale * dim**-0.5)(x))

    def _dense(self, name: str, features: int, deviation: float) -> Dense:
        init, dtype = nn.initializers.normal(deviation), compute_type(self.dtype)
        return Dense(features, kernel_init=init, name=name, dtype=dtype)
