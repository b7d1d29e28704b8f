"""Multi-head attention of one sequence over another (or over itself)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.dense import product_of
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Bool, Float


def attend(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    mask: Bool[Array, "#batch #queries keys"] | None = None,
) -> Float[Array, "batch queries heads head_dim"]:
    """softmax(q·k / √head_dim) · v, with the softmax in float32 whatever the inputs are.

    Args:
      query: what each position looks for.
      key: what each position offers to be found by.
      value: what each position hands over.
      mask: True where a query may look at a key. A row without a single True looks at all keys
        alike, so that rows of padding stay finite.

    Source: Vaswani et al. 2017, equation 1.
    """
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    scores = scores * query.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


class Attention(nn.Module):
    """Projections to queries, keys and values, attention, and the projection back.

    Attributes:
      num_heads: must divide the width of the queries.
      init_scale: factor on the initial standard deviation of the output projection.
      dtype: type to compute in, see `compute_type`; the softmax is float32 always.

    Source: Vaswani et al. 2017, section 3.2.2; initial values as in OpenAI CLIP, clip/model.py
    `initialize_parameters`.
    """

    num_heads: int
    init_scale: float = 1.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "batch queries dim"],
        keys: Float[Array, "batch keys key_dim"],
        mask: Bool[Array, "#batch #queries keys"] | None = None,
    ) -> Float[Array, "batch queries dim"]:
        dim = queries.shape[-1]
        if dim % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads} does not divide dim={dim}; choose one that does."
            )

        def dense(name: str, init: nn.initializers.Initializer) -> nn.Dense:
            how = {"dtype": compute_type(self.dtype), "dot_general": product_of(self, name)}
            return nn.Dense(dim, kernel_init=init, name=name, **how)

        def heads(x: Float[Array, "batch length dim"], name: str) -> Float[Array, "..."]:
            x = dense(name, nn.initializers.normal(x.shape[-1] ** -0.5))(x)
            x = x.reshape(*x.shape[:2], self.num_heads, -1)  # [b, n, dim] -> [b, n, h, dim/h]
            return constrain(x, "batch", None, "heads", None)

        query, key, value = heads(queries, "query"), heads(keys, "key"), heads(keys, "value")
        x = attend(query, key, value, mask)
        x = x.reshape(*x.shape[:2], dim)  # [b, n, h, dim/h] -> [b, n, dim]
        return dense("output", nn.initializers.normal(self.init_scale * dim**-0.5))(x)
