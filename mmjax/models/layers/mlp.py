"""The two-layer perceptron of a Transformer block, and the activations of the published models."""

from collections.abc import Callable

import flax.linen as nn
import jax

from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.dense import product_of
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Float

Activation = Callable[[jax.Array], jax.Array]


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x · sigmoid(1.702 x).

    Source: OpenAI CLIP, clip/model.py `QuickGELU`.
    """
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x · Φ(x) with the exact normal distribution function.

    Source: Hendrycks and Gimpel 2016, section 2; torch's default `GELU`.
    """
    return jax.nn.gelu(x, approximate=False)


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
        x = self._dense("up", self.mlp_dim, (2 * dim) ** -0.5)(x)
        x = constrain(activation(self.activation)(x), "batch", None, "mlp")
        return self._dense("down", dim, self.init_scale * dim**-0.5)(x)

    def _dense(self, name: str, features: int, deviation: float) -> nn.Dense:
        init, how = nn.initializers.normal(deviation), product_of(self, name)
        dtype = compute_type(self.dtype)
        return nn.Dense(features, kernel_init=init, name=name, dtype=dtype, dot_general=how)
