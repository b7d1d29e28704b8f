"""Muon for the matrices inside the towers, AdamW for everything else."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from optax import contrib

from mmjax import paths
from mmjax.training.optimizers.base import (
    LARGEST,
    Optimizer,
    Transformation,
    check_above_zero,
    check_decays,
)
from mmjax.training.optimizers.layers import STACKS, layer_shape
from mmjax.training.rules import whole
from mmjax.typing import PyTree

# Between the first layer and the last: not what makes tokens, nor what leads out of the towers.
HIDDEN = (
    (r"(?#optional)(.*/)?(blocks|crossings|layers|pool)/.*/kernel", True),
    (".*", False),
)
# The two last axes, whatever stands before them: each layer of a stack by itself.
_MATRIX = contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)


@dataclasses.dataclass(frozen=True)
class Muon(Optimizer):
    """Momentum made orthogonal, for hidden matrices; embeddings, heads and vectors go to AdamW.

    With the default `match_rms` both parts take steps of about the same size, so that AdamW's
    rate and decay serve for all; otherwise give the matrices a rate of their own by `rate_rules`.

    Args:
      momentum: decay of the mean of the gradients of matrices, 0 to 1.
      nesterov: look ahead by one step of the momentum.
      newton_schulz_steps: iterations that make a matrix nearly orthogonal, at least 1.
      match_rms: root mean square of a matrix's step, above 0, as AdamW's is about 0.2 to 0.4; None
        multiplies the orthogonal matrix by √max(1, outputs ÷ inputs) instead.
      matrix_rules: ordered (pattern, whether Muon takes that array), whole arrays only; what it
        takes must be a matrix, or a stack of matrices.
      b1: AdamW's decay of the mean of the gradients, 0 to 1.
      b2: AdamW's decay of the mean of their squares, 0 to 1.
      eps: added to the root of the mean square by AdamW, and to the norm of a matrix; above 0.

    The other arguments are those of `Optimizer`.

    Raises:
      ValueError: a number out of its range.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et
    al. 2025, "Muon is Scalable for LLM Training", equation 4 for the decay and `match_rms`.
    """

    momentum: float = 0.95
    nesterov: bool = True
    newton_schulz_steps: int = 5
    match_rms: float | None = 0.2
    matrix_rules: Sequence[tuple[str, bool]] = HIDDEN
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decays(momentum=self.momentum, b1=self.b1, b2=self.b2)
        if self.newton_schulz_steps < 1:
            raise ValueError(f"newton_schulz_steps={self.newton_schulz_steps}: at least 1.")
        check_above_zero(eps=self.eps)
        if self.match_rms is not None and not 0 < self.match_rms <= LARGEST:
            raise ValueError(
                f"match_rms={self.match_rms}: above 0 and finite, or None for no matching."
            )

    def chain(
        self, shapes: Mapping[str, tuple[int, ...]], decay: Transformation
    ) -> Sequence[tuple[str, Transformation]]:
        """Muon's step of the matrices, AdamW's of the rest, then the decay of all."""
        taken = whole(self.matrix_rules, shapes, "matrix_rules")
        for path, shape in shapes.items():
            if taken[path] and len(layer_shape(path, shape)) != 2:
                raise ValueError(
                    f"matrix_rules give {path!r} {shape} to Muon, which takes matrices or stacks "
                    f"of them under {', '.join(sorted(STACKS))}; put ({path!r}, False) before the "
                    "rule."
                )
        if not any(taken.values()):
            raise ValueError(
                f"matrix_rules leave Muon nothing of {', '.join(list(shapes)[:3])}, ...; name the "
                "hidden matrices, or take AdamW."
            )
        muon = optax.chain(
            contrib.scale_by_muon(
                ns_steps=self.newton_schulz_steps,
                beta=self.momentum,
                eps=self.eps,
                mu_dtype=self.mu_dtype,
                nesterov=self.nesterov,
                weight_dimension_numbers=_matrices,
            ),
            optax.stateless(lambda updates, _: jax.tree.map(self._sized, updates)),
        )
        adam = optax.scale_by_adam(self.b1, self.b2, self.eps, mu_dtype=self.mu_dtype)
        return (
            ("muon", optax.masked(muon, _where(taken, True))),
            ("adam", optax.masked(adam, _where(taken, False))),
            ("decay", decay),
        )

    def _sized(self, step: Any) -> Any:
        """An orthogonal matrix, or a stack of them, with the size that a step should have."""
        inputs, outputs = step.shape[-2:]
        if self.match_rms is None:
            return step * max(1, outputs / inputs) ** 0.5
        return step * self.match_rms * max(inputs, outputs) ** 0.5


def _matrices(updates: PyTree) -> PyTree:
    return jax.tree.map(lambda _: _MATRIX, updates)


def _where(taken: Mapping[str, bool], value: bool) -> Callable[[PyTree], Any]:
    return lambda tree: paths.map_with_path(lambda path, _: taken[path] is value, tree)
