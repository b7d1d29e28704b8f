"""One vector from a sequence: mean, attention, the last token, the end of the text."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.models.layers.attention import Attention
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.mlp import Mlp
from mmjax.typing import Array, Bool, Float, Int

# A token of each row: the same place in all of them, or one for each, [batch].
Place = int | jax.Array


def mean(
    tokens: Float[Array, "batch length dim"], mask: Bool[Array, "batch length"] | None = None
) -> Float[Array, "batch dim"]:
    """Mean over the real tokens; zero for a row without any."""
    if mask is None:
        return tokens.mean(axis=1)
    weights = mask.astype(tokens.dtype)
    total = jnp.einsum("bnd,bn->bd", tokens, weights)
    return total / jnp.maximum(weights.sum(axis=1, keepdims=True), 1)


def at(
    tokens: Float[Array, "batch length dim"] | Bool[Array, "batch length dim"], place: Place | None
) -> Float[Array, "batch wanted dim"] | Bool[Array, "batch wanted dim"]:
    """The token at a place, [batch, 1, dim]; all of them for None."""
    if place is None:
        return tokens
    if isinstance(place, int):  # a slice, whose gradient needs no scatter
        return jax.lax.slice_in_dim(tokens, place, place + 1 or None, axis=1)
    return jnp.take_along_axis(tokens, place[:, None, None], axis=1)


def end_of_text(token_ids: Int[Array, "batch length"], eos_id: int) -> Int[Array, " batch"]:
    """Position of the first `eos_id` of each row, 0 where there is none.

    Source: transformers, models/clip/modeling_clip.py `CLIPTextTransformer.forward`.
    """
    return jnp.argmax(token_ids == eos_id, axis=1)


class AttentionPooling(nn.Module):
    """A learned probe that attends to all tokens, then a perceptron added back ("MAP head").

    Attributes:
      num_heads: attention heads; must divide the width.
      mlp_dim: width inside the perceptron.
      activation: see `mmjax.models.layers.mlp.activation`.
      norm_epsilon: added to the variance in the layer norm.
      dtype: type to compute in, see `compute_type`.

    Source: Zhai et al. 2022 (Scaling Vision Transformers), section 3.2; big_vision,
    models/vit.py `MAPHead`.
    """

    num_heads: int
    mlp_dim: int
    activation: str = "gelu_tanh"
    norm_epsilon: float = 1e-6
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "batch length dim"],
        mask: Bool[Array, "batch length"] | None = None,
    ) -> Float[Array, "batch dim"]:
        batch, _, dim = tokens.shape
        dtype = compute_type(self.dtype)
        probe = self.param("probe", nn.initializers.normal(dim**-0.5), (dim,))
        probe = jnp.broadcast_to(probe.astype(dtype), (batch, 1, dim))
        seen = None if mask is None else mask[:, None]  # [batch, length] -> [batch, 1, length]
        x = Attention(self.num_heads, dtype=self.dtype, name="attention")(probe, tokens, seen)
        y = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=dtype, name="norm")(x)
        x = x + Mlp(self.mlp_dim, self.activation, dtype=self.dtype, name="mlp")(y)
        return x[:, 0]


class MeanAttentionPooling(nn.Module):
    """The mean token attends to itself and all others, and is projected to another width.

    Attributes:
      num_heads: attention heads; must divide the width of the tokens.
      out_dim: width of the result.
      dtype: type to compute in, see `compute_type`.

    Source: Radford et al. 2021 (CLIP), section 2.4; open_clip, modified_resnet.py
    `AttentionPool2d`.
    """

    num_heads: int
    out_dim: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Float[Array, "batch length dim"]) -> Float[Array, "batch out_dim"]:
        _, length, dim = tokens.shape
        init = nn.initializers.normal(dim**-0.5)
        positions = self.param("position_embedding", init, (length + 1, dim))
        x = jnp.concatenate([tokens.mean(axis=1, keepdims=True), tokens], axis=1)
        x = x + positions.astype(x.dtype)
        attention = Attention(
            self.num_heads, dtype=self.dtype, out_dim=self.out_dim, name="attention"
        )
        return attention(x[:, :1], x)[:, 0]
