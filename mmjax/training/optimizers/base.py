"""What all optimizers share: rates, decays and frozen parts chosen by ordered rules over paths.

A rule may also address layers of a stack ('image/blocks[0:6]/.*'): see `mmjax.training.rules`.

Parameters travel in two parts. `split` takes what is frozen out of the tree; gradients, optimizer
state and moving averages are made from the rest alone, and `merge` puts the whole together for
the model. To lock a tower (LiT) is one line: frozen=('image/.*',).
"""

import abc
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from mmjax import paths
from mmjax.training.rules import decide, names_layers
from mmjax.typing import Array, Float, PyTree

# Never decayed: the temperature, goals' learned weights, all biases, the scales of norms,
# positions, learned queries.
NO_DECAY = (
    (r"(?#optional)(.*/)?(log_scale|temperature|log_variance|scale|bias|gamma)", 0.0),
    (r"(?#optional)(.*/)?[^/]*(position|class_token|class_embedding|probe)[^/]*(/.*)?", 0.0),
    (".*", 1.0),
)
MU_DTYPES = ("float32", "bfloat16")
LARGEST = float(np.finfo(np.float32).max)  # beyond it a number is infinite in the step

Transformation = optax.GradientTransformation


@dataclasses.dataclass(frozen=True)
class Optimizer(abc.ABC):
    """An update of the trainable part of the parameters; a subclass says by what method.

    In order: clip the norm of all trainable gradients together, the method's own `chain` (with
    weight_decay × decay rule × parameter added where the method wants it), multiply by schedule ×
    rate rule. A layer whose rate is 0 stands still but keeps its optimizer state and counts in the
    clipped norm; `frozen` takes whole arrays out. Each layer of a stack of blocks counts as an
    array of its own wherever a method looks at more than one number of an array.

    Args:
      schedule: updates made so far -> rate of the next, e.g. from `mmjax.training.schedules`.
      weight_decay: at least 0; multiplied by the learning rate as in PyTorch and optax. big_vision
        multiplies its own by the schedule's shape alone: its 1e-4 at a peak of 1e-3 is 0.1 here.
      rate_rules: ordered (pattern, multiplier of the schedule), the multiplier at least 0.
      decay_rules: ordered (pattern, multiplier of weight_decay), the multiplier at least 0.
      frozen: patterns of the arrays that are not trained, whole arrays only.
      clip_norm: greatest norm of all trainable gradients together, or None for no clipping.
      clamps: (pattern, low, high) held after each update; None for no bound on that side.
      mu_dtype: type in which the first moment is kept, 'float32' or 'bfloat16'; the latter halves
        its bytes. What is computed from it, and second moments, are float32.

    Raises:
      ValueError: a number out of its range.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", with the schedule
    multiplying both terms; clipping as in Pascanu et al., arXiv 1211.5063.
    """

    schedule: Callable[..., Any]
    _: dataclasses.KW_ONLY
    weight_decay: float = 0.1
    rate_rules: Sequence[tuple[str, float]] = ((".*", 1.0),)
    decay_rules: Sequence[tuple[str, float]] = NO_DECAY
    frozen: Sequence[str] = ()
    clip_norm: float | None = 1.0
    clamps: Sequence[tuple[str, float | None, float | None]] = ()
    mu_dtype: str = "float32"

    def __post_init__(self) -> None:
        if not 0 <= self.weight_decay <= LARGEST:
            raise ValueError(
                f"weight_decay={self.weight_decay}: a finite number of at least 0 is needed."
            )
        if self.clip_norm is not None and not 0 < self.clip_norm <= LARGEST:
            raise ValueError(
                f"clip_norm={self.clip_norm}: above 0 and finite, or None for no clipping."
            )
        if self.mu_dtype not in MU_DTYPES:
            raise ValueError(f"mu_dtype={self.mu_dtype!r} is none of {', '.join(MU_DTYPES)}.")
        for name in ("rate_rules", "decay_rules"):
            paths.check_rules(getattr(self, name), name)
            for pattern, value in getattr(self, name):
                rule = f"{name}: rule ({pattern!r}, {value!r})"
                if not isinstance(value, int | float):
                    raise ValueError(f"{rule}: a multiplier is a number.")
                if not 0 <= value <= LARGEST:
                    raise ValueError(f"{rule}: a multiplier is finite and at least 0.")
        for clamp in self.clamps:
            if not (isinstance(clamp, tuple | list) and len(clamp) == 3):
                raise ValueError(f"clamps: {clamp!r} is none; write ('pattern', low, high).")
        for pattern, low, high in self.clamps:
            if low is not None and high is not None and low > high:
                raise ValueError(f"clamp ({pattern!r}, {low}, {high}): low is above high.")
            # -inf below and inf above are no bound, as None is; the other way all becomes infinite.
            if (low is not None and low > LARGEST) or (high is not None and high < -LARGEST):
                raise ValueError(
                    f"clamps: ({pattern!r}, {low}, {high}): no finite number lies between; give "
                    "finite bounds, or None for no bound on that side."
                )

    @abc.abstractmethod
    def chain(
        self, shapes: Mapping[str, tuple[int, ...]], decay: Transformation
    ) -> Sequence[tuple[str, Transformation]]:
        """The method itself: named transformations between clipping and rates, in order.

        Args:
          shapes: {path: shape} of all parameters, frozen ones too, to check own rules against.
          decay: adds the decay of the weights; stands where the method wants it.

        Raises:
          ValueError: a rule of the method's own that does not fit the parameters.
        """

    def split(self, params: PyTree) -> tuple[dict[str, Any], dict[str, Any]]:
        """(trainable, frozen): the two parts of nested dicts of parameters, or of their shapes.

        Raises:
          ValueError: a frozen pattern that matches nothing or names layers, or nothing is left.
        """
        for pattern in self.frozen:
            if names_layers(pattern):
                raise ValueError(
                    f"frozen pattern {pattern!r}: layers of a stack cannot be frozen apart. Give "
                    f"them no rate instead: rate_rules=(({pattern!r}, 0.0), ...)."
                )
        flat = paths.flatten(params)
        rules = [*((pattern, True) for pattern in self.frozen), (".*", False)]
        chosen = paths.choose(rules, flat, "frozen")
        if all(chosen.values()):
            raise ValueError(
                f"frozen={tuple(self.frozen)} matches all {len(chosen)} parameters and leaves "
                "nothing to train."
            )
        parts = tuple(
            paths.unflatten({path: leaf for path, leaf in flat.items() if chosen[path] is part})
            for part in (False, True)
        )
        return parts[0], parts[1]

    def transform(self, params: PyTree) -> Transformation:
        """The transformation of gradients of the trainable part.

        All rules are checked here, over all parameters, frozen ones too: so the rules of a recipe
        stay as they are when a tower is locked.

        Args:
          params: ALL parameters, or their shapes (`jax.eval_shape`).

        Returns:
          A transformation whose `init` and `update` take the trainable part. `position` reads the
          count out of its state.

        Raises:
          ValueError: a parameter or a layer that no rule matches, or a rule that decides nothing.
        """
        shapes = {path: tuple(leaf.shape) for path, leaf in paths.flatten(params).items()}
        rates = decide(self.rate_rules, shapes, "learning-rate rules")
        decays = decide(self.decay_rules, shapes, "weight-decay rules")
        for pattern, _, _ in self.clamps:
            if not any(re.fullmatch(pattern, path) for path in shapes):
                raise ValueError(
                    f"clamp {pattern!r} matches none of the parameters; their paths look like "
                    f"{', '.join(list(shapes)[:3])}."
                )
        clip = self.clip_norm
        return optax.named_chain(
            ("clip", optax.identity() if clip is None else optax.clip_by_global_norm(clip)),
            *self.chain(shapes, _add_decay(self.weight_decay, decays)),
            ("rates", _scale(rates)),
            ("schedule", optax.scale_by_learning_rate(self.schedule)),
        )

    def learning_rate(self, count: Any) -> Float[Array, ""]:
        """The rate of the update after `count` updates, before the rate rules."""
        return jnp.asarray(self.schedule(count), jnp.float32)

    def clamp(self, params: PyTree) -> PyTree:
        """`params` (all, or the trainable part) with the clamps applied; for after the update."""

        def apply(path: str, leaf: Any) -> Any:
            for pattern, low, high in self.clamps:
                if re.fullmatch(pattern, path):
                    leaf = jnp.clip(leaf, low, high)
            return leaf

        return paths.map_with_path(apply, params)


