"""ViLBERT with the heads of its pretraining and of the twelve tasks."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.fusion.heads import (
    AnswerHead,
    RegionHead,
    ScaledAnswerHead,
    ScoreHead,
    WordsAsked,
    check_heads,
    need,
)
from mmjax.models.fusion.pictures import pair
from mmjax.models.fusion.vilbert_streams import VilbertStreams
from mmjax.models.interfaces import Fused
from mmjax.models.layers.masked_lm import MaskedLmHead
from mmjax.typing import Array, Bool, Float, Int

PRETRAINING = ("masked_lm", "matching", "regions")
EARLIER = (*PRETRAINING, "answer", "ranking", "grounding", "tagging")
TWELVE = (*EARLIER, "scene_answer", "entailment", "reasoning")
MASKED = -10_000.0  # added to the score of a region that is padding


class Vilbert(VilbertStreams, WordsAsked):
    """The two streams, and the heads that they are trained and asked by.

    Parameters of the heads lie under 'masked_lm' and, by their names, under 'matching_head' and so
    on. Scores are float32.

    Attributes:
      text: see `VilbertStreams`.
      image: see `VilbertStreams`.
      depth: see `VilbertStreams`.
      bridge_dim: see `VilbertStreams`.
      bridge_heads: see `VilbertStreams`.
      heads: of
        'masked_lm': which word stands there;
        'matching': does the text tell of the picture;
        'regions': of which class is a region;
        'answer': which answer (VQA);
        'scene_answer': which answer of a second vocabulary (GQA);
        'ranking': how well do text and picture suit each other, one number (retrieval, choices);
        'entailment': does the picture say so, leave it open or deny it;
        'reasoning': is a statement about two pictures true;
        'grounding': how well does a region suit the text, one number a region;
        'tagging': one number a word.
      region_classes: number of classes of the 'regions' head.
      answers: number of answers of the 'answer' head.
      scene_answers: number of answers of the 'scene_answer' head.
      scaled_answers: whether the 'answer' head is that of the earlier release, whose kernels are
        scaled by one number each.

    Source: Lu et al. 2020 (12-in-1), section 3.2.
    """

    heads: tuple[str, ...] = PRETRAINING
    region_classes: int = 1601
    answers: int = 3129
    scene_answers: int = 1533
    scaled_answers: bool = False

    def setup(self):
        """Makes the heads."""
        super().setup()
        check_heads(self.heads, TWELVE)
        wide, text = 2 * self.bridge_dim, self.text
        how = (text.activation, text.norm_epsilon, text.dtype)
        answers = ScaledAnswerHead if self.scaled_answers else AnswerHead
        made = {
            "matching": lambda: ScoreHead(2),
            "regions": lambda: RegionHead((("object", self.region_classes),), *how),
            "answer": lambda: answers(self.answers, wide),
            "scene_answer": lambda: AnswerHead(self.scene_answers, wide),
            "ranking": lambda: ScoreHead(1),
            "entailment": lambda: ScoreHead(3),
            "reasoning": lambda: AnswerHead(2, wide),
            "grounding": lambda: ScoreHead(1),
            "tagging": lambda: ScoreHead(1),
        }
        if "masked_lm" in self.heads:
            self.masked_lm = MaskedLmHead(*how)
        for head in self.heads:
            if head in made:
                setattr(self, f"{head}_head", made[head]())

    def matching_scores(self, fused: Fused) -> Float[Array, "batch two"]:
        """Scores of 'the text tells of the picture' and 'it does not'."""
        return self._head("matching")(fused.pooled)

    def matching_logits(self, fused: Fused) -> Float[Array, " batch"]:
        """Logarithm of the odds that the text tells of the picture."""
        scores = self.matching_scores(fused)
        return scores[:, 0] - scores[:, 1]

    def region_logits(
        self, tokens: Float[Array, "batch regions dim"]
    ) -> dict[str, Float[Array, "batch regions classes"]]:
        """{'object': scores of each class} for tokens of the picture."""
        return self._head("regions")(tokens)

    def answer_logits(self, fused: Fused, train: bool = False) -> Float[Array, "batch answers"]:
        """Scores of all answers."""
        del train
        return self._head("answer")(fused.pooled)

    def scene_answer_logits(self, fused: Fused) -> Float[Array, "batch answers"]:
        """Scores of all answers of the second vocabulary."""
        return self._head("scene_answer")(fused.pooled)

    def ranking_scores(self, fused: Fused) -> Float[Array, " batch"]:
        """How well text and picture suit each other."""
        return self._head("ranking")(fused.pooled)[:, 0]

    def entailment_logits(self, fused: Fused) -> Float[Array, "batch three"]:
        """Scores of the three relations of a statement to a picture."""
        return self._head("entailment")(fused.pooled)

    def reasoning_logits(self, fused: Fused, train: bool = False) -> Float[Array, "batch two"]:
        """Scores of 'the statement is false' and 'it is true' of two pictures."""
        del train
        return self._head("reasoning")(pair(fused.pooled, self.bridge_dim))

    def grounding_scores(self, fused: Fused) -> Float[Array, "batch regions"]:
        """How well each region suits the text; padding is 10,000 below."""
        scores = self._head("grounding")(fused.image)[..., 0]
        return scores + MASKED * (1.0 - fused.image_mask.astype(jnp.float32))

    def tagging_scores(self, fused: Fused) -> Float[Array, "batch length"]:
        """One number for each word."""
        return self._head("tagging")(fused.text)[..., 0]

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

        twice = fused._replace(pooled=jnp.concatenate([fused.pooled] * 2, axis=-1))
        asked = {
            "masked_lm": lambda: self.masked_lm_logits(fused.text),
            "matching": lambda: self.matching_scores(fused),
            "regions": lambda: self.region_logits(fused.image),
            "answer": lambda: self.answer_logits(fused),
            "scene_answer": lambda: self.scene_answer_logits(fused),
            "ranking": lambda: self.ranking_scores(fused),
            "entailment": lambda: self.entailment_logits(fused),
            "reasoning": lambda: self.reasoning_logits(twice),
            "grounding": lambda: self.grounding_scores(fused),
            "tagging": lambda: self.tagging_scores(fused),
        }
        return fused, {head: asked[head]() for head in self.heads}

    def _head(self, head: str) -> nn.Module:
        need(self.heads, head)
        return getattr(self, f"{head}_head")
