"""How much each goal weighs in the sum that is trained: a number, a schedule, or learned."""

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.objectives.base import Loss
from mmjax.typing import PyTree

LOOKED_AT = 1000  # steps of a schedule
FORMS = ("classification", "regression")
LOG_VARIANCE = (
    "log_variance"  # beside an objective's own: params['objectives'][goal]['log_variance']
)


@dataclasses.dataclass(frozen=True)
class Uncertainty:
    """A weight that is learned: what is noisy by nature weighs less.

    With s the logarithm of the noise's variance the goal adds exp(-s) · loss + s / 2
    ('classification') or exp(-s) · loss / 2 + s / 2 ('regression') to the sum. The second term
    keeps the weight from falling to 0. s is a parameter of the run and is not decayed.

    Args:
      initial: first s, finite; 0 weighs a cross-entropy by 1.
      form: 'classification' for cross-entropies, as most losses of this package are;
        'regression' for distances, as of `MaskedRegions(form='feature')`.

    Raises:
      ValueError: a number that is not finite, an unknown form.

    Source: Kendall, Gal and Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses
    for Scene Geometry and Semantics", equations 7 and 10; s in place of the variance is its
    section 3.2.
    """

    initial: float = 0.0
    form: str = "classification"

    def __post_init__(self) -> None:
        if not math.isfinite(self.initial):
            raise ValueError(f"initial={self.initial}: the logarithm of a variance is finite.")
        if self.form not in FORMS:
            raise ValueError(f"form={self.form!r} is none of {', '.join(FORMS)}.")

    def init_params(self) -> dict[str, Any]:
        """The parameter before the first step."""
        return {LOG_VARIANCE: jnp.full((), self.initial, jnp.float32)}

    def weigh(self, log_variance: Any) -> tuple[Any, Any]:
        """(weight of the mean loss, what is added to it)."""
        weight = jnp.exp(-log_variance)
        return (weight if self.form == "classification" else weight / 2), log_variance / 2


Weight = float | Callable[..., Any] | Uncertainty


def check_weight(weight: Any) -> None:
    """Raises ValueError for what is no weight: negative, not finite, or neither kind."""
    if isinstance(weight, Uncertainty) or callable(weight):
        return
    if not isinstance(weight, numbers.Real) or not 0 <= weight < math.inf:
        raise ValueError(
            f"weight={weight!r}: an objective's weight is finite, 0 or more; or give a schedule, "
            "or Uncertainty() for one that is learned."
        )


def check_course(name: str, weight: Any, steps: int) -> None:
    """Raises ValueError where a schedule gives what is no weight at some step of the run.

    Looked at are the first and the last step and up to 998 between them.

    Args:
      name: of the goal.
      weight: of the goal.
      steps: of the run, 1 or more.
    """
    if not callable(weight):
        return
    looked_at = np.unique(np.linspace(0, steps - 1, min(steps, LOOKED_AT)).astype(np.int32))
    values = np.asarray(jax.vmap(lambda step: jnp.asarray(weight(step), jnp.float32))(looked_at))
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if wrong.size:
        raise ValueError(
            f"goal {name!r}: its weight is {values[wrong[0]]} at step {looked_at[wrong[0]]}; a "
            "schedule of a weight gives finite numbers, 0 or more."
        )


def with_weights(weight: Any, owned: PyTree, name: str) -> PyTree:
    """An objective's own parameters with that of its weight beside them, if it is learned.

    Args:
      weight: of its goal.
      owned: what `init_params` made.
      name: of the goal.

    Raises:
      ValueError: the objective has a parameter of this name itself.
    """
    if not isinstance(weight, Uncertainty):
        return owned
    if LOG_VARIANCE in owned:
        raise ValueError(
            f"goal {name!r}: its objective owns {LOG_VARIANCE!r}, where the learned weight would "
            "lie; give it another name there."
        )
    return {**owned, **weight.init_params()}


def weigh(
    weights: Mapping[str, Any], owned: Mapping[str, PyTree], step: Any
) -> tuple[dict[str, Any], Any]:
    """({goal: its weight now}, what learned weights add to the sum).

    Args:
      weights: {goal: number, schedule or `Uncertainty`}.
      owned: {goal: parameters that it owns}.
      step: of the run.
    """
    now, added = {}, jnp.zeros((), jnp.float32)
    for name, weight in weights.items():
        if isinstance(weight, Uncertainty):
            now[name], more = weight.weigh(owned[name][LOG_VARIANCE])
            added += more
        else:
            now[name] = weight(step) if callable(weight) else weight
    return now, added


def total(losses: Mapping[str, Loss], weights: Mapping[str, Any], added: Any) -> Any:
    """The sum that is trained: Σ weight × mean loss, and what learned weights add."""
    return sum((weights[name] * loss.mean() for name, loss in losses.items()), start=added)


def learn_weights(
    losses: Mapping[str, Loss],
    weighed: Callable[[PyTree], tuple[dict[str, Any], Any]],
    trainable: PyTree,
    grads: PyTree,
) -> tuple[Any, PyTree]:
    """(the sum that is trained, its gradient) from a gradient in which the weights stood still.

    Args:
      losses: of the whole batch.
      weighed: trainable parameters -> what `weigh` gives.
      trainable: the parameters.
      grads: gradient of Σ weight × mean loss with the weights as numbers.
    """
    losses = jax.lax.stop_gradient(dict(losses))
    value, more = jax.value_and_grad(lambda t: total(losses, *weighed(t)))(trainable)
    return value, jax.tree.map(jnp.add, grads, more)
