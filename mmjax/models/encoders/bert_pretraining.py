"""BERT with the two heads that it is pretrained by: the masked words, and the next sentence."""

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.dual.two_tower import unit_length
from mmjax.models.encoders.bert import Bert
from mmjax.models.layers.dense import Dense
from mmjax.models.layers.masked_lm import MaskedLmHead
from mmjax.typing import Array, Bool, Encoded, Float, Int


class BertPretraining(nn.Module):
    """A BERT tower, a masked-LM head, by default tied to its token table, a next-sentence head.

    Parameters lie under 'text', 'masked_lm' and, where there is one, 'next_sentence_head'.

    Attributes:
      text: the tower.
      next_sentence: whether there is a next-sentence head; it reads the pooled vector.
      tied: whether the masked-LM head scores by the token table; otherwise by a table of its own,
        'output_embedding'.

    Source: Devlin et al. 2018 (BERT), section 3.1.
    """

    text: Bert
    next_sentence: bool = True
    tied: bool = True

    def setup(self):
        """Makes the heads, which compute as the tower does."""
        tower = self.text
        self.masked_lm = MaskedLmHead(tower.activation, tower.norm_epsilon, tower.dtype)
        if not self.tied:
            shape = (tower.vocab_size, tower.dim)
            init = nn.initializers.normal(0.02)
            self.output_embedding = self.param("output_embedding", init, shape)
        if self.next_sentence:
            init = nn.initializers.normal(0.02)
            self.next_sentence_head = Dense(2, kernel_init=init)

    def encode_text(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
        token_type: Int[Array, "batch length"] | None = None,
    ) -> Encoded:
        """The tower's tokens and pooled vector, which both heads read; see `Bert` for the words."""
        out = self.text(token_ids, text_mask, row=row, train=train, token_type=token_type)
        pooled = out.pooled.astype(jnp.float32)
        return Encoded(out.tokens, out.mask, pooled, unit_length(pooled))

    def masked_lm_logits(
        self, tokens: Float[Array, "batch length dim"]
    ) -> Float[Array, "batch length words"]:
        """Logits of all words, float32, for tokens of the tower: all of them or those asked for."""
        if not self.tied:
            path = "/".join((*self.path, "output_embedding"))
            return self.masked_lm(tokens, self.output_embedding, path)
        path = "/".join((*self.text.path, "token_embedding"))
        return self.masked_lm(tokens, self.text.token_embedding, path)

    def next_sentence_logits(self, pooled: Float[Array, "batch dim"]) -> Float[Array, "batch two"]:
        """Logits of 'the second sentence follows the first' and 'it does not', float32.

        Raises:
          ValueError: a model without this head.
        """
        if not self.next_sentence:
            raise ValueError("This model has no next-sentence head; set next_sentence=True.")
        return self.next_sentence_head(pooled.astype(jnp.float32))

    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
        token_type: Int[Array, "batch length"] | None = None,
    ) -> tuple[Float[Array, "batch length words"], Float[Array, "batch two"] | None]:
        """Logits of the masked-LM head at each token, and of the next-sentence head or None."""
        out = self.encode_text(token_ids, text_mask, row, train, token_type)
        following = self.next_sentence_logits(out.pooled) if self.next_sentence else None
        return self.masked_lm_logits(out.tokens), following
