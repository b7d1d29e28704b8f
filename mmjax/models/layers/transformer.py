"""A stack of Transformer blocks, pre-norm or post-norm: one parameter tree however it is run."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import Scope

from mmjax.models.layers.attention import Attention
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.mlp import Mlp
from mmjax.models.layers.pooling import Place, at
from mmjax.models.layers.remat import kept, recomputed, recomputing
from mmjax.parallel.sharding import constrain, platform
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
        place: Place | None = None,
    ) -> tuple[Float[Array, "batch wanted dim"], None]:
        """One block's step.

        Args:
          x: tokens.
          mask: True where a token (second axis) may look at a key (third axis).
          keys: another sequence that is attended to; None for `x` itself.
          place: of the one token of each row that is wanted, [batch, 1, dim]; the others are only
            looked at. None for all.
        """
        self.sow("intermediates", "input", x)  # kept only where somebody asks for intermediates
        causal, implementation, recompute = self.causal, self.attention, self.recompute
        if place is not None:  # one row of scores, which no kernel need keep from being stored
            mask = _seen_from(place, mask, causal, x.shape[1])
            causal, implementation, recompute = False, "xla", None
        attention = Attention(
            self.num_heads,
            self.init_scale,
            self.dtype,
            causal,
            implementation,
            recompute,
            inner_dim=self.inner_dim,
            name="attention",
        )

        def look(y: Float[Array, "batch length dim"]) -> Float[Array, "batch wanted dim"]:
            return attention(at(y, place), y if keys is None else keys, mask)

        x = self._added(x, look, "attention_norm", place)
        mlp = Mlp(self.mlp_dim, self.activation, self.init_scale, self.dtype, name="mlp")
        x = self._added(x, mlp, "mlp_norm")
        self.sow("intermediates", "output", x)
        return x, None  # carry, nothing to stack

    def _added(
        self,
        x: Float[Array, "batch length dim"],
        layer: Callable[..., Any],
        name: str,
        place: Place | None = None,
    ) -> Float[Array, "batch wanted dim"]:
        """What a layer makes of x, added to x at a place, with the norm of this name around it."""
        dtype = compute_type(self.dtype)
        norm = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=dtype, name=name)
        made = layer(norm(x) if self.norm == "before" else x)
        if self.dropout:
            made = nn.Dropout(self.dropout, deterministic=False)(made)
        x = kept(at(x, place) + made)
        return constrain(x if self.norm == "before" else norm(x), "batch", None, None)


def _seen_from(
    place: Place, mask: Bool[Array, "#batch #length keys"] | None, causal: bool, length: int
) -> Bool[Array, "#batch 1 keys"] | None:
    """What the token at a place may look at."""
    if mask is not None and mask.shape[1] > 1:
        batch = 1 if isinstance(place, int) else place.shape[0]
        mask = at(jnp.broadcast_to(mask, (max(batch, mask.shape[0]), *mask.shape[1:])), place)
    if not causal:
        return mask
    last = jnp.reshape(place % length, (-1, 1, 1))
    before = jnp.arange(length) <= last  # [batch or 1, 1, keys]
    return before if mask is None else mask & before


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
    tower: nn.Module | None = None,
    place: Place | None = None,
) -> Float[Array, "batch wanted dim"]:
    """Runs `depth` blocks, stacked under 'blocks' of the module whose `__call__` this stands in.

    Parameters and numbers are the same whatever `scan` and `remat` are. With a `place` the last
    block makes only the token that is wanted, at a part of its arithmetic; its numbers differ from
    those of all tokens by rounding alone.

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
      tower: the module that this stands in, where a place is given.
      place: of the one token of each row that is wanted, [batch, 1, dim]; None for all.

    Raises:
      ValueError: another `remat`, `attention` or `norm`, one that cannot run here, or a `dropout`
        that is no part.
    """
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} is none of {', '.join(NORMS)}.")
    if depth < 1:
        raise ValueError(f"depth={depth}: a stack has at least one block.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} is not from 0 to below 1.")
    blocks, recompute = stacked(Block, depth, scan, remat)
    init_scale = (2 * depth) ** -0.5  # two additions a block: the sum keeps its variance
    fields = (num_heads, mlp_dim, activation, norm_epsilon, init_scale, dtype)
    fields += (causal, attention, recompute, norm, dropout)
    if tower is None or not _goes_apart(tower, dropout):
        return at(blocks(*fields, name="blocks")(x, mask)[0], place)
    leaves, structure = jax.tree.flatten(tower.variables["params"]["blocks"])
    # Split once, so that each gradient is put together once.
    halves = zip(*(jax.lax.split(leaf, (depth - 1, 1)) for leaf in leaves), strict=True)
    before, last = (jax.tree.unflatten(structure, half) for half in halves)

    def run(block: Callable[..., nn.Module], params: Any, *given: Any) -> Any:
        scope = Scope({"params": params}, {}, path=(*tower.path, "blocks"))
        return block(*fields, parent=scope)(*given)[0]

    if depth > 1:
        x = run(stacked(Block, depth - 1, scan, remat)[0], before, x, mask)

    def run_last(params: Any, x: Any) -> Any:
        return run(Block, params, x, mask, None, place)

    return recomputed(run_last, remat)(jax.tree.map(lambda leaf: leaf[0], last), x)


def _goes_apart(tower: nn.Module, dropout: float) -> bool:
    """Whether the last block can be run by itself: not where the stack is made or looked into.

    Nor on a TPU, where what the stack is cut for costs more than the block: SigLIP B/16 at 4,096,
    compiled for v5e 4x4, took .70 s and 6.2 GiB with the last block apart, .66 s and 5.8 without.
    """
    if platform() == "tpu":
        return False
    looked_into = any(tower.is_mutable_collection(c) for c in ("intermediates", "attention"))
    return not (tower.is_initializing() or looked_into or dropout)
