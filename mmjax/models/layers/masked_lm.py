"""The head that says which word stands at each place, by the words' own vectors."""

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.dense import Dense, scores
from mmjax.models.layers.mlp import activation
from mmjax.typing import Array, Float


class MaskedLmHead(nn.Module):
    """Dense layer, activation and layer norm, then the product with the token table and a bias.

    Attributes:
      activation: see `mmjax.models.layers.mlp.activation`.
      norm_epsilon: added to the variance in the layer norm.
      dtype: type to compute in, see `compute_type`; the logits are float32.

    Source: Devlin et al. 2018 (BERT), section 3.1; google-research/bert, run_pretraining.py
    `get_masked_lm_output`.
    """

    activation: str = "gelu"
    norm_epsilon: float = 1e-12
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "batch length dim"],
        table: Float[Array, "words dim"],
        path: str = "",
    ) -> Float[Array, "batch length words"]:
        """Logits of all words at each place.

        Args:
          tokens: of the places to fill.
          table: the words' vectors, shared with whatever embeds them.
          path: of the table within the model.
        """
        dtype = compute_type(self.dtype)
        init = nn.initializers.normal(0.02)
        x = Dense(tokens.shape[-1], kernel_init=init, name="dense", dtype=dtype)(tokens)
        x = activation(self.activation)(x)
        x = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=dtype, name="norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (table.shape[0],))
        return scores(x, table, path) + bias.astype(jnp.float32)
