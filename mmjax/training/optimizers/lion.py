"""Lion."""

import dataclasses
from collections.abc import Mapping, Sequence

import optax

from mmjax.training.optimizers.base import Optimizer, Transformation, check_decays


@dataclasses.dataclass(frozen=True)
class Lion(Optimizer):
    """The sign of a mean of the gradients, with decoupled weight decay; one moment is all it keeps.

    Every number moves by the whole rate, so the paper takes a rate 3 to 10 times below AdamW's and
    a weight decay as many times above it.

    Args:
      b1: share of the kept mean in the mean whose sign is taken, 0 to 1.
      b2: decay of the kept mean, 0 to 1.

    The other arguments are those of `Optimizer`.

    Raises:
      ValueError: a number out of its range.

    Source: Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2 and
    section 5 on its rates; in it momentum is bfloat16 for models from 1 billion parameters on.
    """

    b1: float = 0.9
    b2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decays(b1=self.b1, b2=self.b2)

    def chain(
        self, shapes: Mapping[str, tuple[int, ...]], decay: Transformation
    ) -> Sequence[tuple[str, Transformation]]:
        """The sign, then the decay."""
        lion = optax.scale_by_lion(self.b1, self.b2, mu_dtype=self.mu_dtype)
        return (("lion", lion), ("decay", decay))
