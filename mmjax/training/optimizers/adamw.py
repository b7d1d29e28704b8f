"""AdamW."""

import dataclasses
from collections.abc import Mapping, Sequence

import optax

from mmjax.training.optimizers.base import (
    Optimizer,
    Transformation,
    check_above_zero,
    check_decays,
)


@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with bias correction and decoupled weight decay.

    Args:
      b1: decay of the mean of the gradients, 0 to 1.
      b2: decay of the mean of their squares, 0 to 1.
      eps: added to the root of the mean square, above 0.

    The other arguments are those of `Optimizer`.

    Raises:
      ValueError: a number out of its range.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", algorithm 2.
    """

    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decays(b1=self.b1, b2=self.b2)
        check_above_zero(eps=self.eps)

    def chain(
        self, shapes: Mapping[str, tuple[int, ...]], decay: Transformation
    ) -> Sequence[tuple[str, Transformation]]:
        """Adam's step, then the decay."""
        adam = optax.scale_by_adam(self.b1, self.b2, self.eps, mu_dtype=self.mu_dtype)
        return (("adam", adam), ("decay", decay))
