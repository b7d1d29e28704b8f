"""ViLT: words and patches of a picture as one sequence, without a picture tower before it."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.encoders.bert import Bert
from mmjax.models.fusion.heads import WordsAsked, check_heads, need
from mmjax.models.fusion.patch_tokens import PatchTokens
from mmjax.models.fusion.pictures import each, judged, numbered, together
from mmjax.models.interfaces import Fused
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.dense import Dense
from mmjax.models.layers.masked_lm import MaskedLmHead
from mmjax.models.layers.mlp import gelu
from mmjax.typing import Array, Bool, Float, Int

HEADS = ("masked_lm", "matching", "answer", "reasoning")


class ViltStream(Bert):
    """Words embedded as by `Bert` and patches embedded as by a ViT, through pre-norm blocks.

    Parameters lie where those of `Bert` lie; the patches' own under 'patches', besides
    'modality_embedding' and 'norm'.

    Attributes:
      image_size: side in pixels of the square picture that the table of positions is of.
      patch_size: side of a patch, in pixels.
      max_patches: most patches of a picture that are looked at, or None for all. Of more, training
        draws some by the row's number, and otherwise they are taken evenly in reading order.
      modalities: rows of the table that tells text (0) and the n-th picture (n, from 1) apart.

    Source: Kim et al. 2021 (ViLT), section 3.1 and figure 3.
    """

    length: int = 40
    image_size: int = 384
    patch_size: int = 32
    max_patches: int | None = None
    modalities: int = 2

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        image: Float[Array, "batch height width channels"],
        image_mask: Bool[Array, "batch height width"] | None = None,
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
        token_type: Int[Array, "batch length"] | None = None,
        picture: Int[Array, " batch"] | None = None,
    ) -> Fused:
        """Encodes texts with pictures: first all words, then a class token and the patches.

        Args:
          token_ids: token numbers, padded at the end.
          text_mask: True where a token is real.
          image: normalised pixels, of any size.
          image_mask: True where a pixel is no padding; None where there is no padding.
          row: the rows' global numbers; needed where training draws patches.
          train: whether numbers are dropped (needs an rng named 'dropout') and patches drawn (needs
            'rows').
          token_type: each token's kind; None for 0 everywhere.
          picture: which picture of its row it is, from 0; None for the first.

        Raises:
          ValueError: texts that are too long, or an unknown option.
        """
        self._check(token_ids)
        dropout = self.dropout if train else 0.0
        init = nn.initializers.normal(0.02)
        kinds = self.param("modality_embedding", init, (self.modalities, self.dim))
        words = self._normalise(self._embed(token_ids, token_type), train)
        sizes = (self.image_size, self.patch_size, self.dim, self.max_patches)
        patches = PatchTokens(*sizes, dropout, self.dtype, name="patches")
        seen, seen_mask = patches(image, image_mask, row, train)
        number = jnp.zeros(image.shape[0], jnp.int32) if picture is None else picture
        dtype = compute_type(self.dtype)
        seen = seen + jnp.take(kinds, 1 + number, axis=0)[:, None].astype(dtype)
        x = jnp.concatenate([words + kinds[0].astype(dtype), seen], axis=1)
        mask = jnp.concatenate([text_mask, seen_mask], axis=1)
        x = self._run(x, mask, train, norm="before")
        x = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=dtype, name="norm")(x)
        pooled = self._pool(x, mask).astype(jnp.float32)
        length = token_ids.shape[1]
        return Fused(x[:, :length], text_mask, x[:, length:], seen_mask, pooled)


class NormedHead(nn.Module):
    """Dense layer, layer norm, GELU and a dense layer; float32.

    Attributes:
      hidden: width between the two.
      scores: width of the result.

    Source: Kim et al. 2021 (ViLT), section 4.3.
    """

    hidden: int
    scores: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch dim"]) -> Float[Array, "batch scores"]:
        def dense(x: Float[Array, "batch dim"], features: int, name: str) -> Float[Array, "..."]:
            return Dense(features, kernel_init=nn.initializers.normal(0.02), name=name)(x)

        x = nn.LayerNorm(epsilon=1e-5, name="norm")(dense(x, self.hidden, "hidden"))
        return dense(gelu(x), self.scores, "scores")


class Vilt(WordsAsked):
    """A stream over words and patches, and the heads that it is trained and asked by.

    Parameters lie under 'stream', 'masked_lm', 'matching_head', 'answer_head' and 'reasoning_head',
    where there are these heads.

    Attributes:
      stream: the tower; its `modalities` are one more than `pictures`.
      heads: of 'masked_lm' (which word stands there), 'matching' (does the text tell of the
        picture), 'answer' (which answer) and 'reasoning' (is a statement true).
      answers: number of answers of the 'answer' head.
      pictures: of a row, for the 'reasoning' head.

    Source: Kim et al. 2021 (ViLT), sections 3.2 and 4.
    """

    reader: ClassVar[str] = "stream"

    stream: ViltStream
    heads: tuple[str, ...] = ("masked_lm", "matching")
    answers: int = 3129
    pictures: int = 2

    def setup(self):
        """Makes the heads; their scores are float32."""
        check_heads(self.heads, HEADS)
        tower = self.stream
        if "masked_lm" in self.heads:
            self.masked_lm = MaskedLmHead(tower.activation, tower.norm_epsilon, tower.dtype)
        if "matching" in self.heads:
            self.matching_head = Dense(1, kernel_init=nn.initializers.normal(0.02))
        if "answer" in self.heads:
            self.answer_head = NormedHead(2 * tower.dim, self.answers)
        if "reasoning" in self.heads:
            self.reasoning_head = NormedHead(self.pictures * tower.dim, 2)

    def fuse(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        image: Float[Array, "batch *pictures height width channels"],
        image_mask: Bool[Array, "batch *pictures height width"] | None = None,
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
        token_type: Int[Array, "batch length"] | None = None,
    ) -> Fused:
        """Texts and pictures together; see `ViltStream` for the words.

        Of several pictures of a row, an axis before their height, each goes with the text alone.
        Their tokens stand one after another, their pooled vectors side by side.

        Raises:
          ValueError: rows of more pictures than the stream can tell apart.
        """
        if image.ndim == 4:
            return self.stream(token_ids, text_mask, image, image_mask, row, train, token_type)
        pictures = image.shape[1]
        if pictures >= self.stream.modalities:
            raise ValueError(
                f"rows have {pictures} pictures, and a stream with modalities="
                f"{self.stream.modalities} tells words and {self.stream.modalities - 1} apart; set "
                f"its modalities to {pictures + 1}."
            )
        words = {
            "token_ids": token_ids,
            "text_mask": text_mask,
            "image": image,
            "image_mask": image_mask,
            "row": row,
            "token_type": token_type,
        }
        words = each(words, pictures, ("image", "image_mask"))
        number = jnp.tile(jnp.arange(pictures), image.shape[0])
        if row is not None:  # another draw of patches for each picture
            words["row"] = numbered(row, pictures)
        return together(self.stream(**words, train=train, picture=number), pictures)

    def matching_logits(self, fused: Fused) -> Float[Array, " batch"]:
        """Logarithm of the odds that the text tells of the picture."""
        need(self.heads, "matching")
        return self.matching_head(fused.pooled)[:, 0]

    def answer_logits(self, fused: Fused) -> Float[Array, "batch answers"]:
        """Scores of all answers, float32."""
        need(self.heads, "answer")
        return self.answer_head(fused.pooled)

    def reasoning_logits(self, fused: Fused) -> Float[Array, "batch two"]:
        """Scores of 'the statement is false' and 'it is true', float32."""
        need(self.heads, "reasoning")
        return self.reasoning_head(judged(fused.pooled, self.stream.dim, self.pictures))

    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        image: Float[Array, "batch *pictures height width channels"],
        image_mask: Bool[Array, "batch *pictures height width"] | None = None,
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> tuple[Fused, dict[str, Any]]:
        """What `fuse` gives and {head: its scores}; this is what `init` runs.

        Where the 'reasoning' head is there and a row has one picture, that stands for all.
        """
        fused = self.fuse(token_ids, text_mask, image, image_mask, row, train)
        first = fused._replace(pooled=fused.pooled[:, : self.stream.dim])
        many = self.pictures if image.ndim == 4 else 1
        pairs = fused._replace(pooled=jnp.tile(fused.pooled, (1, many)))
        scores: dict[str, Any] = {}
        for head in self.heads:
            if head == "masked_lm":
                scores[head] = self.masked_lm_logits(fused.text)
            elif head == "reasoning":
                scores[head] = self.reasoning_logits(pairs)
            else:
                scores[head] = getattr(self, f"{head}_logits")(first)
        return fused, scores

    def example(self) -> dict[str, Any]:
        """One row of zeros for each word that is needed."""
        tower = self.stream
        return {
            "token_ids": jnp.zeros((1, tower.length), jnp.int32),
            "text_mask": jnp.ones((1, tower.length), bool),
            "image": jnp.zeros((1, tower.image_size, tower.image_size, 3)),
        }
