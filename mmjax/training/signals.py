"""SIGTERM and Ctrl-C as a request: finish the step, save, leave."""

import contextlib
import os
import signal
from types import FrameType
from typing import Any


class StopRequest:
    """Remembers that the process was asked to stop; use it as a context manager.

    Further signals change nothing, so that a second Ctrl-C cannot cut the save short.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        again = self.signal is not None
        self.signal = self.signal or number
        name = signal.Signals(number).name
        word = "still saving" if again else "finishing this step, saving, then leaving"
        # Not print: the signal may have come in the middle of one, which is an error.
        with contextlib.suppress(OSError):
            os.write(2, f"\n{name}: {word}.\n".encode())

    def __bool__(self) -> bool:
        return self.signal is not None
