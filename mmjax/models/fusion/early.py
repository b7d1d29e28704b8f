"""Early fusion: one stream of blocks over the tokens of both towers."""

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.fusion.blocks import Blocks, brought_in, with_class
from mmjax.models.fusion.heads import INITIAL
from mmjax.models.interfaces import Fused
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.transformer import run_blocks
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Bool, Float


class Early(nn.Module):
    """A class token, all words and all places of the picture, told apart by a table of kinds.

    Attributes:
      how: how the blocks are made.

    Source: Chen et al. 2020 (UNITER), section 3.1 and figure 1, with pre-norm blocks.
    """

    how: Blocks

    @nn.compact
    def __call__(
        self,
        text: Float[Array, "batch length text_dim"],
        text_mask: Bool[Array, "batch length"],
        image: Float[Array, "batch places image_dim"],
        image_mask: Bool[Array, "batch places"] | None,
        train: bool = False,
    ) -> Fused:
        """Words and places that know of each other; pooled is what the class token became."""
        how, length = self.how, text.shape[1]
        dtype = compute_type(how.dtype)
        kinds = self.param("type_embedding", INITIAL, (2, how.dim)).astype(dtype)
        first = self.param("class_token", INITIAL, (how.dim,))
        words = brought_in("text", text, how) + kinds[0]
        places = brought_in("image", image, how) + kinds[1]
        real = jnp.ones(image.shape[:2], bool) if image_mask is None else image_mask
        x = jnp.concatenate([words, places], axis=1)
        x, mask = with_class(first, x, jnp.concatenate([text_mask, real], axis=1))
        x = run_blocks(
            constrain(x, "batch", None, None),
            mask[:, None],  # [b, n] -> [b, 1, n]
            depth=how.depth,
            num_heads=how.num_heads,
            mlp_dim=how.mlp_dim,
            activation=how.activation,
            norm_epsilon=how.norm_epsilon,
            dtype=how.dtype,
            scan=how.scan,
            remat=how.remat,
            attention=how.attention,
            dropout=how.dropout if train else 0.0,
        )
        x = nn.LayerNorm(epsilon=how.norm_epsilon, dtype=dtype, name="norm")(x)
        words, places = x[:, 1 : 1 + length], x[:, 1 + length :]
        return Fused(words, text_mask, places, image_mask, x[:, 0].astype(jnp.float32))
