"""What a run says to the person who started it."""

import contextlib
from collections.abc import Iterator

from mmjax.config import ConfigError
from mmjax.parallel import hosts


def say(text: str) -> None:
    """A line on standard output, from process 0 alone; a closed pipe ends no run."""
    if hosts.is_main():
        with contextlib.suppress(OSError, ValueError):
            print(text, flush=True)


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """What is said within of wrong input reaches the person as one line."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
