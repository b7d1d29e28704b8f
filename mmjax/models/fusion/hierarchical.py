"""Hierarchical fusion: text blocks that look at the picture's tokens at every so many layers."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.fusion.blocks import Blocks, brought_in, with_class
from mmjax.models.fusion.heads import INITIAL
from mmjax.models.interfaces import Fused
from mmjax.models.layers.attention import Attention
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.mlp import Mlp
from mmjax.models.layers.transformer import Block, stacked
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Bool, Float


class Looking(Block):
    """A `Block` with attention over another sequence between its own attention and perceptron.

    Source: Li et al. 2021 (ALBEF), section 3.1 and figure 1; Vaswani et al. 2017, figure 1, right.
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length dim"],
        mask: Bool[Array, "#batch #length length"] | None,
        keys: Float[Array, "batch keys key_dim"],
        keys_mask: Bool[Array, "#batch #length keys"] | None,
    ) -> tuple[Float[Array, "batch length dim"], None]:
        def attention(name: str) -> Attention:
            how = {"implementation": self.attention, "recompute": self.recompute, "name": name}
            return Attention(self.num_heads, self.init_scale, self.dtype, **how)

        own, other = attention("attention"), attention("look")
        x = self._added(x, lambda y: own(y, y, mask), "attention_norm")
        x = self._added(x, lambda y: other(y, keys, keys_mask), "look_norm")
        mlp = Mlp(self.mlp_dim, self.activation, self.init_scale, self.dtype, name="mlp")
        return self._added(x, mlp, "mlp_norm"), None


class Layers(nn.Module):
    """Blocks over words alone, then one that looks at the picture.

    Attributes:
      how: how the blocks are made.
      plain: number of blocks before the one that looks.
      init_scale: see `Block`.
      dropout: see `Block`.
      recompute: see `Block`.
    """

    how: Blocks
    plain: int
    init_scale: float
    dropout: float
    recompute: Callable[..., Any] | None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length dim"],
        seen: tuple[Any, Any, Any],
    ) -> tuple[Float[Array, "batch length dim"], None]:
        how, (mask, image, image_mask) = self.how, seen
        fields = (how.num_heads, how.mlp_dim, how.activation, how.norm_epsilon, self.init_scale)
        more = {"attention": how.attention, "recompute": self.recompute, "dropout": self.dropout}
        for number in range(self.plain):
            x, _ = Block(*fields, how.dtype, name=f"block{number + 1}", **more)(x, mask)
        return Looking(*fields, how.dtype, name="looking", **more)(x, mask, image, image_mask)


class Hierarchical(nn.Module):
    """A class token and the words, through blocks of which every `look_every`-th sees the picture.

    What is repeated is stacked under 'layers': `look_every` - 1 blocks ('block1' and so on) and
    'looking'.

    Attributes:
      how: how the blocks are made; `look_every` divides their depth.
      look_every: 1 looks in each block.

    Source: Li et al. 2021 (ALBEF), section 3.1, with pre-norm blocks; Alayrac et al. 2022
    (Flamingo), section 2.3 and table 4, for looking at every so many layers.
    """

    how: Blocks
    look_every: int = 1

    @nn.compact
    def __call__(
        self,
        text: Float[Array, "batch length text_dim"],
        text_mask: Bool[Array, "batch length"],
        image: Float[Array, "batch places image_dim"],
        image_mask: Bool[Array, "batch places"] | None,
        train: bool = False,
    ) -> Fused:
        """Words that know of the picture, whose tokens stay; pooled is the class token.

        Raises:
          ValueError: `look_every` does not divide the depth.
        """
        how = self.how
        if self.look_every < 1 or how.depth % self.look_every:
            raise ValueError(
                f"look_every={self.look_every} does not divide the fusion's depth {how.depth}."
            )
        first = self.param("class_token", INITIAL, (how.dim,))
        x, mask = with_class(first, brought_in("text", text, how), text_mask)
        groups = how.depth // self.look_every
        layers, recompute = stacked(Layers, groups, how.scan, how.remat)
        made = layers(
            how,
            self.look_every - 1,
            (2 * how.depth + groups) ** -0.5,  # so many additions: the sum keeps its variance
            how.dropout if train else 0.0,
            recompute,
            name="layers",
        )
        places = None if image_mask is None else image_mask[:, None]  # [b, n] -> [b, 1, n]
        x, _ = made(constrain(x, "batch", None, None), (mask[:, None], image, places))
        x = nn.LayerNorm(epsilon=how.norm_epsilon, dtype=compute_type(how.dtype), name="norm")(x)
        return Fused(x[:, 1:], text_mask, image, image_mask, x[:, 0].astype(jnp.float32))
