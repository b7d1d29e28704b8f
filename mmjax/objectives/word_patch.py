"""Words and patches of a pair that belongs together are near each other, of a wrong pair far."""

import dataclasses
from collections.abc import Iterable

import jax.numpy as jnp

from mmjax.models.interfaces import Fused
from mmjax.objectives.answering import FUSE
from mmjax.objectives.base import Forward, Loss
from mmjax.objectives.pairing import Pair, Paired, Pairing
from mmjax.objectives.transport import cosine_costs, transport_plan
from mmjax.typing import Array, Batch, Bool, Float

SMALLEST_STEP = 0.05  # exp(-2 / step), of the largest cost, is no number of float32 far below it


@dataclasses.dataclass(frozen=True)
class WordPatch(Paired):
    """What it costs to carry the words to the patches, less the same of wrong pairs.

    The cost of a pair is 1 - cosine, of the vectors that know of the other side; all words weigh
    alike, and all patches. The first and the last real token are no words. The loss is the sum over
    the right pairs less that over the wrong ones, over the number of both. The pairs are those of a
    `Matching` with the same `fuse` and `shift`, whose passes it shares.

    Args:
      fuse: (method, words) by which the model looks at text and picture together.
      shift: see `Matching`.
      class_tokens: how many places of a picture, from the first on, are no patches: 1 for ViLT.
      step: of the transport's iterations, see `transport_plan`.
      iterations: of the transport.

    Raises:
      ValueError: a number out of its range.

    Source: Kim et al. 2021 (ViLT), section 3.2, and dandelin/ViLT, vilt/modules/objectives.py
    `compute_itm_wpa`; Chen et al. 2020 (UNITER), section 3.2.
    """

    fuse: tuple[str, tuple[str, ...]] = FUSE
    shift: int = 1
    class_tokens: int = 1
    step: float = 0.5
    iterations: int = 50

    def __post_init__(self) -> None:
        if self.class_tokens < 0 or not self.step >= SMALLEST_STEP or self.iterations < 1:
            raise ValueError(
                f"class_tokens={self.class_tokens}, step={self.step}, iterations="
                f"{self.iterations}: give 0 or more, {SMALLEST_STEP} or more, and 1 or more."
            )
        _ = self.pairing  # which checks the others

    @property
    def pairing(self) -> Pairing:
        """See `Paired`."""
        return Pairing(self.fuse, self.shift)

    def of_pairs(self, forward: Forward, batch: Batch, pairs: Iterable[Pair]) -> Loss:
        """The mean over pairs, and 'right' and 'wrong', the mean costs of either kind.

        A pair without a word counts nothing.

        Raises:
          ValueError: rows of several pictures, whose words stand there several times.
        """
        del forward
        sums = []
        for pair in pairs:
            if pair.fused.text.shape[1] != batch["text_mask"].shape[1]:
                raise ValueError(
                    f"a row has {batch['text_mask'].shape[1]} words and the model gives "
                    f"{pair.fused.text.shape[1]}: words are aligned with one picture's patches."
                )
            costs, told = self._costs(pair.fused)
            told &= pair.asked
            sums.append((jnp.sum(jnp.where(told, costs, 0.0)), jnp.sum(told, dtype=jnp.float32)))
        right, wrong = sums
        metrics = {"right": right, "wrong": wrong}
        return Loss(right[0] - wrong[0], right[1] + wrong[1], metrics)

    def _costs(self, fused: Fused) -> tuple[Float[Array, " batch"], Bool[Array, " batch"]]:
        """(what each pair costs, whether it has a word and a patch)."""
        places = jnp.arange(fused.text.shape[1])
        last = jnp.sum(fused.text_mask, axis=1, keepdims=True) - 1
        words = fused.text_mask & (places > 0) & (places != last)
        seen = fused.image_mask
        if seen is None:
            seen = jnp.ones(fused.image.shape[:2], bool)
        seen = seen & (jnp.arange(seen.shape[1]) >= self.class_tokens)
        costs = cosine_costs(fused.text, fused.image)
        plan = transport_plan(costs, words, seen, self.step, self.iterations)
        return jnp.sum(costs * plan, axis=(1, 2)), words.any(axis=1) & seen.any(axis=1)
