"""AdamW whose rates, decays and frozen parts are chosen by ordered rules over parameter paths.

A rule may also address layers of a stack ('image/blocks[0:6]/.*'): see `mmjax.training.rules`.

Parameters travel in two parts. `split` takes what is frozen out of the tree; gradients, optimizer
state and moving averages are made from the rest alone, and `merge` puts the whole together for
the model. To lock a tower (LiT) is one line: frozen=('image/.*',).
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmjax import paths
from mmjax.training.rules import decide, names_layers
from mmjax.typing import Array, Float, PyTree

# Never decayed: the temperature, all biases, the scales of norms, positions, learned queries.
NO_DECAY = (
    (r"(?#optional)(.*/)?(log_scale|scale|bias|gamma)", 0.0),
    (r"(?#optional)(.*/)?[^/]*(position|class_token|class_embedding|probe)[^/]*(/.*)?", 0.0),
    (".*", 1.0),
)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay, over the trainable part of the parameters.

    In order: clip the norm of all trainable gradients together, Adam with bias correction, add
    weight_decay × decay rule × parameter, multiply by schedule × rate rule. A layer whose rate is
    0 stands still but keeps its optimizer state and counts in the clipped norm; `frozen` takes
    whole arrays out.

    Args:
      schedule: updates made so far -> rate of the next, e.g. from `mmjax.training.schedules`.
      b1: decay of the mean of the gradients, 0 to 1.
      b2: decay of the mean of their squares, 0 to 1.
      eps: added to the root of the mean square, above 0.
      weight_decay: at least 0; multiplied by the learning rate as in PyTorch and optax. big_vision
        multiplies its own by the schedule's shape alone: its 1e-4 at a peak of 1e-3 is 0.1 here.
      rate_rules: ordered (pattern, multiplier of the schedule), the multiplier at least 0.
      decay_rules: ordered (pattern, multiplier of weight_decay), the multiplier at least 0.
      frozen: patterns of the arrays that are not trained, whole arrays only.
      clip_norm: greatest norm of all trainable gradients together, or None for no clipping.
      clamps: (pattern, low, high) held after each update; None for no bound on that side.

    Raises:
      ValueError: a number out of its range.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", algorithm 2, with the
    schedule multiplying both terms; clipping as in Pascanu et al., arXiv 1211.5063.
    """

    schedule: Callable[..., Any]
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    rate_rules: Sequence[tuple[str, float]] = ((".*", 1.0),)
    decay_rules: Sequence[tuple[str, float]] = NO_DECAY
    frozen: Sequence[str] = ()
    clip_norm: float | None = 1.0
    clamps: Sequence[tuple[str, float | None, float | None]] = ()

    def __post_init__(self) -> None:
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: 0 <= {name} < 1 is needed.")
        if self.eps <= 0 or self.weight_decay < 0:
            raise ValueError(
                f"eps={self.eps}, weight_decay={self.weight_decay}: eps is above 0, weight_decay "
                "at least 0."
            )
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm={self.clip_norm}: above 0, or None for no clipping.")
        for pattern, value in (*self.rate_rules, *self.decay_rules):
            if value < 0:
                raise ValueError(f"rule ({pattern!r}, {value}): a multiplier is at least 0.")
        for pattern, low, high in self.clamps:
            if low is not None and high is not None and low > high:
                raise ValueError(f"clamp ({pattern!r}, {low}, {high}): low is above high.")

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

    def transform(self, params: PyTree) -> optax.GradientTransformation:
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
            ("adam", optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps)),
            ("decay", _add_decay(self.weight_decay, decays)),
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


def merge(trainable: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Any]:
    """The whole parameters from the two parts that `AdamW.split` made."""
    first, second = paths.flatten(trainable), paths.flatten(frozen)
    both = first.keys() & second.keys()
    if both:
        raise ValueError(f"both parts hold {', '.join(sorted(both)[:3])}.")
    return paths.unflatten({**first, **second})


def position(opt_state: Mapping[str, Any]) -> Any:
    """Updates made so far, from the state of `AdamW.transform`; skipped ones are not in it."""
    return opt_state["schedule"].count


def ema_decay(decay: float, count: Any, warmup: bool = True) -> Float[Array, ""]:
    """The moving average's decay for the update after `count` updates.

    Args:
      decay: the final decay, 0 to 1.
      count: updates made so far.
      warmup: begin with min(decay, (1 + count) / (10 + count)), so that the first parameters,
        which are noise, are soon forgotten.

    Source: TensorFlow, `tf.train.ExponentialMovingAverage`, num_updates.
    """
    final = jnp.asarray(decay, jnp.float32)
    return jnp.minimum(final, (1 + count) / (10 + count)) if warmup else final


def ema_update(ema: PyTree, trainable: PyTree, decay: Any) -> PyTree:
    """The moving average after one update: decay × ema + (1 - decay) × trainable."""
    # As a step towards the new value: with a decay near 1 the plain form loses bits of it.
    return jax.tree.map(lambda mean, new: mean + (1 - decay) * (new - mean), ema, trainable)


def _add_decay(weight_decay: float, decays: Mapping[str, Any]) -> optax.GradientTransformation:
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


def _scale(rates: Mapping[str, Any]) -> optax.GradientTransformation:
    """Multiplies the updates by the rate rules' numbers."""
    return optax.stateless(
        lambda updates, params: paths.map_with_path(
            lambda path, update: update if np.all(rates[path] == 1) else rates[path] * update,
            updates,
        )
    )
