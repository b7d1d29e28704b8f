"""Statements about pictures, true or false."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.objectives.answering import FUSE
from mmjax.objectives.base import Additive, Forward, Loss
from mmjax.objectives.rows import over_rows
from mmjax.typing import Batch, PyTree, View


@dataclasses.dataclass(frozen=True)
class Reasoning(Additive):
    """Whether a statement is true of a row's pictures, two of them for NLVR2.

    Args:
      fuse: (method, words) by which the model looks at text and pictures together.

    Source: Suhr et al. 2019 (NLVR2), section 3.
    """

    fuse: tuple[str, tuple[str, ...]] = FUSE

    @property
    def needs(self) -> tuple[str, ...]:
        """The words of the model's view, and 'truth'."""
        return (*View(*self.fuse).words, "truth")

    def __call__(self, forward: Forward, batch: Batch, state: PyTree) -> Loss:
        """The mean cross-entropy over statements, and the share told rightly."""
        fused = forward.view(View(*self.fuse), batch)
        logits = forward("reasoning_logits", {"fused": fused}).astype(jnp.float32)  # [b, 2]
        truth = batch["truth"].astype(jnp.int32)
        logs = jax.nn.log_softmax(logits, axis=1)
        values = -jnp.take_along_axis(logs, truth[:, None], axis=1)[:, 0]
        right = (logits[:, 1] > logits[:, 0]) == (truth == 1)
        right &= logits[:, 1] != logits[:, 0]  # a tie tells nothing
        return over_rows(batch, values, state, {"accuracy": right.astype(jnp.float32)})
