"""The sigmoid loss of SigLIP."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.objectives.base import Embeddings, Loss, Scalars
from mmjax.objectives.pairs import (
    Pairs,
    accuracies,
    counted_accuracies,
    lay_out,
    lay_out_ring,
    similarities,
)
from mmjax.objectives.sigmoid_ring import sigmoid_ring
from mmjax.parallel.ring import CHUNK_COLUMNS
from mmjax.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Sigmoid(Pairs):
    """Each pair of the global batch is judged on its own: does this text belong to this picture?

    The loss is the sum of -log sigmoid(label × (scale × similarity + bias)) over all pairs of real
    rows, label +1 for positives and -1 for the others, divided by the number of rows.

    Args:
      image: (method, words) of the first side.
      text: (method, words) of the second side.
      positives: identity words, of 'caption_id' and 'group', that make further positives.

    Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", equation 1.
    """

    def compare(self, embeddings: Embeddings, scalars: Scalars, state: PyTree) -> Loss:
        """The loss over the global batch, in float32.

        Raises:
          ValueError: `scalars` holds no 'bias'.
        """
        if "bias" not in scalars:
            raise ValueError(
                f"Sigmoid needs the model's 'bias'; its scalars are {', '.join(sorted(scalars))}. "
                "Give the model a bias (SigLIP starts it at -10)."
            )
        log_scale = scalars["log_scale"].astype(jnp.float32)
        bias = scalars["bias"].astype(jnp.float32)
        scale, one = jnp.exp(log_scale), jnp.float32(1)
        metrics = {"scale": (scale, one), "bias": (bias, one)}
        rings, mesh = self.ring_mesh(embeddings)
        if rings:
            vectors, sides = lay_out_ring(embeddings, self.positives)
            total, *hits = sigmoid_ring(vectors, (log_scale, bias), sides, mesh, CHUNK_COLUMNS)
            count = jnp.sum(sides.valid, dtype=jnp.float32)
            return Loss(total, count, {**metrics, **counted_accuracies(hits, count)}, state)
        compared = lay_out(embeddings, self.positives)
        logits = scale * similarities(compared.image, compared.texts) + bias
        losses = -jax.nn.log_sigmoid(jnp.where(compared.positive, logits, -logits))
        total = jnp.sum(jnp.where(compared.positive | compared.negative, losses, 0.0))
        metrics |= accuracies(logits, compared)
        return Loss(total, compared.count, metrics, state)
