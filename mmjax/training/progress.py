"""How fast the run goes, and the one bar or line that says so.

`Pace` measures: steps, waiting for data, and pauses (compiling, evaluating) that are no part of
either. `Progress` shows: a bar on a terminal, a line at each log interval elsewhere.
"""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmjax.parallel import hosts

_WINDOW = 20  # intervals that the estimate of the time left looks back
_REFRESH_SECONDS = 0.2


class Pace:
    """The run's clock, which stands still in pauses.

    Args:
      step: the step at which this process begins.
      clock: seconds that never go back; `time.time` would jump with the wall clock. Should it go
        back all the same, that time counts as none.
    """

    def __init__(self, step: int = 0, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._last = clock()
        self._active = 0.0  # seconds outside pauses
        self._waited = 0.0  # of these, seconds spent waiting for data
        self._paused = 0
        self._marks = deque([(step, 0.0, 0.0)], maxlen=_WINDOW + 1)  # (step, active, waited)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Within it time does not count: around compiling, evaluating, a blocking save."""
        self._tick()
        self._paused += 1
        try:
            yield
        finally:
            self._tick()
            self._paused -= 1

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Within it time counts as waiting for data."""
        self._tick()
        before = self._active
        try:
            yield
        finally:
            self._tick()
            self._waited += self._active - before

    def restart(self, step: int) -> None:
        """Forgets the intervals so far; after the first step, which compiles."""
        self._tick()
        self._marks.clear()
        self._marks.append((step, self._active, self._waited))

    @property
    def step(self) -> int:
        """The step at which the last interval ended."""
        return self._marks[-1][0]

    def interval(self, step: int, batch_size: int) -> dict[str, float]:
        """Numbers of the interval since the last call, for the log.

        Args:
          step: the step reached.
          batch_size: rows of the global batch.

        Returns:
          `step_seconds`, `images_per_second` and `data_wait_fraction`; empty where no step was
          made or no time passed.
        """
        self._tick()
        last_step, last_active, last_waited = self._marks[-1]
        steps, seconds = step - last_step, self._active - last_active
        if steps <= 0 or seconds <= 0:
            return {}
        self._marks.append((step, self._active, self._waited))
        return {
            "step_seconds": seconds / steps,
            "images_per_second": steps * batch_size / seconds,
            "data_wait_fraction": min(1.0, (self._waited - last_waited) / seconds),
        }

    def seconds_left(self, step: int, steps: int) -> float | None:
        """Estimate of the time from `step` to `steps`, at least 0; None before it is known."""
        self._tick()
        first_step, first_active, _ = self._marks[0]
        made, seconds = step - first_step, self._active - first_active
        if made <= 0:
            return None
        return max(0.0, (steps - step) * seconds / made)

    def _tick(self) -> None:
        now = self._clock()
        if not self._paused:
            self._active += max(0.0, now - self._last)
        self._last = now


class Progress:
    """One bar (on a terminal, by rich) or line (elsewhere), on process 0 alone.

    A stream that breaks, such as a closed pipe, ends the display and not the training.

    Args:
      steps: steps of the whole run.
      pace: the run's clock.
      stream: a text stream; standard error by default.
      terminal: draw a bar; by default where `stream` is a terminal.
      active: whether this process shows anything; by default process 0 alone does.
    """

    def __init__(
        self,
        steps: int,
        pace: Pace,
        stream: Any = None,
        terminal: bool | None = None,
        active: bool | None = None,
    ):
        self._steps = steps
        self._pace = pace
        self._stream = sys.stderr if stream is None else stream
        self._active = hosts.is_main() if active is None else active
        terminal = self._stream.isatty() if terminal is None else terminal
        self._bar = _Bar(steps, self._stream) if terminal and self._active else None

    def advance(self, step: int) -> None:
        """Moves the bar; cheap enough for each step. Without a terminal it does nothing."""
        if self._bar is not None:
            self._guarded(lambda: self._bar.draw(step, self._left(step)))

    def show(self, step: int, values: Mapping[str, Any]) -> None:
        """Shows the numbers of a log interval.

        Args:
          step: steps made.
          values: of these are shown `loss`, `images_per_second` and `data_wait_fraction`.
        """
        text = _numbers(values)
        if self._bar is not None:
            self._guarded(lambda: self._bar.draw(step, self._left(step), text))
        else:
            parts = (f"step {step}/{self._steps}", text, f"ETA {self._left(step)}")
            self.note("  ".join(part for part in parts if part))

    def note(self, text: str) -> None:
        """Prints a line; above the bar where there is one."""
        if not self._active:
            return
        text = _printable(text, self._stream)
        if self._bar is not None:
            self._guarded(lambda: self._bar.note(text))
        else:
            self._guarded(lambda: print(text, file=self._stream, flush=True))

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._guarded(self._bar.close)
        self._bar, self._active = None, False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _left(self, step: int) -> str:
        seconds = self._pace.seconds_left(step, self._steps)
        return "-:--:--" if seconds is None else _duration(seconds)

    def _guarded(self, draw: Callable[[], None]) -> None:
        try:
            draw()
        except (OSError, ValueError):  # a closed pipe, a closed stream
            self._bar, self._active = None, False


class _Bar:
    """rich's bar without its refreshing thread."""

    def __init__(self, steps: int, stream: Any):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._printable = lambda text: _printable(text, stream)
        self._drawn = float("-inf")
        self._progress = RichProgress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            TextColumn("ETA {task.fields[left]}", markup=False),
            console=Console(file=stream, force_terminal=True),
            auto_refresh=False,
            expand=True,
        )
        self._task = self._progress.add_task("", total=steps, numbers="", left="-:--:--")
        self._progress.start()

    def draw(self, step: int, left: str, numbers: str | None = None) -> None:
        fields = {"left": left}
        if numbers is not None:
            fields["numbers"] = self._printable(numbers)
        self._progress.update(self._task, completed=step, **fields)
        if numbers is not None or time.monotonic() - self._drawn >= _REFRESH_SECONDS:
            self._drawn = time.monotonic()
            self._progress.refresh()

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._progress.stop()


def _numbers(values: Mapping[str, Any]) -> str:
    forms = (
        ("loss", "loss {:.4f}"),
        ("images_per_second", "{:,.0f} images/s"),
        ("data_wait_fraction", "{:.0%} waiting for data"),
    )
    return "  ".join(form.format(float(values[name])) for name, form in forms if name in values)


def _duration(seconds: float) -> str:
    """Hours:minutes:seconds, the hours as many as it takes."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _printable(text: str, stream: Any) -> str:
    """`text` with what the stream's encoding does not know as question marks."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    return text.encode(encoding, "replace").decode(encoding)
