"""The smallest dual encoder: two perceptrons over features that users bring."""

import math

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.dual.two_tower import unit_length
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.dense import Dense
from mmjax.models.layers.mlp import activation
from mmjax.typing import Array, Encoded, Float, Int


class Projector(nn.Module):
    """Dense layers with an activation between them; linear where `hidden_dims` is empty.

    Attributes:
      dim: width of the result.
      hidden_dims: widths between input and result.
      activation: see `mmjax.models.layers.mlp.activation`.
      dtype: type to compute in, see `compute_type`; the last layer is float32.
    """

    dim: int
    hidden_dims: tuple[int, ...] = ()
    activation: str = "gelu_tanh"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "batch features"]) -> Float[Array, "batch dim"]:
        dtype = compute_type(self.dtype)
        for number, dim in enumerate(self.hidden_dims):
            x = Dense(dim, dtype=dtype, name=f"hidden_{number}")(x)
            x = activation(self.activation)(x)
        return Dense(self.dim, dtype=jnp.float32, name="output")(x)


class FeatureTowers(nn.Module):
    """Features of pictures and of texts, made elsewhere, into one space.

    Parameters lie under 'image', 'text', 'log_scale' and 'bias' (where there is one).

    Attributes:
      embed_dim: width of the shared space.
      image_hidden_dims: widths between the image features and the shared space; () is linear.
      text_hidden_dims: the same for texts.
      activation: between layers: 'gelu', 'gelu_tanh', 'quick_gelu' or 'relu'.
      log_scale_init: logarithm of the first scale of similarities.
      bias_init: first bias added to scaled similarities, or None for no bias.
      dtype: type to compute hidden layers in: 'float32', 'bfloat16' or 'auto': bfloat16 where the
        platform gains by it (TPU, GPU), float32 on a CPU. Parameters and the shared space are
        float32.

    Source: Zhai et al. 2022 (LiT), section 3, with both towers locked and already run.
    """

    embed_dim: int = 512
    image_hidden_dims: tuple[int, ...] = ()
    text_hidden_dims: tuple[int, ...] = ()
    activation: str = "gelu_tanh"
    log_scale_init: float = math.log(1 / 0.07)
    bias_init: float | None = None
    dtype: str = "float32"

    def setup(self):
        """Makes the two projectors and the scalars."""
        shared = (self.activation, self.dtype)
        self.image = Projector(self.embed_dim, self.image_hidden_dims, *shared)
        self.text = Projector(self.embed_dim, self.text_hidden_dims, *shared)
        constant = nn.initializers.constant
        self.log_scale = self.param("log_scale", constant(self.log_scale_init), ())
        if self.bias_init is not None:
            self.bias = self.param("bias", constant(self.bias_init), ())

    def encode_image(
        self,
        image_features: Float[Array, "batch image_features"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> Encoded:
        """Image features in the shared space; nothing is drawn, so `row` and `train` are unused."""
        del row, train
        return self._encode(self.image(image_features))

    def encode_text(
        self,
        text_features: Float[Array, "batch text_features"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> Encoded:
        """Text features in the shared space; nothing is drawn, so `row` and `train` are unused."""
        del row, train
        return self._encode(self.text(text_features))

    def _encode(self, pooled: Float[Array, "batch dim"]) -> Encoded:
        """A projector's result, which has no tokens, at unit length."""
        return Encoded(None, None, pooled, unit_length(pooled))

    def scalars(self) -> dict[str, Float[Array, ""]]:
        """'log_scale' and, where the model has one, 'bias'."""
        scalars = {"log_scale": self.log_scale}
        if self.bias_init is not None:
            scalars["bias"] = self.bias
        return scalars

    def __call__(
        self,
        image_features: Float[Array, "batch image_features"],
        text_features: Float[Array, "batch text_features"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> tuple[Encoded, Encoded, dict[str, Float[Array, ""]]]:
        """Both projections and the scalars; this is what `init` runs."""
        encoded_image = self.encode_image(image_features, row, train)
        return encoded_image, self.encode_text(text_features, row, train), self.scalars()
