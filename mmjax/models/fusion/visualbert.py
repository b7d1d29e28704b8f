"""VisualBERT: words and regions of a picture as one sequence, which a BERT reads."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.encoders.bert import Bert
from mmjax.models.fusion.heads import WordsAsked, check_heads, need
from mmjax.models.fusion.phrases import PhraseAlignment
from mmjax.models.interfaces import Fused, TowerOutput
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.dense import Dense
from mmjax.models.layers.masked_lm import MaskedLmHead
from mmjax.models.layers.pooling import at
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Bool, Float, Int

HEADS = ("masked_lm", "matching", "answer", "reasoning", "alignment")


class RegionEmbedding(nn.Module):
    """Features of regions to tokens: a dense layer, and vectors for the region's kind and place.

    Regions have no order, so all take the first row of the table of places; where it is known which
    words name a region, the mean of these words' own places is added.

    Attributes:
      dim: width of a token.
      kinds: number of kinds of regions.
      length: rows of the table of places, as published models have it.
      dtype: type to compute in, see `compute_type`.

    Source: Li et al. 2019 (VisualBERT), section 3.2; transformers,
    models/visual_bert/modeling_visual_bert.py `VisualBertEmbeddings`.
    """

    dim: int
    kinds: int = 2
    length: int = 512
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        regions: Float[Array, "batch regions features"],
        region_types: Int[Array, "batch regions"],
        region_words: Int[Array, "batch regions aligned"] | None,
        word_places: Float[Array, "length dim"],
    ) -> Float[Array, "batch regions dim"]:
        """Tokens of regions.

        Args:
          regions: features.
          region_types: kind of each region.
          region_words: places in the text of the words that name each region, -1 for none.
          word_places: the text's table of places.
        """
        init = nn.initializers.normal(0.02)
        dtype = compute_type(self.dtype)
        x = Dense(self.dim, kernel_init=init, name="projection", dtype=dtype)(regions)
        kinds = self.param("type_embedding", init, (self.kinds, self.dim))
        places = self.param("position_embedding", init, (self.length, self.dim))
        x = x + jnp.take(kinds, region_types, axis=0) + places[0]
        if region_words is None:
            return x
        named = (region_words != -1).astype(jnp.float32)
        # Whole on each device: it is small, and what is taken by it is the batch's.
        table = constrain(word_places, None, None)
        vectors = jnp.take(table, jnp.where(region_words == -1, 0, region_words), axis=0)
        total = jnp.einsum("brad,bra->brd", vectors, named)
        return x + total / jnp.maximum(named.sum(axis=-1, keepdims=True), 1)


class VisualBertStream(Bert):
    """A `Bert` whose sequence goes on with the regions of a picture.

    Fields and parameters are those of `Bert`; the regions' own lie under 'regions'. So BERT's
    weights are a start for it.

    Attributes:
      region_dim: width of a region's features.

    Source: Li et al. 2019 (VisualBERT), section 3.
    """

    region_dim: int = 2048

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        regions: Float[Array, "batch regions features"],
        region_mask: Bool[Array, "batch regions"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
        token_type: Int[Array, "batch length"] | None = None,
        region_types: Int[Array, "batch regions"] | None = None,
        region_words: Int[Array, "batch regions aligned"] | None = None,
    ) -> TowerOutput:
        """Encodes texts with pictures: first all words, then all regions.

        Args:
          token_ids: token numbers, padded at the end.
          text_mask: True where a token is real.
          regions: features of the regions.
          region_mask: True where a region is real; padding is hidden from every token.
          row: the rows' global numbers; nothing is drawn by them here.
          train: whether numbers are dropped (needs an rng named 'dropout').
          token_type: each token's kind; None for 0 everywhere.
          region_types: each region's kind; None for the last kind everywhere.
          region_words: see `RegionEmbedding`.

        Raises:
          ValueError: texts that are too long, features of another width, or an unknown option.
        """
        del row
        self._check(token_ids)
        if regions.shape[-1] != self.region_dim:
            raise ValueError(
                f"regions have {regions.shape[-1]} features, the model's region_dim is "
                f"{self.region_dim}; make them equal."
            )
        if region_types is None:
            region_types = jnp.full(regions.shape[:2], self.token_types - 1)
        embed = RegionEmbedding(self.dim, self.token_types, self.length, self.dtype, name="regions")
        seen = embed(regions, region_types, region_words, self.position_embedding)
        x = jnp.concatenate([self._embed(token_ids, token_type), seen], axis=1)
        mask = jnp.concatenate([text_mask, region_mask], axis=1)
        x = self._run(self._normalise(x, train), mask, train)
        return TowerOutput(x, mask, self._pool(x, mask))


class VisualBert(WordsAsked):
    """A stream over words and regions, and the heads that it is trained and asked by.

    Parameters lie under 'stream', 'masked_lm', 'matching_head', 'answer_head', 'reasoning_head' and
    'alignment', where there are these heads.

    Attributes:
      stream: the tower.
      heads: of 'masked_lm' (which word stands there), 'matching' (does the text tell of the
        picture), 'answer' (which answer), 'reasoning' (is a statement true) and 'alignment' (which
        region does a phrase name).
      answers: number of answers of the 'answer' head.

    Source: Li et al. 2019 (VisualBERT), sections 3.3 and 4.
    """

    reader: ClassVar[str] = "stream"

    stream: VisualBertStream
    heads: tuple[str, ...] = ("masked_lm", "matching")
    answers: int = 3129

    def setup(self):
        """Makes the heads; their scores are float32."""
        check_heads(self.heads, HEADS)
        tower = self.stream
        if "masked_lm" in self.heads:
            self.masked_lm = MaskedLmHead(tower.activation, tower.norm_epsilon, tower.dtype)
        if "matching" in self.heads:
            self.matching_head = self._scores(2)
        if "answer" in self.heads:
            self.answer_head = self._scores(self.answers)
        if "reasoning" in self.heads:
            self.reasoning_head = self._scores(2)
        if "alignment" in self.heads:
            self.alignment = PhraseAlignment(tower.dim // tower.num_heads)
        self.drop = nn.Dropout(tower.dropout)

    def _scores(self, number: int) -> Dense:
        return Dense(number, kernel_init=nn.initializers.normal(0.02))

    def fuse(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        regions: Float[Array, "batch *pictures regions features"],
        region_mask: Bool[Array, "batch *pictures regions"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
        token_type: Int[Array, "batch length"] | None = None,
        region_types: Int[Array, "batch *pictures regions"] | None = None,
        region_words: Int[Array, "batch *pictures regions aligned"] | None = None,
    ) -> Fused:
        """Texts and pictures together; see `VisualBertStream` for the words.

        Several pictures of a row, an axis before that of the regions, are one sequence. Unless
        `region_types` says otherwise a region of the n-th of them is of kind n, from 0.
        """
        if regions.ndim == 4:
            if region_types is None:
                numbers = jnp.arange(regions.shape[1])[:, None]  # [pictures, 1]
                region_types = jnp.broadcast_to(numbers, regions.shape[:3])
            regions, region_mask, region_types, region_words = (
                None if x is None else x.reshape(x.shape[0], -1, *x.shape[3:])
                for x in (regions, region_mask, region_types, region_words)
            )
        kinds = (token_type, region_types, region_words)
        out = self.stream(token_ids, text_mask, regions, region_mask, row, train, *kinds)
        length, pooled = token_ids.shape[1], out.pooled.astype(jnp.float32)
        return Fused(out.tokens[:, :length], text_mask, out.tokens[:, length:], region_mask, pooled)

    def matching_scores(self, fused: Fused) -> Float[Array, "batch two"]:
        """Scores of 'the text tells of the picture' and 'it does not', float32."""
        need(self.heads, "matching")
        return self.matching_head(fused.pooled)

    def matching_logits(self, fused: Fused) -> Float[Array, " batch"]:
        """Logarithm of the odds that the text tells of the picture."""
        scores = self.matching_scores(fused)
        return scores[:, 0] - scores[:, 1]

    def answer_logits(self, fused: Fused, train: bool = False) -> Float[Array, "batch answers"]:
        """Scores of all answers, float32.

        The last real token but one is read: the question mark, or where a mask token was put.
        """
        need(self.heads, "answer")
        place = jnp.maximum(fused.text_mask.sum(axis=1) - 2, 0)
        return self.answer_head(self._drop(at(fused.text, place)[:, 0], train))

    def reasoning_logits(self, fused: Fused, train: bool = False) -> Float[Array, "batch two"]:
        """Scores of 'the statement is false' and 'it is true', float32."""
        need(self.heads, "reasoning")
        return self.reasoning_head(self._drop(fused.pooled, train))

    def alignment_logits(
        self, fused: Fused, phrases: Int[Array, "batch phrases"]
    ) -> Float[Array, "batch phrases regions"]:
        """How well each region suits each phrase, float32.

        Args:
          fused: of `fuse`.
          phrases: place of each phrase's token in the whole sequence; -1 for padding, whose scores
            mean nothing.
        """
        need(self.heads, "alignment")
        tokens = jnp.concatenate([fused.text, fused.image], axis=1)
        chosen = jnp.take_along_axis(tokens, jnp.maximum(phrases, 0)[..., None], axis=1)
        return self.alignment(chosen, fused.image, fused.image_mask)

    def _drop(self, x: Float[Array, "batch dim"], train: bool) -> Float[Array, "batch dim"]:
        return self.drop(x.astype(jnp.float32), deterministic=not train)

    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        regions: Float[Array, "batch *pictures regions features"],
        region_mask: Bool[Array, "batch *pictures regions"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> tuple[Fused, dict[str, Any]]:
        """What `fuse` gives and {head: its scores}; this is what `init` runs."""
        fused = self.fuse(token_ids, text_mask, regions, region_mask, row, train)
        scores: dict[str, Any] = {}
        for head in self.heads:
            if head == "masked_lm":
                scores[head] = self.masked_lm_logits(fused.text)
            elif head == "matching":
                scores[head] = self.matching_scores(fused)
            elif head == "alignment":
                first = jnp.zeros((token_ids.shape[0], 1), jnp.int32)
                scores[head] = self.alignment_logits(fused, first)
            else:
                scores[head] = getattr(self, f"{head}_logits")(fused, train)
        return fused, scores

    def example(self) -> dict[str, Any]:
        """One row of zeros for each word, with a single region."""
        tower = self.stream
        return {
            "token_ids": jnp.zeros((1, tower.length), jnp.int32),
            "text_mask": jnp.ones((1, tower.length), bool),
            "regions": jnp.zeros((1, 1, tower.region_dim)),
            "region_mask": jnp.ones((1, 1), bool),
        }
