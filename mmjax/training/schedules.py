"""Learning rates over the run: a warm-up, then one of four courses.

A schedule maps the number of updates made so far (0 for the first) to the rate of the next one,
inside jit or outside. Every warm-up is linear: update k of the first `warmup_steps` has
(k + 1) / warmup_steps of the course, so that no update is wasted on a rate of zero. Skipped
updates do not count.
"""

import math

import jax.numpy as jnp
import optax


def constant(peak: float, warmup_steps: int = 0) -> optax.Schedule:
    """Warms up and stays at the peak for ever.

    Args:
      peak: the rate, at least 0.
      warmup_steps: length of the linear warm-up in updates, 0 for none.

    Raises:
      ValueError: a negative number.
    """
    _check(peak, 0.0, None, warmup_steps=warmup_steps)
    return lambda step: peak * _warmup(step, warmup_steps)


def cosine(peak: float, steps: int, warmup_steps: int = 0, end: float = 0.0) -> optax.Schedule:
    """Warms up, then falls from the peak to the end along half a cosine.

    Args:
      peak: the rate after the warm-up, at least 0.
      steps: updates of the whole run; from there on the rate is `end`.
      warmup_steps: length of the linear warm-up in updates, at most `steps`.
      end: the last rate, 0 to `peak`.

    Raises:
      ValueError: a number out of its range.

    Source: Loshchilov and Hutter, "SGDR", equation 5, without restarts.
    """
    _check(peak, end, steps, warmup_steps=warmup_steps)

    def schedule(step):
        course = end + (peak - end) * 0.5 * (1 + jnp.cos(jnp.pi * _done(step, warmup_steps, steps)))
        return course * _warmup(step, warmup_steps)

    return schedule


def rsqrt(
    peak: float,
    steps: int,
    warmup_steps: int = 0,
    cooldown_steps: int = 0,
    timescale: int = 10_000,
    end: float = 0.0,
) -> optax.Schedule:
    """Warms up, falls with one over the square root of time, and cools down at the end.

    The course does not depend on `steps` before the cool-down, so a run can be made longer
    without training it anew.

    Args:
      peak: the rate after the warm-up, at least 0.
      steps: updates of the whole run. From there on the rate is `end` if there is a cool-down;
        without one the course simply goes on.
      warmup_steps: length of the linear warm-up in updates.
      cooldown_steps: length of the straight way down to `end` before `steps`; together with the
        warm-up at most `steps`.
      timescale: updates after the warm-up at which the rate is peak / sqrt(2), at least 1.
      end: the rate at the end of the cool-down, 0 to `peak`.

    Raises:
      ValueError: a number out of its range.

    Source: Zhai et al., "Scaling Vision Transformers", paragraph "Learning-rate schedule".
    """
    _check(peak, end, steps, warmup_steps=warmup_steps, cooldown_steps=cooldown_steps)
    if timescale < 1:
        raise ValueError(f"timescale={timescale}: at least 1 update is needed.")

    def schedule(step):
        course = peak / jnp.sqrt(1 + jnp.maximum(step - warmup_steps, 0) / timescale)
        if cooldown_steps:
            left = 1 - _done(step, steps - cooldown_steps, steps)
            course = end + (course - end) * left
        return course * _warmup(step, warmup_steps)

    return schedule


def warmup_stable_decay(
    peak: float, steps: int, warmup_steps: int, decay_steps: int, end: float = 0.0
) -> optax.Schedule:
    """Warms up, stays at the peak, and falls in a straight line over the last updates.

    Any point of the stable part can be gone on from, with a longer run or with its own decay.

    Args:
      peak: the rate after the warm-up, at least 0.
      steps: updates of the whole run; from there on the rate is `end`.
      warmup_steps: length of the linear warm-up in updates.
      decay_steps: length of the fall before `steps`; together with the warm-up at most `steps`.
      end: the last rate, 0 to `peak`.

    Raises:
      ValueError: a number out of its range.

    Source: Hu et al., "MiniCPM", section 4; a straight line as in Hägele et al., "Scaling Laws and
    Compute-Optimal Training Beyond Fixed Training Durations".
    """
    _check(peak, end, steps, warmup_steps=warmup_steps, decay_steps=decay_steps)

    def schedule(step):
        left = 1 - _done(step, steps - decay_steps, steps)
        return (end + (peak - end) * left) * _warmup(step, warmup_steps)

    return schedule


def _warmup(step, warmup_steps):
    """The part of the course's rate that the warm-up lets through, up to 1."""
    return jnp.minimum(1.0, (step + 1) / max(warmup_steps, 1))


def _done(step, first, last):
    """How much of the way from update `first` to update `last` is done, 0 to 1."""
    return jnp.clip((step - first) / max(last - first, 1), 0.0, 1.0)


def _check(peak: float, end: float, steps: int | None, **parts: int) -> None:
    if not 0 <= end <= peak < math.inf:
        raise ValueError(f"peak={peak}, end={end}: 0 <= end <= peak is needed, both finite.")
    shown = ", ".join(f"{name}={value}" for name, value in parts.items())
    if min(parts.values()) < 0:
        raise ValueError(f"{shown}: no part of a schedule is shorter than 0 updates.")
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps}: a schedule has at least 1 update.")
    if steps is not None and sum(parts.values()) > steps:
        raise ValueError(
            f"{shown} make {sum(parts.values())} updates, the run has steps={steps}. Shorten "
            "them or raise steps."
        )
