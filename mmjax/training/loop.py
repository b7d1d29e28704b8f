"""The training loop: take a step, look at the one before, evaluate and save when due."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from mmjax.data.sources.base import CAUSES
from mmjax.training.failing import Failed, Replaced
from mmjax.training.state import State, samples_seen


@dataclasses.dataclass(frozen=True)
class Rhythm:
    """When things are due, in steps, and what a run puts up with.

    Attributes:
      log_steps: between two lines of metrics.
      eval_steps: between two evaluations; 0 evaluates at the end alone.
      save_steps: between two checkpoints; the end is always saved.
      max_bad_fraction: share of unusable samples above which the run stops.
      bad_after_samples: samples before that share is judged.
      max_skipped: updates skipped in a row (loss or gradient not finite) that stop the run.
    """

    log_steps: int = 10
    eval_steps: int = 0
    save_steps: int = 1000
    max_bad_fraction: float = 0.05
    bad_after_samples: int = 1000
    max_skipped: int = 10

    def __post_init__(self) -> None:
        if min(self.log_steps, self.save_steps, self.max_skipped) < 1 or self.eval_steps < 0:
            raise ValueError(
                f"log_steps={self.log_steps}, save_steps={self.save_steps}, max_skipped="
                f"{self.max_skipped} are 1 or more; eval_steps={self.eval_steps} is 0 or more."
            )
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"max_bad_fraction={self.max_bad_fraction} lies between 0 and 1.")


# What a process adds to its stop word where another run has taken its workdir: more than all
# requests to stop add up to, and still an int32 where 1,000 devices of a process say so.
REPLACED = 1 << 20


@runtime_checkable
class Hooks(Protocol):
    """What the loop calls outside the step; all processes call the same at the same steps."""

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Writes one line of metrics, a step late."""

    def evaluate(self, step: int, state: State) -> dict[str, float] | None:
        """Scores the state on held-out data; None where a request to stop cut it short."""

    def save(self, step: int, state: State, metrics: dict[str, float] | None) -> None:
        """Starts a checkpoint."""

    def poll(self, step: int) -> None:
        """Looks after saves in the background."""

    def stop_word(self) -> Any:
        """Device array, above zero where this process was asked to stop."""

    def stopping(self) -> bool:
        """True where this process was asked to stop and is the only one."""

    def at_once(self, step: int) -> bool:
        """Whether steps are so long that each is looked at before the next; alike on all."""


def train(
    state: State,
    take_step: Callable[..., tuple[State, dict[str, Any]]],
    batches: Iterator[Any],
    start: int,
    steps: int,
    rhythm: Rhythm,
    hooks: Hooks,
) -> tuple[State, int]:
    """Trains from step `start` to `steps`, or until a process is asked to stop.

    Metrics are read one step late, so the device never waits for the host, or at once where steps
    take seconds and a request to stop should not take four of them. All decisions are taken from
    metrics, which are the same on all processes; a process that is alone hears a request itself.

    Returns:
      The last state and its step.

    Raises:
      Failed: too many unusable samples, too many skipped updates in a row, or a workdir that
        another run has taken.
    """
    pending: tuple[int, dict[str, Any]] | None = None
    latest: dict[str, Any] = {}
    step, saved, polled, metrics = start, start, start, None
    while step < steps:
        state, latest = take_step(state, next(batches), hooks.stop_word())
        step += 1
        stopping = pending is not None and _examine(*pending, rhythm, hooks)
        pending, metrics = (step, latest), None
        evaluating = rhythm.eval_steps and step % rhythm.eval_steps == 0 and step < steps
        saving = step % rhythm.save_steps == 0 and step < steps
        # Evaluating and saving wait for the device, so this step can be judged at once.
        if evaluating or saving or hooks.at_once(step):
            stopping = _examine(*pending, rhythm, hooks) or stopping
            pending = None
        if stopping or hooks.stopping():
            break
        if evaluating:
            metrics = hooks.evaluate(step, state)
            if metrics is None:
                break
        if saving:
            hooks.save(step, state, metrics)
            saved = step
        hooks.poll(step)
        polled = step
    if pending is not None:
        _examine(*pending, rhythm, hooks)
    if step > start and not _is_due(step, rhythm):  # where a run ends or stops is logged
        hooks.log(step, jax.device_get(latest))
    if step > polled:
        hooks.poll(step)
    if step == steps and step > start:
        try:
            metrics = hooks.evaluate(step, state)
        except Exception:  # the steps are kept; several processes may not all have come here
            if step > saved and jax.process_count() == 1:
                hooks.save(step, state, None)
            raise
    if step > saved:
        hooks.save(step, state, metrics)
    return state, step


def _examine(step: int, metrics: dict[str, Any], rhythm: Rhythm, hooks: Hooks) -> bool:
    """Logs a finished step and says whether some process was asked to stop."""
    due = _is_due(step, rhythm)
    watched = {k: v for k, v in metrics.items() if k.startswith("counters/") or k == "stop"}
    values = jax.device_get(metrics if due else watched)
    if due:
        hooks.log(step, values)
    seen = samples_seen(values["counters/samples"])
    bad = np.asarray(values["counters/bad_samples"])
    tried = seen + int(bad.sum())  # each unusable one was replaced

    def tell() -> None:  # the last numbers, of a step that no line was due for
        if not due:
            hooks.log(step, jax.device_get(metrics))

    if seen >= rhythm.bad_after_samples and bad.sum() > rhythm.max_bad_fraction * tried:
        tell()
        raise Failed(bad_sample_table(bad, tried, rhythm.max_bad_fraction))
    if values["counters/skipped_in_a_row"] >= rhythm.max_skipped:
        tell()
        raise Failed(
            f"step {step}: loss or gradient was not finite {rhythm.max_skipped} times in a row; no "
            "update was made of them, and the checkpoints hold the last good ones. Lower the rate, "
            "or look at the data of these steps."
        )
    if values["stop"] >= REPLACED:
        raise Replaced(step)
    return bool(values["stop"] > 0)


def _is_due(step: int, rhythm: Rhythm) -> bool:
    return step % rhythm.log_steps == 0 or step == 1


def bad_sample_table(bad: Any, tried: int, limit: float) -> str:
    """The counts by cause, as the run's last words."""
    total = int(np.sum(bad))
    lines = [f"  {cause:<10} {int(number):>9,}" for cause, number in zip(CAUSES, bad) if number]
    return (
        f"{total:,} of {tried:,} samples could not be used ({total / max(tried, 1):.1%}, limit "
        f"{limit:.1%}):\n" + "\n".join(lines) + "\nMend the data, or raise "
        "--config.rhythm.max_bad_fraction."
    )
