"""Stochastic gradient descent with momentum."""

import dataclasses
from collections.abc import Mapping, Sequence

import optax

from mmjax.training.optimizers.base import Optimizer, Transformation, check_decays


@dataclasses.dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent with heavy-ball or Nesterov momentum and decoupled weight decay.

    PyTorch adds its weight decay to the gradient, so that momentum carries it; here it stands
    beside the momentum, as in all optimizers of this folder.

    Args:
      momentum: decay of the sum of the gradients, 0 to 1; 0 keeps no such sum.
      nesterov: look ahead by one step of the momentum.

    The other arguments are those of `Optimizer`.

    Raises:
      ValueError: a number out of its range.

    Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep
    learning", section 2, in PyTorch's form (sum = momentum × sum + gradient); the decay as in
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", algorithm 1.
    """

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decays(momentum=self.momentum)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True looks ahead by the momentum; momentum=0.0 has none.")

    def chain(
        self, shapes: Mapping[str, tuple[int, ...]], decay: Transformation
    ) -> Sequence[tuple[str, Transformation]]:
        """The momentum, then the decay."""
        trace = optax.identity()
        if self.momentum:
            trace = optax.trace(self.momentum, self.nesterov, accumulator_dtype=self.mu_dtype)
        return (("momentum", trace), ("decay", decay))
