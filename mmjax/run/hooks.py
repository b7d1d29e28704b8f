"""What the training loop calls outside the step: logging, evaluating, saving, profiling."""

import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mmjax.config import nearest
from mmjax.data.device import flags_to_devices
from mmjax.data.sources.base import CAUSES
from mmjax.evaluation.report_read import ENDED
from mmjax.parallel import hosts
from mmjax.parallel.watchdog import Watch
from mmjax.run.evaluating import Interrupted
from mmjax.training.checkpoint import Checkpoints, Saved
from mmjax.training.failing import Replaced
from mmjax.training.flops import peak_flops
from mmjax.training.logging import MetricLog
from mmjax.training.loop import REPLACED
from mmjax.training.progress import Pace, Progress
from mmjax.training.signals import StopRequest
from mmjax.training.state import State, samples_seen
from mmjax.training.workdir import Held

_TIMED_STEPS = 4  # the first of which began before they were counted
_SLOW_SECONDS = 1.0  # a step beside which the host's own milliseconds are nothing


class RunHooks:
    """The loop's `Hooks` for a run in a workdir.

    Args:
      folder: the workdir.
      mesh: of the run.
      checkpoints: where states go.
      files: {name: text} kept beside each state.
      evaluation: (state, step) -> numbers, or None where the run holds nothing out.
      log: metrics.jsonl and TensorBoard.
      pace: the run's clock.
      progress: the bar or line.
      stop: whether this process was asked to stop.
      watch: is told what begins.
      lock: of the workdir, on process 0; None elsewhere.
      rows_a_step: rows of all streams together.
      flops_a_step: floating-point operations of one step, or 0 where unknown.
      publish: called when the log holds what somebody may want to read soon.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        mesh: Mesh,
        checkpoints: Checkpoints,
        files: Mapping[str, str],
        evaluation: Callable[[State, int], dict[str, float]] | None,
        log: MetricLog,
        pace: Pace,
        progress: Progress,
        stop: StopRequest,
        watch: Watch,
        lock: Held | None,
        rows_a_step: int,
        flops_a_step: float,
        publish: Callable[[], None] = lambda: None,
    ):
        self._folder = folder
        self._mesh = mesh
        self._checkpoints = checkpoints
        self._files = files
        self._evaluation = evaluation
        self._log = log
        self._pace = pace
        self._progress = progress
        self._stop = stop
        self._watch = watch
        self._lock = lock
        self._rows = rows_a_step
        self._flops = flops_a_step
        self._publish = publish
        self._peak = peak_flops(jax.devices()[0].device_kind)
        self._first = True
        self.reached = pace.step  # the last step that was looked after
        self.failed_saves = 0
        self.saved = 0  # the last step of which a checkpoint was written here
        self.last_problem = ""  # of a checkpoint, in words
        self.last_evaluation: dict[str, float] = {}
        self.cut_short = False  # an evaluation, by a request to stop
        self._step_seconds: list[float] = []
        self._stepped = 0.0
        self._at_once: bool | None = None if jax.process_count() > 1 else False

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """One line of numbers."""
        self._leave_out_compile(step)
        line = {k: v for k, v in metrics.items() if not k.startswith("counters/") and k != "stop"}
        bad = np.asarray(metrics["counters/bad_samples"])
        line["samples"] = samples_seen(metrics["counters/samples"])
        line["skipped_updates"] = int(metrics["counters/skipped"])
        line["bad_samples"] = int(bad.sum())
        line |= {f"bad_samples/{cause}": int(n) for cause, n in zip(CAUSES, bad) if n}
        line["failed_saves"] = self.failed_saves
        speed = self._pace.interval(step, self._rows)
        if self._peak and self._flops and speed:
            seconds = speed["step_seconds"] * len(jax.devices())
            line["mfu"] = self._flops / (seconds * self._peak)
        self._log.write(step, "train", {**line, **speed})
        self._progress.show(step, {**line, **speed})

    def evaluate(self, step: int, state: State) -> dict[str, float] | None:
        """Scores the state; the time does not count as training."""
        if self._evaluation is None:
            return {}
        with self._watch.evaluating(step), self._pace.pause():
            started = time.monotonic()
            try:
                numbers = self._evaluation(state, step)
            except Interrupted:
                self.cut_short = True
                return None
            seconds = time.monotonic() - started
        self._log.write(step, "evaluate", {**numbers, "evaluation_seconds": seconds})
        self.last_evaluation = numbers
        return numbers

    def save(self, step: int, state: State, metrics: dict[str, float] | None) -> None:
        """Starts a checkpoint in the background."""
        with self._watch.saving(step):
            if hosts.broadcast_bytes(b"lost" if self._lock_is_lost() else b"") == b"lost":
                raise Replaced(step)
            self._checkpoints.save(step, state, self._files, metrics or {})
        best = self._checkpoints.keep_best
        if best and best not in (metrics or {}):
            message = f"best_metric={best!r} was not measured, so no step is kept as the best."
            message += nearest(best, sorted(metrics or {}))
            self._progress.note(message)
            self._log.write(step, "event", {"event": "BestNotMeasured", "message": message})

    def poll(self, step: int) -> None:
        """Reports saves that ended, and moves the bar."""
        self.reached = step
        self._leave_out_compile(step)
        self._progress.advance(step)
        for event in self._checkpoints.poll():
            if isinstance(event, Saved):
                self.saved = event.step
                self._log.write(step, "event", {"event": "saved", "saved_step": event.step})
                self._publish()
                continue
            self.failed_saves += 1
            self.last_problem = event.message
            name = type(event).__name__
            self._progress.note(event.message)
            self._log.write(step, "event", {"event": name, "message": event.message})

    def ended_by(self, error: BaseException) -> None:
        """Keeps why the run ends before its last step, for the report."""
        message = " ".join(str(error).split()) or type(error).__name__
        ended = {"event": ENDED, "error": type(error).__name__, "message": message}
        self._log.write(self.reached, "event", ended)

    def stop_word(self) -> Any:
        """One flag a local device, on the devices; the step sums them."""
        taken = self._lock is not None and self._lock.taken
        return flags_to_devices(bool(self._stop) + REPLACED * taken, self._mesh)

    def stopping(self) -> bool:
        """True where this process was asked to stop and is the only one."""
        return jax.process_count() == 1 and bool(self._stop)

    def at_once(self, step: int) -> bool:
        """Whether steps take seconds: as process 0 found in the first ones, told to all."""
        if self._at_once is None:
            now = time.monotonic()
            self._step_seconds.append(now - self._stepped)
            self._stepped = now
            if len(self._step_seconds) == _TIMED_STEPS:
                slow = min(self._step_seconds[1:]) > _SLOW_SECONDS
                self._at_once = hosts.broadcast_bytes(b"slow" if slow else b"") == b"slow"
        return bool(self._at_once)

    def _leave_out_compile(self, step: int) -> None:
        if self._first:  # the step before compiled: no time of it is one of a step
            self._first = False
            self._pace.restart(step)

    def _lock_is_lost(self) -> bool:
        try:
            return self._lock is not None and self._lock.lost
        except OSError:  # a disk that does not answer takes no lock away
            return False


class Profile:
    """Takes a trace from one step to another, both included, into `profile/` of the workdir.

    A run that resumes between the two begins its trace at once, and one that ends between them
    has its trace written by `close`.

    Args:
      text: 'start:stop', or '' for none.
      folder: the workdir.
      steps: of the run, where it is to be checked that the trace begins within it.

    Raises:
      ValueError: text is no two steps in order.
    """

    def __init__(self, text: str, folder: pathlib.Path, steps: int | None = None):
        self._folder = folder / "profile"
        self._from, self._to = -1, -1
        self._running = False
        if text:
            try:
                self._from, self._to = (int(part) for part in text.split(":"))
            except ValueError:
                self._from = self._to = 0
            if not 0 < self._from < self._to:
                raise ValueError(f"--profile={text}: give two steps as start:stop, e.g. 10:15.")
            if steps is not None and self._from > steps:
                raise ValueError(f"--profile={text}: the run ends at step {steps} already.")

    def wrap(self, take_step: Callable[..., Any], start: int) -> Callable[..., Any]:
        """The step, with the trace begun and ended around the steps asked for."""
        if self._from < 0:
            return take_step
        done = start

        def traced(*arguments: Any) -> Any:
            nonlocal done
            done += 1
            if not self._running and self._from <= done < self._to:
                jax.profiler.start_trace(str(self._folder))
                self._running = True
            result = take_step(*arguments)
            if self._running and done >= self._to:
                jax.block_until_ready(result)
                self.close()
            return result

        return traced

    def close(self) -> None:
        """Ends and writes a trace that still runs; waits for no device, which may never answer."""
        if self._running:
            self._running = False  # first: a disk that refuses the trace is not asked again
            jax.profiler.stop_trace()
