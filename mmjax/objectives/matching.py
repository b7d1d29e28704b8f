"""Whether a text tells of a picture, asked of a model that looks at both together."""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from mmjax.objectives.answering import FUSE
from mmjax.objectives.base import Forward, Loss
from mmjax.objectives.pairing import Pair, Paired, Pairing
from mmjax.objectives.replacing import Replace
from mmjax.typing import Array, Batch, Bool, Float


@dataclasses.dataclass(frozen=True)
class Matching(Paired):
    """Each text with its own picture, and with pictures and texts of other rows of the batch.

    A pair that might match all the same (one sample, one caption or one group) is not asked about.
    The loss is the cross-entropy of a sigmoid over all pairs that are asked about.

    'random' takes for each text the picture `shift` rows further on, which is a random one since
    rows come shuffled: as many wrong pairs as right ones. 'hardest' and 'sampled' take for each
    picture a wrong text and for each text a wrong picture out of the global batch, by how similar
    the model's two towers find them: the most similar one, or one drawn by a softmax over the
    scaled similarities. What the towers made of the chosen rows travels to where it is asked for,
    nothing else does, and no tower runs again. The model must say that it makes its `fuse` of
    `encode_image` and `encode_text` (`made_of`), as `GeneralFusion` does.

    In micro-batches the other rows are chosen out of the whole batch all the same; their words
    travel, and the towers run for them once more.

    Args:
      fuse: (method, words) by which the model looks at text and picture together.
      shift: how many rows further on the wrong picture is taken from; for 'random' alone.
      negatives: 'random', 'hardest' or 'sampled'.
      replace: see `MaskedLm`; then the right pairs are those of its pass.

    Source: Chen et al. 2020 (UNITER), section 3.2; Tan and Bansal 2019 (LXMERT), section 3.1.2; for
    'sampled' Li et al. 2021 (ALBEF), section 3.2.
    """

    fuse: tuple[str, tuple[str, ...]] = FUSE
    shift: int = 1
    negatives: str = "random"
    replace: Replace = ()

    def __post_init__(self) -> None:
        _ = self.pairing  # which checks the options

    @property
    def pairing(self) -> Pairing:
        """See `Paired`."""
        return Pairing(self.fuse, self.shift, self.negatives, self.replace)

    def of_pairs(self, forward: Forward, batch: Batch, pairs: Iterable[Pair]) -> Loss:
        """The mean over pairs, and the share of pairs that are told rightly."""
        del batch
        total, count, right = (jnp.zeros((), jnp.float32) for _ in range(3))
        for pair in pairs:
            logits = forward("matching_logits", {"fused": pair.fused}).astype(jnp.float32)
            odds = -logits if pair.right else logits  # of being told wrongly
            total += _summed(jax.nn.softplus(odds), pair.asked)
            right += _summed((odds < 0).astype(jnp.float32), pair.asked)
            count += jnp.sum(pair.asked, dtype=jnp.float32)
        return Loss(total, count, {"accuracy": (right, count)})


def _summed(values: Float[Array, " batch"], where: Bool[Array, " batch"]) -> Float[Array, ""]:
    return jnp.sum(jnp.where(where, values, 0.0))
