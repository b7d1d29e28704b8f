"""The softmax contrastive loss of CLIP, with any number of positives."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.objectives.base import Embeddings, Loss, Scalars
from mmjax.objectives.double_float import MASKED
from mmjax.objectives.pairs import (
    Pairs,
    accuracies,
    counted_accuracies,
    lay_out,
    lay_out_ring,
    similarities,
)
from mmjax.objectives.softmax_ring import softmax_ring
from mmjax.parallel.ring import CHUNK_COLUMNS
from mmjax.typing import Array, Bool, Float, PyTree


@dataclasses.dataclass(frozen=True)
class Contrastive(Pairs):
    """Each picture has to pick its text among all texts of the global batch, and the reverse.

    The loss of a row is the cross-entropy between the softmax over its similarities and a target
    that is uniform over its positives; with one positive a row that is CLIP's loss. The two
    directions are averaged. Rows that only fill up neither ask nor answer.

    Args:
      image: (method, words) of the first side.
      text: (method, words) of the second side.
      positives: identity words, of 'caption_id' and 'group', that make further positives.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language
    Supervision", figure 3; the uniform target is Khosla et al., "Supervised Contrastive
    Learning", equation 2.
    """

    def compare(self, embeddings: Embeddings, scalars: Scalars, state: PyTree) -> Loss:
        """The loss over the global batch, in float32; `scalars` must hold 'log_scale'."""
        log_scale = scalars["log_scale"].astype(jnp.float32)
        scale, one = jnp.exp(log_scale), jnp.float32(1)
        rings, mesh = self.ring_mesh(embeddings)
        if rings:
            vectors, sides = lay_out_ring(embeddings, self.positives)
            total, *hits = softmax_ring(vectors, log_scale, sides, mesh, CHUNK_COLUMNS)
            count = jnp.sum(sides.valid, dtype=jnp.float32)
            metrics = {"scale": (scale, one), **counted_accuracies(hits, count)}
            return Loss(total, count, metrics, state)
        compared = lay_out(embeddings, self.positives)
        logits = scale * similarities(compared.image, compared.texts)
        known = compared.positive | compared.negative
        logits = jnp.where(known, logits, MASKED)
        rows = [_cross_entropy(logits, compared.positive, axis) for axis in (1, 0)]
        total = jnp.sum(jnp.where(compared.valid, rows[0] + rows[1], 0.0)) / 2
        metrics = {"scale": (scale, one), **accuracies(logits, compared)}
        return Loss(total, compared.count, metrics, state)


def _cross_entropy(
    logits: Float[Array, "images texts"], positive: Bool[Array, "images texts"], axis: int
) -> Float[Array, "batch"]:
    """-Σ target × log softmax along the axis, the target uniform over the positives."""
    logs = jax.nn.log_softmax(logits, axis)
    count = jnp.maximum(jnp.sum(positive, axis), 1)
    return -jnp.sum(jnp.where(positive, logs, 0.0), axis) / count
