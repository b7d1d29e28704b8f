"""The moving average of the trainable parameters."""

from typing import Any

import jax
import jax.numpy as jnp

from mmjax.typing import Array, Float, PyTree


def ema_decay(decay: float, count: Any, warmup: bool = True) -> Float[Array, ""]:
    """The moving average's decay for the update after `count` updates.

    Args:
      decay: the final decay, 0 to 1.
      count: updates made so far.
      warmup: begin with min(decay, (1 + count) / (10 + count)), so that the first parameters,
        which are noise, are soon forgotten.

    Source: TensorFlow, `tf.train.ExponentialMovingAverage`, num_updates.
    """
    final = jnp.asarray(decay, jnp.float32)
    return jnp.minimum(final, (1 + count) / (10 + count)) if warmup else final


def ema_update(ema: PyTree, trainable: PyTree, decay: Any) -> PyTree:
    """The moving average after one update: decay × ema + (1 - decay) × trainable."""
    # As a step towards the new value: with a decay near 1 the plain form loses bits of it.
    return jax.tree.map(lambda mean, new: mean + (1 - decay) * (new - mean), ema, trainable)
