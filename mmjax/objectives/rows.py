"""The loss of objectives that score each row by itself: a sum over real rows and their number."""

from collections.abc import Mapping

import jax.numpy as jnp

from mmjax.objectives.base import Loss
from mmjax.typing import Array, Batch, Float, PyTree

__all__ = ["over_rows"]


def over_rows(
    batch: Batch,
    values: Float[Array, " batch"],
    state: PyTree,
    metrics: Mapping[str, Float[Array, " batch"]] | None = None,
) -> Loss:
    """The sum of each real row's value, in float32; rows that only fill up are left out.

    Args:
      batch: whose 'valid' says which rows are real.
      values: each row's loss.
      state: the objective's, handed on.
      metrics: further numbers of each row, to be averaged alike.
    """
    valid = batch["valid"]
    count = jnp.sum(valid, dtype=jnp.float32)

    def total(numbers: Float[Array, " batch"]) -> Float[Array, ""]:
        return jnp.sum(jnp.where(valid, numbers.astype(jnp.float32), 0.0))

    told = {name: (total(numbers), count) for name, numbers in (metrics or {}).items()}
    return Loss(total(values), count, told, state)
