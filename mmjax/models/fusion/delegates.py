"""The heads of a model inside another one, asked by the same names."""

from typing import Any

import flax.linen as nn

from mmjax.models.interfaces import Fused
from mmjax.typing import Array, Float, Int


class Delegates(nn.Module):
    """Base of a model that holds one that fuses, as `fusion`, and answers by that one's heads.

    What the scores mean is said there. A model has the heads that its `heads` names.
    """

    def _ask(self, method: str, *given: Any) -> Any:
        """What the inner model's method makes.

        Raises:
          ValueError: a method that it does not have.
        """
        if not hasattr(type(self.fusion), method):
            raise ValueError(f"{type(self.fusion).__name__} has no {method}; its heads are others.")
        return getattr(self.fusion, method)(*given)

    def masked_lm_logits(
        self, tokens: Float[Array, "batch places dim"]
    ) -> Float[Array, "batch places words"]:
        """Logits of all words for tokens of the text: all or those asked for."""
        return self._ask("masked_lm_logits", tokens)

    def matching_scores(self, fused: Fused) -> Float[Array, "batch two"]:
        """Scores of whether the text tells of the picture."""
        return self._ask("matching_scores", fused)

    def matching_logits(self, fused: Fused) -> Float[Array, " batch"]:
        """Logarithm of the odds that the text tells of the picture."""
        return self._ask("matching_logits", fused)

    def answer_logits(self, fused: Fused, train: bool = False) -> Float[Array, "batch answers"]:
        """Scores of all answers."""
        return self._ask("answer_logits", fused, train)

    def scene_answer_logits(self, fused: Fused) -> Float[Array, "batch answers"]:
        """Scores of all answers of a second vocabulary (ViLBERT)."""
        return self._ask("scene_answer_logits", fused)

    def reasoning_logits(self, fused: Fused, train: bool = False) -> Float[Array, "batch two"]:
        """Scores of 'the statement is false' and 'it is true'."""
        return self._ask("reasoning_logits", fused, train)

    def entailment_logits(self, fused: Fused) -> Float[Array, "batch three"]:
        """Scores of the three relations of a statement to a picture (ViLBERT)."""
        return self._ask("entailment_logits", fused)

    def ranking_scores(self, fused: Fused) -> Float[Array, " batch"]:
        """How well text and picture suit each other (ViLBERT)."""
        return self._ask("ranking_scores", fused)

    def grounding_scores(self, fused: Fused) -> Float[Array, "batch regions"]:
        """How well each region suits the text (ViLBERT)."""
        return self._ask("grounding_scores", fused)

    def tagging_scores(self, fused: Fused) -> Float[Array, "batch length"]:
        """One number for each word (ViLBERT)."""
        return self._ask("tagging_scores", fused)

    def region_logits(
        self, tokens: Float[Array, "batch regions dim"]
    ) -> dict[str, Float[Array, "batch regions _"]]:
        """{kind: scores} for tokens of the picture (LXMERT, ViLBERT)."""
        return self._ask("region_logits", tokens)

    def alignment_logits(
        self, fused: Fused, phrases: Int[Array, "batch phrases"]
    ) -> Float[Array, "batch phrases regions"]:
        """How well each region suits each phrase (VisualBERT)."""
        return self._ask("alignment_logits", fused, phrases)
