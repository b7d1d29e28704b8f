"""LXMERT: words and regions among themselves, then layers in which they look at each other."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.regions import RegionTower
from mmjax.models.fusion.heads import (
    INITIAL,
    AnswerHead,
    RegionHead,
    ScoreHead,
    WordsAsked,
    check_heads,
    need,
)
from mmjax.models.fusion.pictures import each, pair, together
from mmjax.models.interfaces import Fused
from mmjax.models.layers.attention import Attention
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.dense import Dense
from mmjax.models.layers.masked_lm import MaskedLmHead
from mmjax.models.layers.transformer import Block, stacked
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Bool, Float, Int

HEADS = ("masked_lm", "matching", "regions", "answer", "reasoning")
REGIONS = (("object", 1600), ("attribute", 400), ("feature", 2048))


class Crossing(nn.Module):
    """Words look at regions and regions at words by one attention; then a block for each stream.

    Attributes:
      num_heads: attention heads; must divide the width.
      mlp_dim: width inside the perceptrons.
      activation: see `Block`.
      norm_epsilon: see `Block`.
      init_scale: see `Block`.
      dtype: see `Block`.
      attention: see `Block`.
      recompute: see `Block`.
      dropout: see `Block`.

    The weights of the attention are sown as intermediate 'cross/weights', first those of the words
    over the regions, then those of the regions over the words.

    Source: Tan and Bansal 2019 (LXMERT), section 2.2; airsplay/lxmert, src/lxrt/modeling.py
    `LXRTXLayer`.
    """

    num_heads: int
    mlp_dim: int
    activation: str
    norm_epsilon: float
    init_scale: float
    dtype: str
    attention: str
    recompute: Callable[..., Any] | None
    dropout: float

    @nn.compact
    def __call__(
        self,
        streams: tuple[Float[Array, "batch length dim"], Float[Array, "batch regions dim"]],
        seen: tuple[Bool[Array, "batch 1 length"], Bool[Array, "batch 1 regions"]],
    ) -> tuple[tuple[Float[Array, "batch length dim"], Float[Array, "batch regions dim"]], None]:
        (text, image), (words, regions) = streams, seen
        cross = Attention(
            self.num_heads,
            self.init_scale,
            self.dtype,
            implementation=self.attention,
            recompute=self.recompute,
            name="cross",
        )
        dtype = compute_type(self.dtype)
        norm = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=dtype, name="cross_norm")

        def look(
            x: Float[Array, "batch _ dim"], keys: Float[Array, "batch _ dim"], mask: Any
        ) -> Float[Array, "..."]:
            made = cross(x, keys, mask)
            if self.dropout:
                made = nn.Dropout(self.dropout, deterministic=False)(made)
            return constrain(norm(x + made), "batch", None, None)

        def block(name: str) -> Block:
            return Block(
                self.num_heads,
                self.mlp_dim,
                self.activation,
                self.norm_epsilon,
                self.init_scale,
                self.dtype,
                attention=self.attention,
                recompute=self.recompute,
                norm="after",
                dropout=self.dropout,
                name=name,
            )

        text, image = look(text, image, regions), look(image, text, words)
        text, image = block("text")(text, words)[0], block("image")(image, regions)[0]
        return (text, image), None


class Lxmert(WordsAsked):
    """The two towers, the crossing layers, and the heads that it is trained and asked by.

    Parameters lie under 'text', 'image', 'crossings' (stacked) and 'pool', and, where there are
    these heads, under 'masked_lm', 'matching_head', 'regions_head', 'answer_head' and
    'reasoning_head'.

    Attributes:
      text: the language encoder, with pooling='class'; it says how the crossings compute too.
      image: the object-relationship encoder, as wide as `text`.
      depth: number of crossing layers.
      heads: of 'masked_lm' (which word stands there), 'matching' (does the text tell of the
        picture), 'regions' (what is this region), 'answer' (which answer) and 'reasoning' (is a
        statement about two pictures true).
      region_outputs: ((kind, number of scores), ...) of the 'regions' head. Published weights have
        'object' and 'attribute' (classes) and 'feature' (the region's features).
      answers: number of answers of the 'answer' head.

    Source: Tan and Bansal 2019 (LXMERT), sections 2 and 3.1; transformers,
    models/lxmert/modeling_lxmert.py; the 'reasoning' head is of airsplay/lxmert,
    src/tasks/nlvr2_model.py.
    """

    text: Bert
    image: RegionTower
    depth: int = 5
    heads: tuple[str, ...] = ("masked_lm", "matching", "regions", "answer")
    region_outputs: tuple[tuple[str, int], ...] = REGIONS
    answers: int = 9500

    def setup(self):
        """Makes the heads; their scores are float32."""
        check_heads(self.heads, HEADS)
        text = self.text
        how = (text.activation, text.norm_epsilon)
        if "masked_lm" in self.heads:
            self.masked_lm = MaskedLmHead(*how, text.dtype)
        if "matching" in self.heads:
            self.matching_head = ScoreHead(2)
        if "regions" in self.heads:
            self.regions_head = RegionHead(self.region_outputs, *how, text.dtype)
        if "answer" in self.heads:
            self.answer_head = AnswerHead(self.answers, 2 * text.dim, "gelu", text.norm_epsilon)
        if "reasoning" in self.heads:
            self.reasoning_head = AnswerHead(2, 2 * text.dim, "gelu", text.norm_epsilon)

    def fuse(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        regions: Float[Array, "batch *pictures regions features"],
        boxes: Float[Array, "batch *pictures regions places"],
        region_mask: Bool[Array, "batch *pictures regions"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
        token_type: Int[Array, "batch length"] | None = None,
    ) -> Fused:
        """Texts with the regions of their pictures.

        Args:
          token_ids: token numbers, padded at the end.
          text_mask: True where a token is real.
          regions: each region's features; of several pictures of a text with an axis for them.
          boxes: x1, y1, x2, y2 of each region as parts of the picture's width and height.
          region_mask: True where a region is real.
          row: the rows' global numbers; nothing is drawn by them here.
          train: whether numbers are dropped (needs an rng named 'dropout').
          token_type: each token's kind; None for 0 everywhere.

        Raises:
          ValueError: towers or inputs that do not fit each other.
        """
        del row
        words = {"token_ids": token_ids, "text_mask": text_mask, "token_type": token_type}
        words |= {"regions": regions, "boxes": boxes, "region_mask": region_mask}
        if regions.ndim == 3:
            return self._fuse(**words, train=train)
        pictures = regions.shape[1]
        words = each(words, pictures, ("regions", "boxes", "region_mask"))
        return together(self._fuse(**words, train=train), pictures)

    @nn.compact
    def _fuse(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        token_type: Int[Array, "batch length"] | None,
        regions: Float[Array, "batch regions features"],
        boxes: Float[Array, "batch regions places"],
        region_mask: Bool[Array, "batch regions"],
        train: bool,
    ) -> Fused:
        """Texts with one picture each."""
        text, image = self.text, self.image
        if text.dim != image.dim or text.pooling != "class":
            raise ValueError(
                f"text.dim={text.dim}, image.dim={image.dim}, text.pooling={text.pooling!r}: one "
                "attention serves both towers, so they are equally wide, and the text is pooled "
                "after it, so text.pooling='class'."
            )
        words = text(token_ids, text_mask, train=train, token_type=token_type)
        places = image(regions, boxes, region_mask, train=train)
        crossings, recompute = stacked(Crossing, self.depth, text.scan, text.remat)
        made = crossings(
            text.num_heads,
            text.mlp_dim,
            text.activation,
            text.norm_epsilon,
            (3 * self.depth) ** -0.5,  # three additions a layer: the sum keeps its variance
            text.dtype,
            text.attention,
            recompute,
            text.dropout if train else 0.0,
            name="crossings",
        )
        seen = (words.mask[:, None], places.mask[:, None])  # [b, n] -> [b, 1, n]
        (tokens, found), _ = made((words.tokens, places.tokens), seen)
        pool = Dense(text.dim, kernel_init=INITIAL, name="pool")
        pooled = pool(tokens[:, 0].astype(jnp.float32))
        return Fused(tokens, words.mask, found, places.mask, jnp.tanh(pooled))

    def matching_scores(self, fused: Fused) -> Float[Array, "batch two"]:
        """Scores of 'the text tells of another picture' and 'it tells of this one', float32."""
        need(self.heads, "matching")
        return self.matching_head(fused.pooled)

    def matching_logits(self, fused: Fused) -> Float[Array, " batch"]:
        """Logarithm of the odds that the text tells of the picture."""
        scores = self.matching_scores(fused)
        return scores[:, 1] - scores[:, 0]

    def region_logits(
        self, tokens: Float[Array, "batch regions dim"]
    ) -> dict[str, Float[Array, "batch regions _"]]:
        """{kind: scores, float32} for tokens of the picture."""
        need(self.heads, "regions")
        return self.regions_head(tokens)

    def answer_logits(self, fused: Fused, train: bool = False) -> Float[Array, "batch answers"]:
        """Scores of all answers, float32."""
        del train
        need(self.heads, "answer")
        return self.answer_head(fused.pooled)

    def reasoning_logits(self, fused: Fused, train: bool = False) -> Float[Array, "batch two"]:
        """Scores of 'the statement is false' and 'it is true' of two pictures, float32."""
        del train
        need(self.heads, "reasoning")
        return self.reasoning_head(pair(fused.pooled, self.text.dim))

    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        regions: Float[Array, "batch *pictures regions features"],
        boxes: Float[Array, "batch *pictures regions places"],
        region_mask: Bool[Array, "batch *pictures regions"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> tuple[Fused, dict[str, Any]]:
        """What `fuse` gives of each text's first picture, and {head: its scores}.

        This is what `init` runs. 'reasoning' is asked of the picture and the same picture again.
        """
        if regions.ndim == 4:
            regions, boxes, region_mask = (x[:, 0] for x in (regions, boxes, region_mask))
        fused = self.fuse(token_ids, text_mask, regions, boxes, region_mask, row, train)
        scores: dict[str, Any] = {}
        for head in self.heads:
            if head == "masked_lm":
                scores[head] = self.masked_lm_logits(fused.text)
            elif head == "matching":
                scores[head] = self.matching_scores(fused)
            elif head == "regions":
                scores[head] = self.region_logits(fused.image)
            elif head == "answer":
                scores[head] = self.answer_logits(fused)
            else:
                twice = jnp.concatenate([fused.pooled] * 2, axis=-1)
                scores[head] = self.reasoning_logits(fused._replace(pooled=twice))
        return fused, scores

    def example(self) -> dict[str, Any]:
        """One row of zeros for each word, with a single region."""
        return {
            "token_ids": jnp.zeros((1, self.text.length), jnp.int32),
            "text_mask": jnp.ones((1, self.text.length), bool),
            "regions": jnp.zeros((1, 1, self.image.feature_dim)),
            "boxes": jnp.zeros((1, 1, self.image.box_dim)),
            "region_mask": jnp.ones((1, 1), bool),
        }
