"""Calls of a store that are begun again when they fail, with growing pauses."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["FIRST_WAIT", "TRIES", "error_line", "retry"]

TRIES = 5
FIRST_WAIT = 1.0  # seconds before the second try, doubled for each further one
# What trying again does not mend: the first are for the caller, the others for the person.
_ANSWERS = (FileNotFoundError, FileExistsError, NotADirectoryError)
_FINAL = (PermissionError, NotImplementedError)

_Result = TypeVar("_Result")


def retry(
    url: str, act: Callable[[], _Result], kind: type[OSError], tries: int | None = None
) -> _Result:
    """What a call gives; the first failure is said at once, the last one ends it.

    Args:
      url: what the call is about, for people.
      act: the call.
      kind: of the error in the end; one of this kind that the call raises is not tried again.
      tries: how often it is begun, `TRIES` by default.

    Raises:
      FileNotFoundError, FileExistsError, NotADirectoryError: the store's answer.
      OSError: of `kind`; the message names the address.
    """
    tries, wait = tries or TRIES, FIRST_WAIT
    for attempt in range(1, tries + 1):
        try:
            return act()
        except (*_ANSWERS, kind):
            raise
        except Exception as error:  # each store has its own kinds
            line = error_line(error)
            if isinstance(error, _FINAL) or attempt == tries:
                times = f", {attempt} times tried" if attempt > 1 else ""
                raise kind(f"{url}{times}: {line}") from error
            if attempt == 1:
                logging.getLogger("mmjax").warning(
                    "%s failed (%s); it is tried %d times in all.", url, line, tries
                )
        time.sleep(wait)
        wait *= 2
    raise AssertionError("unreachable")


def error_line(error: Exception) -> str:
    """What a store's own exception says, in one line."""
    said = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
