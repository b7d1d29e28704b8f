"""Masked language modelling: which words stood where the text was masked."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.objectives.answering import FUSE
from mmjax.objectives.base import Additive, Forward, Loss
from mmjax.objectives.replacing import Replace, check_replace, read_words, replaced
from mmjax.typing import Array, Batch, Float, Int, PyTree, View

MASKED: Replace = (("token_ids", "masked_ids"),)


@dataclasses.dataclass(frozen=True)
class MaskedLm(Additive):
    """The words that were masked are told from what is left of the text, and from its picture.

    The model reads 'masked_ids' in place of 'token_ids'; 'mlm_labels' hold the words at the places
    that are asked for and a number below 0 elsewhere. The loss is the mean over all places that are
    asked for in real rows, not over rows.

    Args:
      fuse: (method, words) by which the model looks at the text: 'fuse' with a picture,
        'encode_text' without one. What it returns has the words' vectors as `text` or `tokens`.
      places: most places of a row that are scored, the first ones; None scores all of the text,
        asked for or not, which with a large vocabulary costs more than the rest of the model.
      replace: ((word, the one read in its place), ...). Objectives with the same view and the same
        of these share one pass: (("token_ids", "masked_ids"), ("regions", "masked_regions")) with
        `MaskedRegions`.

    Source: Devlin et al. 2018 (BERT), section 3.1.
    """

    fuse: tuple[str, tuple[str, ...]] = FUSE
    places: int | None = None
    replace: Replace = MASKED

    def __post_init__(self) -> None:
        check_replace(self.fuse, self.replace, "token_ids")
        if self.places is not None and self.places < 1:
            raise ValueError(f"places={self.places}; give at least 1, or None for all.")

    @property
    def needs(self) -> tuple[str, ...]:
        """The words of the model's view, masked ones in place of some, and 'mlm_labels'."""
        return (*read_words(self.fuse, self.replace), "mlm_labels")

    def __call__(self, forward: Forward, batch: Batch, state: PyTree) -> Loss:
        """The mean over masked places, and the share of them that is told rightly.

        A label beyond the vocabulary makes the loss not-a-number, which the step does not take.
        """
        output = forward.view(View(*self.fuse), replaced(batch, self.replace))
        tokens = output.text if hasattr(output, "text") else output.tokens
        if tokens.shape[1] != batch["mlm_labels"].shape[1]:
            raise ValueError(
                f"a text of {batch['mlm_labels'].shape[1]} words has {tokens.shape[1]} vectors, as "
                "where it is looked at with several pictures; masked words need one picture a row."
            )
        labels = jnp.where(batch["valid"][:, None], batch["mlm_labels"], -1)
        if self.places is not None and self.places < labels.shape[1]:
            order = jnp.argsort(labels < 0, axis=1, stable=True)[:, : self.places]
            labels = jnp.take_along_axis(labels, order, axis=1)
            tokens = jnp.take_along_axis(tokens, order[..., None], axis=1)
        logits = forward("masked_lm_logits", {"tokens": tokens}).astype(jnp.float32)
        asked = labels >= 0
        values, right = scored(logits, jnp.maximum(labels, 0))
        count = jnp.sum(asked, dtype=jnp.float32)
        hits = jnp.sum(asked & right, dtype=jnp.float32)
        total = jnp.sum(jnp.where(asked, values, 0.0))
        return Loss(total, count, {"accuracy": (hits, count)}, state)


def scored(
    logits: Float[Array, "batch places words"], labels: Int[Array, "batch places"]
) -> tuple[Float[Array, "batch places"], Array]:
    """(cross-entropy at each place, whether the right word scores highest there)."""
    words = logits.shape[-1]
    at = jnp.minimum(labels, words - 1)[..., None]
    own = jnp.take_along_axis(logits, at, axis=-1)[..., 0]
    values = jax.nn.logsumexp(logits, axis=-1) - own
    return jnp.where(labels < words, values, jnp.nan), jnp.argmax(logits, axis=-1) == labels
