"""What a run says to the person who started it."""

import contextlib
from collections.abc import Iterator

from mmjax.config import ConfigError
from mmjax.parallel import hosts
from mmjax.training.failing import Failed
from mmjax.training.workdir import NO_ROOM


def say(text: str) -> None:
    """A line on standard output, from process 0 alone; a closed pipe ends no run."""
    if hosts.is_main():
        with contextlib.suppress(OSError, ValueError):
            print(text, flush=True)


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """What is said within of wrong input reaches the person as one line.

    Raises:
      ConfigError: something within was refused.
      Failed: a disk is full; nothing that was typed is wrong.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise Failed(_not_written(error)) from error
        raise ConfigError(str(error)) from error


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """A file of the workdir that is not written within ends the run with one line.

    Raises:
      Failed: the disk refused.
    """
    try:
        yield
    except OSError as error:
        raise Failed(_not_written(error)) from error


def _not_written(error: OSError) -> str:
    return (
        f"{error.filename or 'the workdir'} could not be written: {error.strerror or error}. Make "
        "room or mend the disk; the same command goes on."
    )