def check_decays(**values: float) -> None:
    """Raises ValueError where a decay of a moving average is not at least 0 and below 1."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value}: 0 <= {name} < 1 is needed.")


def check_above_zero(**values: float | int) -> None:
    """Raises ValueError where a number is not finite and above 0."""
    for name, value in values.items():
        if not 0 < value <= LARGEST:
            raise ValueError(f"{name}={value}: above 0 and finite is needed.")


def merge(trainable: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Any]:
    """The whole parameters from the two parts that `Optimizer.split` made."""
    first, second = paths.flatten(trainable), paths.flatten(frozen)
    both = first.keys() & second.keys()
    if both:
        raise ValueError(f"both parts hold {', '.join(sorted(both)[:3])}.")
    return paths.unflatten({**first, **second})


def position(opt_state: Mapping[str, Any]) -> Any:
    """Updates made so far, from the state of `Optimizer.transform`; skipped ones are not in it."""
    return opt_state["schedule"].count


def _add_decay(weight_decay: float, decays: Mapping[str, Any]) -> Transformation:
    """Adds weight_decay × multiplier × parameter to the updates."""

    def add(path: str, update: Any, param: Any) -> Any:
        if not np.any(decays[path]):
            return update
        return update + weight_decay * decays[path] * param

    return optax.stateless(
        lambda updates, params: (
            paths.map_with_path(add, updates, params) if weight_decay else updates
        )
    )


def _scale(rates: Mapping[str, Any]) -> Transformation:
    """Multiplies the updates by the rate rules' numbers."""
    return optax.stateless(
        lambda updates, params: paths.map_with_path(
            lambda path, update: update if np.all(rates[path] == 1) else rates[path] * update,
            updates,
        )
    )
