"""Which region of a picture a phrase of its text names."""

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.layers.dense import Dense
from mmjax.typing import Array, Bool, Float


class PhraseAlignment(nn.Module):
    """One head of attention whose scores are the result: phrases ask, regions are the keys.

    The layer 'value' has parameters, as the published model has them, and is not read.

    Attributes:
      dim: width of queries and keys.

    Source: Li et al. 2019 (VisualBERT), section 4.4; transformers,
    models/visual_bert/modeling_visual_bert.py `VisualBertRegionToPhraseAttention`.
    """

    dim: int

    @nn.compact
    def __call__(
        self,
        phrases: Float[Array, "batch phrases width"],
        regions: Float[Array, "batch regions width"],
        region_mask: Bool[Array, "batch regions"],
    ) -> Float[Array, "batch phrases regions"]:
        """Scores, float32; those of padding are as low as a number can be."""

        def dense(x: Float[Array, "batch places width"], name: str) -> Float[Array, "..."]:
            layer = Dense(self.dim, kernel_init=nn.initializers.normal(0.02), name=name)
            return layer(x.astype(jnp.float32))

        query, key = dense(phrases, "query"), dense(regions, "key")
        dense(regions, "value")
        scores = jnp.einsum("bpd,brd->bpr", query, key) * self.dim**-0.5
        return jnp.where(region_mask[:, None], scores, jnp.finfo(jnp.float32).min)
