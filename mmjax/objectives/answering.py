"""Answers to questions about pictures, as a choice among the answers of a vocabulary."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.objectives.base import Additive, Forward, Loss
from mmjax.objectives.replacing import Replace, check_replace, read_words, replaced
from mmjax.objectives.rows import over_rows
from mmjax.typing import Array, Batch, Float, PyTree, View

FORMS = ("binary", "kl")
FUSE = View("fuse", ("token_ids", "text_mask", "regions", "region_mask"))


@dataclasses.dataclass(frozen=True)
class Answering(Additive):
    """Which answers suit a question and its picture, by what each answer is worth.

    'answer_scores' tell what each answer of the vocabulary is worth, 0 to 1: for VQA by how many
    of ten people gave it. 'binary' asks of each answer by itself whether it suits: the sum over
    answers of the cross-entropy of a sigmoid. 'kl' takes the worths for a distribution: the
    Kullback-Leibler divergence from it of a softmax over answers.

    Args:
      fuse: (method, words) by which the model looks at text and picture together.
      form: 'binary' or 'kl'.
      answered: whether only questions count that have an answer in the vocabulary, as where the
        original is a cross-entropy that passes over the others (LXMERT's pretraining).
      replace: see `MaskedLm`; LXMERT asks of questions with masked words about masked regions.

    Source: Teney et al. 2018, "Tips and Tricks for Visual Question Answering", section 3.8, for
    'binary'; Li et al. 2019 (VisualBERT) as in transformers, `VisualBertForQuestionAnswering`, for
    'kl'.
    """

    fuse: tuple[str, tuple[str, ...]] = FUSE
    form: str = "binary"
    answered: bool = False
    replace: Replace = ()

    def __post_init__(self) -> None:
        check_replace(self.fuse, self.replace)
        if self.form not in FORMS:
            raise ValueError(f"form={self.form!r} is none of {', '.join(FORMS)}.")

    @property
    def needs(self) -> tuple[str, ...]:
        """The words of the model's view, or those in place of them, and 'answer_scores'."""
        return (*read_words(self.fuse, self.replace), "answer_scores")

    def __call__(self, forward: Forward, batch: Batch, state: PyTree) -> Loss:
        """The mean over questions; 'score' is the worth of the answer that is chosen.

        Raises:
          ValueError: the vocabulary of the data has another size than the model's head.
        """
        fused = forward.view(View(*self.fuse), replaced(batch, self.replace))
        logits = forward("answer_logits", {"fused": fused}).astype(jnp.float32)
        worth = batch["answer_scores"].astype(jnp.float32)
        if worth.shape != logits.shape:
            raise ValueError(
                f"the data has {worth.shape[1]} answers and the model's head {logits.shape[1]}; "
                "set the model's answers to the size of the vocabulary."
            )
        values = (binary if self.form == "binary" else divergence)(logits, worth)
        chosen = jnp.take_along_axis(worth, jnp.argmax(logits, axis=1)[:, None], axis=1)[:, 0]
        if self.answered:
            batch = {**batch, "valid": batch["valid"] & jnp.any(worth > 0, axis=1)}
        return over_rows(batch, values, state, {"score": chosen})


def binary(
    logits: Float[Array, "batch answers"], worth: Float[Array, "batch answers"]
) -> Float[Array, " batch"]:
    """Σ over answers of the cross-entropy of a sigmoid with a soft target."""
    each = worth * jax.nn.softplus(-logits) + (1 - worth) * jax.nn.softplus(logits)
    return jnp.sum(each, axis=1)


def divergence(
    logits: Float[Array, "batch answers"], worth: Float[Array, "batch answers"]
) -> Float[Array, " batch"]:
    """Σ worth · (log worth - log softmax), with 0 · log 0 = 0."""
    logs = jnp.log(jnp.where(worth > 0, worth, 1.0))
    return jnp.sum(worth * (logs - jax.nn.log_softmax(logits, axis=1)), axis=1)
