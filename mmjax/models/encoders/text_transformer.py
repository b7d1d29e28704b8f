"""Text Transformer: a text as a sequence of tokens, causal (CLIP) or bidirectional (SigLIP)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.interfaces import TowerOutput
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.dense import plus
from mmjax.models.layers.embedding import look_up
from mmjax.models.layers.pooling import AttentionPooling, Place, at, end_of_text, mean
from mmjax.models.layers.transformer import run_blocks
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Bool, Float, Int

POOLING = ("end_of_text", "highest_id", "last", "mean", "attention")


class TextTransformer(nn.Module):
    """Token and position tables, Transformer blocks, a layer norm, and one of five ways to pool.

    Attributes:
      vocab_size: number of tokens; an id outside 0 to this makes the row not-a-number.
      length: most tokens of a text.
      dim: width of a token.
      depth: number of blocks.
      num_heads: attention heads; must divide `dim`.
      mlp_dim: width inside the perceptrons.
      pooling: 'end_of_text' is the token at the first `eos_id` (CLIP), 'highest_id' the token of
        the highest id (CLIP's first rule, where end-of-text is the last word of the vocabulary),
        'last' the last token (SigLIP; texts are padded to `length` and padding is seen), 'mean' is
        over real tokens, 'attention' is a probe that attends to them.
      eos_id: id of end-of-text; needed by 'end_of_text'.
      causal: whether a token sees only what stands before it.
      mask_padding: whether padding is hidden from every token.
      activation: 'gelu', 'gelu_tanh', 'quick_gelu' or 'relu'.
      norm_epsilon: added to the variance in layer norms.
      dtype: type to compute in: 'float32', 'bfloat16' or 'auto': bfloat16 where the platform gains
        by it (TPU, GPU), float32 on a CPU. Parameters are float32.
      scan: see `run_blocks`.
      remat: see `run_blocks`.
      attention: see `run_blocks`; pooling uses XLA's always.

    Source: Radford et al. 2021 (CLIP), section 2.4; Zhai et al. 2023 (SigLIP), section 4.
    """

    vocab_size: int
    length: int = 64
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    pooling: str = "last"
    eos_id: int | None = None
    causal: bool = False
    mask_padding: bool = False
    activation: str = "gelu_tanh"
    norm_epsilon: float = 1e-6
    dtype: str = "float32"
    scan: bool = True
    remat: str = "dots_no_batch"
    attention: str = "auto"

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
        tokens: bool = True,
    ) -> TowerOutput:
        """Encodes texts.

        Args:
          token_ids: token numbers, padded at the end.
          text_mask: True where a token is real.
          row: the rows' global numbers; nothing is drawn here.
          train: nothing differs in training.
          tokens: whether the tokens are wanted too, or the pooled vector alone.

        Raises:
          ValueError: texts of another length, or options that contradict each other.
        """
        del row, train
        self._check(token_ids)
        dtype = compute_type(self.dtype)
        length = token_ids.shape[1]
        words = self.param(
            "token_embedding", nn.initializers.normal(0.02), (self.vocab_size, self.dim)
        )
        places = self.param(
            "position_embedding", nn.initializers.normal(0.01), (self.length, self.dim)
        )
        place = self._place(token_ids)
        alone = place is not None and not tokens
        path = "/".join((*self.path, "token_embedding"))
        x = plus(look_up(words, token_ids, path).astype(dtype), places[:length])
        x = run_blocks(
            constrain(x, "batch", None, None),
            text_mask[:, None] if self.mask_padding else None,  # [b, n] -> [b, 1, n]
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            norm_epsilon=self.norm_epsilon,
            dtype=self.dtype,
            scan=self.scan,
            remat=self.remat,
            causal=self.causal,
            attention=self.attention,
            tower=self,
            place=place if alone else None,
        )
        x = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=dtype, name="norm")(x)
        if alone:
            return TowerOutput(None, None, x[:, 0])
        return TowerOutput(x, text_mask, self._pool(x, place, text_mask))

    @property
    def sees_padding(self) -> bool:
        """Whether the pooled vector depends on how much padding stands after a text."""
        if self.pooling == "last" or not (self.causal or self.mask_padding):
            return True
        return self.pooling == "attention" and not self.mask_padding

    def _check(self, token_ids: Any) -> None:
        """Raises ValueError where options or inputs do not fit each other."""
        length = token_ids.shape[1]
        if self.pooling not in POOLING:
            raise ValueError(f"pooling={self.pooling!r} is none of {', '.join(POOLING)}.")
        if self.pooling == "end_of_text" and self.eos_id is None:
            raise ValueError("pooling='end_of_text' needs eos_id, the tokenizer's end-of-text.")
        if self.pooling == "last" and self.mask_padding:
            raise ValueError(
                "pooling='last' takes the last place, which may be padding: mask_padding must be "
                "False (or choose pooling='end_of_text')."
            )
        if length > self.length or (self.pooling == "last" and length != self.length):
            raise ValueError(
                f"texts are {length} tokens long, the model's length is {self.length}; give both "
                "the same."
            )

    def _place(self, token_ids: Int[Array, "batch length"]) -> Place | None:
        """Where the token stands that is the pooled vector, or None where more than one is read."""
        if self.pooling == "end_of_text":
            return end_of_text(token_ids, self.eos_id)
        if self.pooling == "highest_id":
            return jnp.argmax(token_ids, axis=1)
        return -1 if self.pooling == "last" else None

    def _pool(
        self,
        x: Float[Array, "batch length dim"],
        place: Place | None,
        text_mask: Bool[Array, "batch length"],
    ) -> Float[Array, "batch dim"]:
        """One vector for each text."""
        if place is not None:
            return at(x, place)[:, 0]
        if self.pooling == "mean":
            return mean(x, text_mask)
        return AttentionPooling(
            self.num_heads,
            self.mlp_dim,
            self.activation,
            self.norm_epsilon,
            self.dtype,
            name="pool",
        )(x, text_mask if self.mask_padding else None)


def _size(dim: int, depth: int, num_heads: int, mlp_dim: int) -> dict[str, int]:
    """Field values of a size."""
    return {"dim": dim, "depth": depth, "num_heads": num_heads, "mlp_dim": mlp_dim}


def text_ti() -> dict[str, int]:
    """Fields of a text tower as wide as ViT-Ti."""
    return _size(192, 12, 3, 768)


def text_s() -> dict[str, int]:
    """Fields of a text tower as wide as ViT-S; CLIP's beside ViT-B has 8 heads (`text_clip_b`)."""
    return _size(384, 12, 6, 1536)


def text_b() -> dict[str, int]:
    """Fields of a text tower as wide as ViT-B."""
    return _size(768, 12, 12, 3072)


def text_l() -> dict[str, int]:
    """Fields of a text tower as wide as ViT-L."""
    return _size(1024, 24, 16, 4096)


def text_so400m() -> dict[str, int]:
    """Fields of SigLIP's text tower beside ViT-So400m."""
    return _size(1152, 27, 16, 4304)


def text_clip_b() -> dict[str, int]:
    """Fields of CLIP's text tower beside ViT-B.

    Source: Radford et al. 2021 (CLIP), table 20.
    """
    return _size(512, 12, 8, 2048)


def text_clip_l() -> dict[str, int]:
    """Fields of CLIP's text tower beside ViT-L.

    Source: Radford et al. 2021 (CLIP), table 20.
    """
    return _size(768, 12, 12, 3072)
