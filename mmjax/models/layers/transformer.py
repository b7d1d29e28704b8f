"""A stack of pre-norm Transformer blocks: one parameter tree however it is run."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from mmjax.models.layers.attention import Attention
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.mlp import Mlp
from mmjax.models.layers.remat import recomputing
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Bool, Float


class Block(nn.Module):
    """Attention, then a perceptron, each normalised before and added back.

    Attributes:
      num_heads: attention heads; must divide the width.
      mlp_dim: width inside the perceptron.
      activation: see `mmjax.models.layers.mlp.activation`.
      norm_epsilon: added to the variance in layer norms.
      init_scale: see `Attention` and `Mlp`.
      dtype: type to compute in, see `compute_type`.
      causal: see `Attention`.
      attention: implementation, see `Attention`.
      recompute: see `Attention`.

    Its input and output are sown as intermediates 'input' and 'output', stacked like its
    parameters.

    Source: Vaswani et al. 2017, section 3; pre-norm order as in Radford et al. 2019, section 2.3.
    """

    num_heads: int
    mlp_dim: int
    activation: str
    norm_epsilon: float
    init_scale: float
    dtype: str
    causal: bool = False
    attention: str = "xla"
    recompute: Callable[..., Any] | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length dim"],
        mask: Bool[Array, "#batch #length length"] | None,
    ) -> tuple[Float[Array, "batch length dim"], None]:
        dtype = compute_type(self.dtype)
        self.sow("intermediates", "input", x)  # kept only where somebody asks for intermediates
        y = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=dtype, name="attention_norm")(x)
        attention = Attention(
            self.num_heads,
            self.init_scale,
            self.dtype,
            self.causal,
            self.attention,
            self.recompute,
            name="attention",
        )
        x = constrain(x + attention(y, y, mask), "batch", None, None)
        y = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=dtype, name="mlp_norm")(x)
        mlp = Mlp(self.mlp_dim, self.activation, self.init_scale, self.dtype, name="mlp")
        x = constrain(x + mlp(y), "batch", None, None)
        self.sow("intermediates", "output", x)
        return x, None  # carry, nothing to stack


def run_blocks(
    x: Float[Array, "batch length dim"],
    mask: Bool[Array, "#batch #length length"] | None = None,
    *,
    depth: int,
    num_heads: int,
    mlp_dim: int,
    activation: str,
    norm_epsilon: float,
    dtype: str,
    scan: bool,
    remat: str,
    causal: bool = False,
    attention: str = "xla",
) -> Float[Array, "batch length dim"]:
    """Runs `depth` blocks, stacked under 'blocks' of the module whose `__call__` this stands in.

    Parameters and numbers are the same whatever `scan` and `remat` are.

    Args:
      x: tokens.
      mask: True where a token (second axis) may look at another (third axis).
      depth: number of blocks.
      num_heads: attention heads; must divide the width.
      mlp_dim: width inside the perceptrons.
      activation: see `mmjax.models.layers.mlp.activation`.
      norm_epsilon: added to the variance in layer norms.
      dtype: type to compute in, see `compute_type`.
      scan: True compiles one block and loops over it; False writes all blocks out, which compiles
        longer.
      remat: how much of the forward pass is made again in the backward pass to save memory, see
        `mmjax.models.layers.remat.recomputing`.
      causal: whether a token sees only what stands before it, beside the mask.
      attention: 'auto', 'xla', 'cudnn' or 'splash', see `mmjax.models.layers.attend.choose`.

    Raises:
      ValueError: another `remat` or `attention`, or one that cannot run here.
    """
    block, recompute = recomputing(Block, remat, scan)
    blocks = nn.scan(
        block,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=depth,
        unroll=1 if scan else depth,
    )
    init_scale = (2 * depth) ** -0.5  # two additions a block: the sum keeps its variance
    fields = (num_heads, mlp_dim, activation, norm_epsilon, init_scale, dtype)
    fields += (causal, attention, recompute)
    return blocks(*fields, name="blocks")(x, mask)[0]
