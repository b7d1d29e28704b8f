"""BERT: a text as a sequence of tokens that all see each other, with post-norm blocks."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.interfaces import TowerOutput
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.dense import Dense
from mmjax.models.layers.embedding import look_up
from mmjax.models.layers.pooling import Place, mean
from mmjax.models.layers.transformer import run_blocks
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Bool, Float, Int

POOLING = ("tanh", "class", "mean")


class Bert(nn.Module):
    """Tables of tokens, positions and token types, a layer norm, post-norm blocks, a pooler.

    Attributes:
      vocab_size: number of tokens; an id outside 0 to this makes the row not-a-number.
      length: most tokens of a text.
      token_types: number of kinds of tokens, such as first and second sentence.
      dim: width of a token.
      depth: number of blocks.
      num_heads: attention heads; must divide `dim`.
      mlp_dim: width inside the perceptrons.
      pooling: 'tanh' is a dense layer and tanh on the first token (BERT's pooler), 'class' the
        first token as it is (Chinese-CLIP), 'mean' is over real tokens.
      spare_pooler: whether the pooler's dense layer is there though `pooling` does not read it, as
        in ALIGN's weights; what it makes is sown as intermediate 'pooler'.
      dropout: part of the numbers set to zero in training, of the embedded tokens and of what
        attention and perceptrons add; 0 to below 1. BERT was trained with 0.1.
      activation: 'gelu', 'gelu_tanh', 'quick_gelu' or 'relu'.
      norm_epsilon: added to the variance in layer norms.
      dtype: type to compute in: 'float32', 'bfloat16' or 'auto': bfloat16 where the platform gains
        by it (TPU, GPU), float32 on a CPU. Parameters are float32.
      scan: see `run_blocks`.
      remat: see `run_blocks`.
      attention: see `run_blocks`.

    Source: Devlin et al. 2018 (BERT), section 3; transformers, models/bert/modeling_bert.py.
    """

    vocab_size: int = 30_522
    length: int = 512
    token_types: int = 2
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    pooling: str = "tanh"
    spare_pooler: bool = False
    dropout: float = 0.0
    activation: str = "gelu"
    norm_epsilon: float = 1e-12
    dtype: str = "float32"
    scan: bool = True
    remat: str = "dots_no_batch"
    attention: str = "auto"

    def setup(self):
        """Makes the tables, which heads and towers over more than texts read too."""
        init = nn.initializers.normal(0.02)
        self.token_embedding = self.param("token_embedding", init, (self.vocab_size, self.dim))
        self.position_embedding = self.param("position_embedding", init, (self.length, self.dim))
        shape = (self.token_types, self.dim)
        self.token_type_embedding = self.param("token_type_embedding", init, shape)

    @property
    def sees_padding(self) -> bool:
        """Whether the pooled vector depends on how much padding stands after a text: never."""
        return False

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
        token_type: Int[Array, "batch length"] | None = None,
        tokens: bool = True,
    ) -> TowerOutput:
        """Encodes texts.

        Args:
          token_ids: token numbers, padded at the end.
          text_mask: True where a token is real; padding is hidden from every token.
          row: the rows' global numbers; nothing is drawn by them here.
          train: whether numbers are dropped (needs an rng named 'dropout').
          token_type: each token's kind; None for 0 everywhere.
          tokens: whether the tokens are wanted too, or the pooled vector alone.

        Raises:
          ValueError: texts that are too long, or an unknown option.
        """
        del row
        self._check(token_ids)
        x = self._normalise(self._embed(token_ids, token_type), train)
        alone = self.pooling != "mean" and not tokens
        x = self._run(x, text_mask, train, place=0 if alone else None)
        pooled = self._pool(x, text_mask)
        return TowerOutput(None, None, pooled) if alone else TowerOutput(x, text_mask, pooled)

    def _normalise(
        self, x: Float[Array, "batch length dim"], train: bool
    ) -> Float[Array, "batch length dim"]:
        """Embedded tokens through the layer norm, with numbers dropped in training."""
        dtype = compute_type(self.dtype)
        x = x.astype(dtype)
        x = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=dtype, name="embedding_norm")(x)
        if train and self.dropout:
            x = nn.Dropout(self.dropout, deterministic=False)(x)
        return x

    def _run(
        self,
        x: Float[Array, "batch length dim"],
        mask: Bool[Array, "batch length"],
        train: bool,
        norm: str = "after",
        place: Place | None = None,
    ) -> Float[Array, "batch wanted dim"]:
        """The blocks over tokens of which the real ones are seen; for `place` see `run_blocks`."""
        return run_blocks(
            constrain(x, "batch", None, None),
            mask[:, None],  # [b, n] -> [b, 1, n]
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            norm_epsilon=self.norm_epsilon,
            dtype=self.dtype,
            scan=self.scan,
            remat=self.remat,
            attention=self.attention,
            norm=norm,
            dropout=self.dropout if train else 0.0,
            tower=self,
            place=place,
        )

    def _check(self, token_ids: Any) -> None:
        """Raises ValueError where options or inputs do not fit each other."""
        if self.pooling not in POOLING:
            raise ValueError(f"pooling={self.pooling!r} is none of {', '.join(POOLING)}.")
        if token_ids.shape[1] > self.length:
            raise ValueError(
                f"texts are {token_ids.shape[1]} tokens long, the model's length is {self.length}; "
                "cut the texts or choose a larger length."
            )

    def _embed(
        self, token_ids: Int[Array, "batch length"], token_type: Int[Array, "batch length"] | None
    ) -> Float[Array, "batch length dim"]:
        """Sums of a token's, its position's and its kind's vector."""
        path = "/".join((*self.path, "token_embedding"))
        kinds = self.token_type_embedding
        x = look_up(self.token_embedding, token_ids, path)
        x = x + self.position_embedding[: token_ids.shape[1]]
        return x + (kinds[0] if token_type is None else jnp.take(kinds, token_type, axis=0))

    def _pool(
        self, x: Float[Array, "batch tokens dim"], text_mask: Bool[Array, "batch length"]
    ) -> Float[Array, "batch dim"]:
        """One vector for each text."""
        first = x[:, 0]
        if self.pooling == "tanh" or self.spare_pooler:
            how = {"kernel_init": nn.initializers.normal(0.02), "name": "pool"}
            made = jnp.tanh(Dense(self.dim, dtype=compute_type(self.dtype), **how)(first))
            if self.pooling == "tanh":
                return made
            self.sow("intermediates", "pooler", made)
        return first if self.pooling == "class" else mean(x, text_mask)


def _size(dim: int, depth: int, num_heads: int, mlp_dim: int) -> dict[str, int]:
    """Field values of a size."""
    return {"dim": dim, "depth": depth, "num_heads": num_heads, "mlp_dim": mlp_dim}


def bert_base() -> dict[str, int]:
    """Fields of BERT-Base.

    Source: Devlin et al. 2018 (BERT), section 3.
    """
    return _size(768, 12, 12, 3072)


def bert_large() -> dict[str, int]:
    """Fields of BERT-Large; see `bert_base`."""
    return _size(1024, 24, 16, 4096)
