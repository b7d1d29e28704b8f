"""Late fusion: the two towers' pooled vectors made one."""

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.fusion.heads import INITIAL
from mmjax.models.layers.dense import Dense
from mmjax.typing import Array, Float

COMBINES = ("concatenate", "product", "gated")


class Late(nn.Module):
    """One vector of two, in float32; tokens of either side learn nothing of the other.

    Attributes:
      dim: width of the result.
      combine: 'concatenate' is a dense layer over both vectors and tanh; 'product' multiplies what
        a dense layer and tanh make of each; 'gated' mixes these by a part, 0 to 1, that a dense
        layer over both vectors gives for each number.

    Source: Kim et al. 2017, "Hadamard Product for Low-rank Bilinear Pooling", equation 9, for
    'product'; Arevalo et al. 2017, "Gated Multimodal Units", section 3.1, for 'gated'.
    """

    dim: int
    combine: str = "concatenate"

    @nn.compact
    def __call__(
        self, text: Float[Array, "batch text_dim"], image: Float[Array, "batch image_dim"]
    ) -> Float[Array, "batch dim"]:
        """What both vectors make.

        Raises:
          ValueError: an unknown `combine`.
        """
        if self.combine not in COMBINES:
            raise ValueError(f"combine={self.combine!r} is none of {', '.join(COMBINES)}.")
        text, image = (x.astype(jnp.float32) for x in (text, image))
        both = jnp.concatenate([text, image], axis=-1)
        if self.combine == "concatenate":
            return jnp.tanh(self._dense("both")(both))
        of_text, of_image = (
            jnp.tanh(self._dense(name)(x)) for name, x in (("text", text), ("image", image))
        )
        if self.combine == "product":
            return of_text * of_image
        part = nn.sigmoid(self._dense("gate")(both))
        return part * of_text + (1 - part) * of_image

    def _dense(self, name: str) -> Dense:
        return Dense(self.dim, kernel_init=INITIAL, name=name)
