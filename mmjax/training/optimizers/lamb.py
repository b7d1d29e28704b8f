"""LAMB."""

import dataclasses
from collections.abc import Mapping, Sequence

import optax

from mmjax import paths
from mmjax.training.optimizers.base import (
    NO_DECAY,
    Optimizer,
    Transformation,
    check_above_zero,
    check_decays,
)
from mmjax.training.optimizers.layers import by_layer
from mmjax.training.rules import whole

# As in the authors' code, what is not decayed is not adapted either: a bias that starts at zero
# would hardly ever leave it, since its step would be as long as itself.
ADAPTED = tuple((pattern, bool(value)) for pattern, value in NO_DECAY)


@dataclasses.dataclass(frozen=True)
class LAMB(Optimizer):
    """Adam's step with decay, made as long as the weights of the layer that it changes.

    For large batches: each layer moves by the same part of its length.

    Args:
      b1: decay of the mean of the gradients, 0 to 1.
      b2: decay of the mean of their squares, 0 to 1.
      eps: added to the root of the mean square, above 0.
      adapt_rules: ordered (pattern, whether steps of that array take its length), whole arrays
        only; the others take the step as Adam made it.

    The other arguments are those of `Optimizer`.

    Raises:
      ValueError: a number out of its range.

    Source: You et al. 2020, "Large Batch Optimization for Deep Learning: Training BERT in 76
    minutes", algorithm 2 with φ(z) = z; which arrays are left out: its TensorFlow code,
    `exclude_from_layer_adaptation`.
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    adapt_rules: Sequence[tuple[str, bool]] = ADAPTED

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decays(b1=self.b1, b2=self.b2)
        check_above_zero(eps=self.eps)

    def chain(
        self, shapes: Mapping[str, tuple[int, ...]], decay: Transformation
    ) -> Sequence[tuple[str, Transformation]]:
        """Adam's step, the decay, and the length of both together."""
        adapted = whole(self.adapt_rules, shapes, "adapt_rules")
        trust = optax.masked(
            by_layer(optax.scale_by_trust_ratio()),
            lambda tree: paths.map_with_path(lambda path, _: adapted[path], tree),
        )
        adam = optax.scale_by_adam(self.b1, self.b2, self.eps, mu_dtype=self.mu_dtype)
        return (("adam", adam), ("decay", decay), ("trust", trust))
