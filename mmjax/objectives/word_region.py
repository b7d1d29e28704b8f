"""Which region of a picture each phrase of its text names."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.objectives.answering import FUSE
from mmjax.objectives.base import Additive, Forward, Loss
from mmjax.typing import Batch, PyTree, View


@dataclasses.dataclass(frozen=True)
class WordRegion(Additive):
    """How the regions suit each phrase, beside those that people or boxes say it names.

    'phrases' are places of tokens in the sequence of text and regions, -1 for padding;
    'phrase_regions' say how much each region is meant by each phrase, with the sum 1. The loss of a
    row is the sum over its phrases of the Kullback-Leibler divergence of a softmax over regions
    from that, and the mean is over rows, as the published code divides. A phrase that is padding,
    or of which no region is meant, counts nothing. A phrase that means a region which is padding
    makes the loss not-a-number, which the step does not take.

    Args:
      fuse: (method, words) by which the model looks at text and regions together.

    Source: Li et al. 2019 (VisualBERT), section 4.4; transformers,
    models/visual_bert/modeling_visual_bert.py `VisualBertForRegionToPhraseAlignment`.
    """

    fuse: tuple[str, tuple[str, ...]] = FUSE

    @property
    def needs(self) -> tuple[str, ...]:
        """The words of the model's view, 'phrases' and 'phrase_regions'."""
        return (*View(*self.fuse).words, "phrases", "phrase_regions")

    def __call__(self, forward: Forward, batch: Batch, state: PyTree) -> Loss:
        """The mean over rows; 'accuracy' is the share of phrases whose likeliest region is meant.

        Raises:
          ValueError: the data has another number of phrases or regions than the model's scores.
        """
        fused = forward.view(View(*self.fuse), batch)
        words = {"fused": fused, "phrases": batch["phrases"]}
        scores = forward("alignment_logits", words).astype(jnp.float32)
        meant = batch["phrase_regions"].astype(jnp.float32)
        if meant.shape != scores.shape:
            raise ValueError(
                f"'phrase_regions' is {meant.shape} and the scores of 'phrases' for regions are "
                f"{scores.shape}; they are alike."
            )
        asked = (batch["phrases"] >= 0) & batch["valid"][:, None] & jnp.any(meant > 0, axis=-1)
        logs = jax.nn.log_softmax(scores, axis=-1)
        own = jnp.log(jnp.where(meant > 0, meant, 1.0))
        each = jnp.sum(jnp.where(meant > 0, meant * (own - logs), 0.0), axis=-1)
        if fused.image_mask is not None:
            lost = jnp.any((meant > 0) & ~fused.image_mask[:, None], axis=-1)
            each = jnp.where(lost, jnp.nan, each)
        best = jnp.argmax(scores, axis=-1)[..., None]
        right = jnp.take_along_axis(meant, best, axis=-1)[..., 0] > 0
        phrases = jnp.sum(asked, dtype=jnp.float32)
        hits = jnp.sum(asked & right, dtype=jnp.float32)
        rows = jnp.sum(batch["valid"], dtype=jnp.float32)
        total = jnp.sum(jnp.where(asked, each, 0.0))
        return Loss(total, rows, {"accuracy": (hits, phrases)}, state)
