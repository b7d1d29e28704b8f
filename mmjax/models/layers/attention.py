"""Multi-head attention of one sequence over another (or over itself)."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.models.layers.attend import attend, choose, weights
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.dense import Dense
from mmjax.models.layers.remat import kept
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Bool, Float


class Attention(nn.Module):
    """Projections to queries, keys and values, attention, and the projection back.

    Attributes:
      num_heads: must divide the width of all heads together.
      init_scale: factor on the initial standard deviation of the output projection.
      dtype: type to compute in, see `compute_type`; the softmax is float32 always.
      causal: whether a query sees only keys up to its own position.
      implementation: 'auto', 'xla', 'cudnn' or 'splash', see `mmjax.models.layers.attend.choose`.
      recompute: makes a function forget what it stores for the backward pass (`jax.checkpoint`),
        for implementations that store the scores; None stores them.
      out_dim: width of the output, or 0 for that of the queries.
      inner_dim: width of all heads together, or 0 for that of the queries.

    Where somebody asks for intermediates, the softmax's values are sown as 'weights',
    [batch, heads, queries, keys]. In the collection 'attention' the same are sown as 'own', of a
    sequence over itself, or as 'other', over another one, for `mmjax.models.layers.looking`.

    Source: Vaswani et al. 2017, section 3.2.2; initial values as in OpenAI CLIP, clip/model.py
    `initialize_parameters`.
    """

    num_heads: int
    init_scale: float = 1.0
    dtype: str = "float32"
    causal: bool = False
    implementation: str = "xla"
    recompute: Callable[..., Any] | None = None
    out_dim: int = 0
    inner_dim: int = 0

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "batch queries dim"],
        keys: Float[Array, "batch keys key_dim"],
        mask: Bool[Array, "#batch #queries keys"] | None = None,
    ) -> Float[Array, "batch queries out_dim"]:
        dim = self.inner_dim or queries.shape[-1]
        if dim % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads} does not divide dim={dim}; choose one that does."
            )
        lengths, own = (queries.shape[1], keys.shape[1]), queries is keys
        heads = [
            (len(queries), length, self.num_heads, dim // self.num_heads) for length in lengths
        ]
        shapes = [jax.ShapeDtypeStruct(shape, compute_type(self.dtype)) for shape in heads]
        chosen = choose(self.implementation, *shapes, mask, self.causal)
        if self.is_initializing():  # on one row, which a mesh cannot divide
            chosen = "xla"
        filled = (0, 0)
        if chosen == "cudnn" and mask is None:  # one copy here, or three after the projections
            filled = (lengths[0] % 2, lengths[1] % 2)
            queries = _fill(queries, filled[0])
            keys = queries if own else _fill(keys, filled[1])
        query, key, value = (
            self._heads(x, name, dim)
            for x, name in ((queries, "query"), (keys, "key"), (keys, "value"))
        )
        run = functools.partial(attend, causal=self.causal, implementation=chosen, filled=filled)
        if self.recompute is not None and chosen == "xla":
            run = self.recompute(run)
        x = run(query, key, value, mask)
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "weights", self._weights(query, key, mask, lengths))
        if self.is_mutable_collection("attention") and not self.is_initializing():
            seen = "own" if own else "other"
            self.sow("attention", seen, self._weights(query, key, mask, lengths))
        x = x.reshape(*x.shape[:2], dim)  # [b, n, h, dim/h] -> [b, n, dim]
        init = nn.initializers.normal(self.init_scale * dim**-0.5)
        x = kept(self._dense("output", init, self.out_dim or queries.shape[-1])(x))
        return x[:, : lengths[0]] if filled[0] else x

    def _heads(
        self, x: Float[Array, "batch length dim"], name: str, dim: int
    ) -> Float[Array, "batch length heads head_dim"]:
        x = kept(self._dense(name, nn.initializers.normal(x.shape[-1] ** -0.5), dim)(x))
        x = x.reshape(*x.shape[:2], self.num_heads, -1)  # [b, n, dim] -> [b, n, h, dim/h]
        return constrain(x, "batch", None, "heads", None)

    def _weights(
        self, query: Any, key: Any, mask: Any, lengths: tuple[int, int]
    ) -> Float[Array, "batch heads queries keys"]:
        """What the values are multiplied with; of the places that only fill up, nothing."""
        return weights(query[:, : lengths[0]], key[:, : lengths[1]], mask, self.causal)

    def _dense(self, name: str, init: nn.initializers.Initializer, features: int) -> Dense:
        dtype = compute_type(self.dtype)
        return Dense(features, kernel_init=init, name=name, dtype=dtype)


def _fill(x: Float[Array, "batch length dim"], more: int) -> Float[Array, "batch longer dim"]:
    """x with so many more places at the end."""
    return jnp.pad(x, ((0, 0), (0, more), (0, 0))) if more else x
