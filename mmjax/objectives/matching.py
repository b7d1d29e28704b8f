"""Whether a text tells of a picture, asked of a model that looks at both together."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.objectives.answering import FUSE
from mmjax.objectives.base import Forward, Loss, Objective
from mmjax.objectives.pairs import IDENTITIES
from mmjax.objectives.replacing import Replace, check_replace, read_words, replaced
from mmjax.typing import Array, Batch, Bool, Float, PyTree, View

TEXT = ("token_ids", "text_mask", "token_type", "task", "row")  # all other words are a picture's


@dataclasses.dataclass(frozen=True)
class Matching(Objective):
    """Each text with its own picture, and with the picture of another row of the global batch.

    The other row stands `shift` further on, which is a random one since rows come shuffled. A pair
    that might match all the same (one sample, one caption or one group) is not asked about. The
    loss is the cross-entropy of a sigmoid over all pairs, as many wrong ones as right ones.

    Rows see each other, so a batch in micro-batches is refused.

    Args:
      fuse: (method, words) by which the model looks at text and picture together.
      shift: how many rows further on the wrong picture is taken from.
      replace: see `MaskedLm`; then the right pairs are those of its pass.

    Source: Chen et al. 2020 (UNITER), section 3.2; Tan and Bansal 2019 (LXMERT), section 3.1.2.
    """

    fuse: tuple[str, tuple[str, ...]] = FUSE
    shift: int = 1
    replace: Replace = ()

    def __post_init__(self) -> None:
        check_replace(self.fuse, self.replace)
        if self.shift < 1:
            raise ValueError(f"shift={self.shift}: the wrong picture is of another row; give 1 up.")

    @property
    def needs(self) -> tuple[str, ...]:
        """The words of the model's view, or those in place of them."""
        return read_words(self.fuse, self.replace)

    def __call__(self, forward: Forward, batch: Batch, state: PyTree) -> Loss:
        """The mean over pairs, and the share of pairs that are told rightly.

        Raises:
          ValueError: a batch of no more rows than the shift.
        """
        rows = batch["valid"].shape[0]
        if rows <= self.shift:
            raise ValueError(
                f"a batch of {rows} rows has none {self.shift} further on; lower shift."
            )
        words = replaced(batch, self.replace)
        words = {word: words[word] for word in View(*self.fuse).words}
        own = self._logits(forward, words)
        moved = {
            word: x if word in TEXT else jnp.roll(x, -self.shift, axis=0)
            for word, x in words.items()
        }
        other = self._logits(forward, moved)
        asked = self._unlike(batch)
        total = _summed(jax.nn.softplus(-own), batch["valid"]) + _summed(
            jax.nn.softplus(other), asked
        )
        count = jnp.sum(batch["valid"], dtype=jnp.float32) + jnp.sum(asked, dtype=jnp.float32)
        right = _summed((own > 0).astype(jnp.float32), batch["valid"])
        right += _summed((other < 0).astype(jnp.float32), asked)
        return Loss(total, count, {"accuracy": (right, count)}, state)

    def _logits(self, forward: Forward, words: Batch) -> Float[Array, " batch"]:
        fused = forward(View(*self.fuse).method, words)
        return forward("matching_logits", {"fused": fused}).astype(jnp.float32)

    def _unlike(self, batch: Batch) -> Bool[Array, " batch"]:
        """Where a row's text and the other row's picture are real and of different things."""
        asked = batch["valid"] & jnp.roll(batch["valid"], -self.shift)
        for word in ("sample_id", *IDENTITIES):
            if word in batch:
                other = jnp.roll(batch[word], -self.shift, axis=0)
                asked &= jnp.any(batch[word] != other, axis=1)
        return asked


def _summed(values: Float[Array, " batch"], where: Bool[Array, " batch"]) -> Float[Array, ""]:
    return jnp.sum(jnp.where(where, values, 0.0))
