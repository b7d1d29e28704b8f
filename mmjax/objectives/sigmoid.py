"""The sigmoid loss of SigLIP."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.objectives.base import Embeddings, Loss, Scalars
from mmjax.objectives.pairs import Pairs, accuracies, lay_out, similarities
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
        compared = lay_out(embeddings, self.positives)
        scale = jnp.exp(scalars["log_scale"].astype(jnp.float32))
        bias = scalars["bias"].astype(jnp.float32)
        logits = scale * similarities(compared.image, compared.texts) + bias
        losses = -jax.nn.log_sigmoid(jnp.where(compared.positive, logits, -logits))
        total = jnp.sum(jnp.where(compared.positive | compared.negative, losses, 0.0))
        one = jnp.float32(1)
        metrics = {
            "scale": (scale, one),
            "bias": (bias, one),
            **accuracies(logits, compared),
        }
        return Loss(total, compared.count, metrics, state)
