"""A stack of Transformer blocks, pre-norm or post-norm: one parameter tree however it is run."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from mmjax.models.layers.attention import Attention
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.mlp import Mlp
from mmjax.models.layers.remat import recomputing
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Bool, Float

NORMS = ("before", "after")


class Block(nn.Module):
    """Attention, then a perceptron, each added back, with a layer norm before or after.

    With `norm='before'` it is x + f(norm(x)), with 'after' norm(x + f(x)); the parameters' names
    are the same.

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
      norm: 'before' (pre-norm: ViT, GPT-2) or 'after' (post-norm: BERT).
      dropout: part of the numbers set to zero in what attention and perceptron add, 0 to below 1;
        above 0 it needs an rng named 'dropout'.
      inner_dim: see `Attention`.

    Its input and output are sown as intermediates 'input' and 'output', stacked like its
    parameters.

    Source: Vaswani et al. 2017, sections 3 and 5.4 (post-norm, dropout); pre-norm order as in
    Radford et al. 2019, section 2.3.
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
    norm: str = "before"
    dropout: float = 0.0
    inner_dim: int = 0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length dim"],
        mask: Bool[Array, "#batch #length keys"] | None,
        keys: Float[Array, "batch keys key_dim"] | None = None,
    ) -> tuple[Float[Array, "batch length dim"], None]:
        """One block's step.

        Args:
          x: tokens.
          mask: True where a token (second axis) may look at a key (third axis).
          keys: another sequence that is attended to; None for `x` itself.
        """
        self.sow("intermediates", "input", x)  # kept only where somebody asks for intermediates
        attention = Attention(
            self.num_heads,
            self.init_scale,
            self.dtype,
            self.causal,
            self.attention,
            self.recompute,
            inner_dim=self.inner_dim,
            name="attention",
        )
        x = self._added(
            x, lambda y: attention(y, y if keys is None else keys, mask), "attention_norm"
        )
        mlp = Mlp(self.mlp_dim, self.activation, self.init_scale, self.dtype, name="mlp")
        x = self._added(x, mlp, "mlp_norm")
        self.sow("intermediates", "output", x)
        return x, None  # carry, nothing to stack

    def _added(
        self, x: Float[Array, "batch length dim"], layer: Callable[..., Any], name: str
    ) -> Float[Array, "batch length dim"]:
        """What a layer makes of x, added to x, with the norm of this name in its place."""
        dtype = compute_type(self.dtype)
        norm = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=dtype, name=name)
        made = layer(norm(x) if self.norm == "before" else x)
        if self.dropout:
            made = nn.Dropout(self.dropout, deterministic=False)(made)
        x = x + made
        return constrain(x if self.norm == "before" else norm(x), "batch", None, None)


def stacked(
    block: type[nn.Module], depth: int, scan: bool, remat: str
) -> tuple[Callable[..., nn.Module], Callable[..., Any] | None]:
    """(a stack of blocks as one module, what their attention is wrapped in or None).

    Args:
      block: a module class, called with a carry and what all blocks are given alike; it returns the
        next carry and None.
      depth: number of blocks, the first axis of each of their arrays.
      scan: see `run_blocks`.
      remat: see `run_blocks`.

    Raises:
      ValueError: another `remat`, or one that cannot run here.
    """
    block, recompute = recomputing(block, remat, scan)
    made = nn.scan(
        block,
        variable_axes={"params": 0, "intermediates": 0, "attention": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=depth,
        unroll=1 if scan else depth,
    )
    return made, recompute


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
    norm: str = "before",
    dropout: float = 0.0,
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
      norm: 'before' or 'after', see `Block`.
      dropout: see `Block`; 0 outside of training.

    Raises:
      ValueError: another `remat`, `attention` or `norm`, one that cannot run here, or a `dropout`
        that is no part.
    """
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} is none of {', '.join(NORMS)}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} is not from 0 to below 1.")
    blocks, recompute = stacked(Block, depth, scan, remat)
    init_scale = (2 * depth) ** -0.5  # two additions a block: the sum keeps its variance
    fields = (num_heads, mlp_dim, activation, norm_epsilon, init_scale, dtype)
    fields += (causal, attention, recompute, norm, dropout)
    return blocks(*fields, name="blocks")(x, mask)[0]
