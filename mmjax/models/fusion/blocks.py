"""What fusions by Transformer blocks share: how blocks are made, and what is brought into them."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from mmjax.models.fusion.heads import INITIAL
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.dense import Dense
from mmjax.typing import Array, Bool, Float


class Blocks(NamedTuple):
    """How the blocks of a fusion are made; see `run_blocks`."""

    dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    activation: str
    norm_epsilon: float
    dtype: str
    scan: bool
    remat: str
    attention: str
    dropout: float

    @classmethod
    def like(cls, tower: Any, depth: int) -> "Blocks":
        """Blocks as wide as a text tower and computed as its own, pre-norm.

        Args:
          tower: has the fields of `Bert`, or of `TextTransformer`, which drops nothing.
          depth: number of blocks.
        """
        names = [name for name in cls._fields if name not in ("depth", "dropout")]
        told = {name: getattr(tower, name) for name in names}
        return cls(depth=depth, dropout=getattr(tower, "dropout", 0.0), **told)


def brought_in(
    name: str, tokens: Float[Array, "batch length _"], how: Blocks
) -> Float[Array, "batch length dim"]:
    """A tower's tokens through a dense layer of the fusion's width, named within the caller."""
    dtype = compute_type(how.dtype)
    return Dense(how.dim, kernel_init=INITIAL, name=name, dtype=dtype)(tokens)


def with_class(
    token: Float[Array, " dim"],
    x: Float[Array, "batch length dim"],
    mask: Bool[Array, "batch length"],
) -> tuple[Float[Array, "batch longer dim"], Bool[Array, "batch longer"]]:
    """(tokens, mask) with a learned token before them that is always seen."""
    first = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, x.shape[2]))
    seen = jnp.ones((x.shape[0], 1), bool)
    return jnp.concatenate([first, x], axis=1), jnp.concatenate([seen, mask], axis=1)
