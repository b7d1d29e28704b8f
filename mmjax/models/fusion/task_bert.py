"""A BERT that is told which task its texts are of, by a token after the first."""

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.encoders.bert import Bert
from mmjax.models.interfaces import TowerOutput
from mmjax.typing import Array, Bool, Float, Int

__all__ = ["TaskBert", "without_task"]


class TaskBert(Bert):
    """A `Bert` whose sequence has the task's own vector as second token, without a position.

    Fields and parameters are those of `Bert`; the tasks' table lies under 'task_embedding'. What it
    returns is one token longer than the text.

    Attributes:
      tasks: number of tasks.

    Source: Lu et al. 2020 (12-in-1), section 3.2.
    """

    tasks: int = 20

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        text_mask: Bool[Array, "batch length"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
        token_type: Int[Array, "batch length"] | None = None,
        task: Int[Array, " batch"] | None = None,
    ) -> TowerOutput:
        """Encodes texts; see `Bert` for the other words.

        Args:
          token_ids: token numbers, padded at the end.
          text_mask: True where a token is real.
          row: the rows' global numbers; nothing is drawn by them here.
          train: whether numbers are dropped.
          token_type: each token's kind; None for 0 everywhere.
          task: number of each text's task; None for 0 everywhere.

        Raises:
          ValueError: texts that are too long, or an unknown option.
        """
        del row
        self._check(token_ids)
        init = nn.initializers.normal(0.02)
        table = self.param("task_embedding", init, (self.tasks, self.dim))
        x = self._embed(token_ids, token_type)
        task = jnp.zeros(x.shape[0], jnp.int32) if task is None else task
        told = jnp.take(table, task, axis=0)[:, None]  # [b, dim] -> [b, 1, dim]
        x = jnp.concatenate([x[:, :1], told, x[:, 1:]], axis=1)
        mask = jnp.concatenate([jnp.ones_like(text_mask[:, :1]), text_mask], axis=1)
        x = self._run(self._normalise(x, train), mask, train)
        return TowerOutput(x, mask, self._pool(x, mask))


def without_task(x: Float[Array, "batch longer dim"]) -> Float[Array, "batch length dim"]:
    """A sequence without its second token, so that it is as long as the text again."""
    return jnp.concatenate([x[:, :1], x[:, 2:]], axis=1)
