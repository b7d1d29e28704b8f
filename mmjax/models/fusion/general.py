"""Fusion over any picture tower and any text tower, in three forms that one field chooses from."""

from typing import Any, ClassVar

import jax.numpy as jnp

from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.fusion.blocks import Blocks
from mmjax.models.fusion.early import Early
from mmjax.models.fusion.heads import AnswerHead, ScoreHead, WordsAsked, check_heads, need
from mmjax.models.fusion.hierarchical import Hierarchical
from mmjax.models.fusion.late import Late
from mmjax.models.fusion.pictures import each, judged, numbered, together
from mmjax.models.interfaces import Fused
from mmjax.models.layers.looking import sow_grid
from mmjax.models.layers.masked_lm import MaskedLmHead
from mmjax.typing import Array, Bool, Encoded, Float, Int, MadeOf, View

FORMS = ("late", "early", "hierarchical")
HEADS = ("masked_lm", "matching", "answer", "reasoning", "classify")
_IMAGE = View("encode_image", ("image", "row"))
_TEXT = View("encode_text", ("token_ids", "text_mask", "token_type", "row"))


class GeneralFusion(TwoTower, WordsAsked):
    """A `TwoTower` whose towers are also looked at together, and heads on what comes of it.

    Contrastive objectives, those that fuse and classification share the towers' passes of a step:
    `fuse` is made of `encode_image`, `encode_text` and `join`. Parameters lie where those of
    `TwoTower` lie, so its weights are a start; the fusion's under 'fusion', the heads' under
    'masked_lm', 'matching_head', 'answer_head', 'reasoning_head' and 'class_head'. The fusion is as
    wide as the text tower and computes as it does.

    Attributes:
      form: 'late': the pooled vectors of the shared space are made one, see `Late`; 'early': one
        stream of blocks over all tokens, see `Early`; 'hierarchical': blocks over the words that
        look at the picture's tokens, see `Hierarchical`.
      depth: number of blocks of 'early' and 'hierarchical'.
      combine: of 'late': 'concatenate', 'product' or 'gated'.
      look_every: of 'hierarchical': at every how many blocks the words look at the picture.
      heads: of 'masked_lm' (which word stands there; not with 'late', whose words know of no
        picture), 'matching' (does the text tell of the picture), 'answer' (which answer),
        'reasoning' (is a statement about `pictures` pictures true) and 'classify' (which class is
        the picture of, by itself).
      answers: number of answers of the 'answer' head.
      classes: number of classes of the 'classify' head.
      pictures: of a row, for the 'reasoning' head.

    Source: Li et al. 2021 (ALBEF), section 3, for one model with contrastive and fused objectives.
    """

    form: str = "late"
    depth: int = 6
    combine: str = "concatenate"
    look_every: int = 1
    heads: tuple[str, ...] = ("matching",)
    answers: int = 3129
    classes: int = 1000
    pictures: int = 2

    made_of: ClassVar[dict[str, MadeOf]] = {
        "fuse": MadeOf("join", {"image": _IMAGE, "text": _TEXT}),
        "classify": MadeOf("class_logits", {"image": _IMAGE}),
    }

    def setup(self):
        """Makes the fusion and the heads, whose scores are float32."""
        super().setup()
        check_heads(self.heads, HEADS)
        if self.form not in FORMS:
            raise ValueError(f"form={self.form!r} is none of {', '.join(FORMS)}.")
        if self.form == "late" and "masked_lm" in self.heads:
            raise ValueError(
                "heads has 'masked_lm', and with form='late' words know of no picture; choose "
                "form='early' or 'hierarchical', or leave the head out."
            )
        text = self.text
        if self.form == "late":
            self.fusion = Late(text.dim, self.combine)
        else:
            how = Blocks.like(text, self.depth)
            early = self.form == "early"
            self.fusion = Early(how) if early else Hierarchical(how, self.look_every)
        if "masked_lm" in self.heads:
            self.masked_lm = MaskedLmHead(how.activation, how.norm_epsilon, how.dtype)
        if "matching" in self.heads:
            self.matching_head = ScoreHead(1)
        if "answer" in self.heads:
            self.answer_head = AnswerHead(self.answers, 2 * text.dim)
        if "reasoning" in self.heads:
            self.reasoning_head = AnswerHead(2, 2 * text.dim)
        if "classify" in self.heads:
            self.class_head = ScoreHead(self.classes)

    def encode_image(
        self,
        image: Float[Array, "batch *pictures height width channels"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> Encoded:
        """Normalised pictures in the shared space, with an axis of pictures where they have one."""
        if image.ndim == 4:
            made = super().encode_image(image, row, train)
            sow_grid(self, self.image, image, made.tokens)
            return made
        pictures = image.shape[1]
        flat = image.reshape(-1, *image.shape[2:])  # [b, p, h, w, c] -> [b * p, h, w, c]
        made = super().encode_image(flat, numbered(row, pictures), train)
        sow_grid(self, self.image, flat, made.tokens)
        return Encoded(*(x if x is None else x.reshape(-1, pictures, *x.shape[1:]) for x in made))

    def join(self, image: Encoded, text: Encoded, train: bool = False) -> Fused:
        """What `encode_image` and `encode_text` gave, looked at together.

        Of several pictures of a text each goes with the text alone; their tokens stand one after
        another, their pooled vectors side by side.
        """
        if image.pooled.ndim == 2:
            return self._join(image, text, train)
        pictures = image.pooled.shape[1]
        one = Encoded(*each(image._asdict(), pictures, image._fields).values())
        words = Encoded(*each(text._asdict(), pictures, ()).values())
        return together(self._join(one, words, train), pictures)

    def _join(self, image: Encoded, text: Encoded, train: bool) -> Fused:
        """Texts with one picture each."""
        real = jnp.ones(text.tokens.shape[:2], bool) if text.mask is None else text.mask
        if self.form == "late":
            pooled = self.fusion(text.pooled, image.pooled)
            return Fused(text.tokens, real, image.tokens, image.mask, pooled)
        return self.fusion(text.tokens, real, image.tokens, image.mask, train)

    def fuse(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        image: Float[Array, "batch *pictures height width channels"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
        token_type: Int[Array, "batch length"] | None = None,
    ) -> Fused:
        """Texts with pictures: both towers, then `join`."""
        text = self.encode_text(token_ids, text_mask, row, train, token_type)
        return self.join(self.encode_image(image, row, train), text, train)

    def classify(
        self,
        image: Float[Array, "batch height width channels"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch classes"]:
        """Scores of each class, before any softmax, of normalised pictures."""
        return self.class_logits(self.encode_image(image, row, train))

    def class_logits(self, image: Encoded) -> Float[Array, "batch classes"]:
        """Scores of each class, float32, of what `encode_image` gave."""
        need(self.heads, "classify")
        return self.class_head(image.pooled)

    def matching_logits(self, fused: Fused) -> Float[Array, " batch"]:
        """Logarithm of the odds that the text tells of the picture."""
        need(self.heads, "matching")
        return self.matching_head(fused.pooled)[:, 0]

    def answer_logits(self, fused: Fused) -> Float[Array, "batch answers"]:
        """Scores of all answers, float32."""
        need(self.heads, "answer")
        return self.answer_head(fused.pooled)

    def reasoning_logits(self, fused: Fused) -> Float[Array, "batch two"]:
        """Scores of 'the statement is false' and 'it is true', float32.

        Raises:
          ValueError: another number of pictures than the model's.
        """
        need(self.heads, "reasoning")
        return self.reasoning_head(judged(fused.pooled, self.text.dim, self.pictures))

    def __call__(
        self,
        image: Float[Array, "batch *pictures height width channels"],
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> tuple[Fused, dict[str, Any], dict[str, Float[Array, ""]]]:
        """What `fuse` gives, {head: its scores} and the scalars; this is what `init` runs.

        Of several pictures of a row the first is looked at; for 'reasoning' it stands for all.
        """
        first = image if image.ndim == 4 else image[:, 0]
        seen = self.encode_image(first, row, train)
        fused = self.join(seen, self.encode_text(token_ids, text_mask, row, train), train)
        pairs = fused._replace(pooled=jnp.tile(fused.pooled, (1, self.pictures)))
        asked = {
            "masked_lm": lambda: self.masked_lm_logits(fused.text),
            "matching": lambda: self.matching_logits(fused),
            "answer": lambda: self.answer_logits(fused),
            "reasoning": lambda: self.reasoning_logits(pairs),
            "classify": lambda: self.class_logits(seen),
        }
        return fused, {head: asked[head]() for head in self.heads}, self.scalars()
