"""Many processes: start-up, and the few words they exchange on the host."""

import os
import sys
import time
from typing import Any

import jax
import numpy as np

VARIABLES = ("MMJAX_COORDINATOR", "MMJAX_PROCESSES", "MMJAX_PROCESS")
_LAST_SECONDS = 3.0


def start(heartbeat_seconds: int = 30) -> None:
    """Joins the job that the variables name; a no-op in a job of one process.

    MMJAX_COORDINATOR=host:port, MMJAX_PROCESSES=number, MMJAX_PROCESS=0...number-1, the same
    coordinator on each. Must run before the first use of a device.

    Args:
      heartbeat_seconds: how long a process may be silent before the others give it up.

    Raises:
      ValueError: some of the variables are missing or no numbers.
    """
    given = {name: os.environ.get(name, "") for name in VARIABLES}
    if not any(given.values()):
        return
    try:
        processes, process = int(given["MMJAX_PROCESSES"]), int(given["MMJAX_PROCESS"])
        if not given["MMJAX_COORDINATOR"] or not 0 <= process < processes:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"to join a job of several processes set all of {', '.join(VARIABLES)} "
            f"(host:port, a number, 0 to that number less 1); given: {given}."
        ) from None
    if "tpu" not in os.environ.get("JAX_PLATFORMS", ""):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        given["MMJAX_COORDINATOR"],
        processes,
        process,
        heartbeat_timeout_seconds=heartbeat_seconds,
    )


def leave(status: int) -> None:
    """Ends this process at once, with a status other than 0.

    An ordinary exit would wait for the other processes, which may be waiting for this one in a
    collective, and for threads that may be stuck. Process 0 goes last, since the others are ended
    by force where it goes first.
    """
    sys.stdout.flush()
    if jax.distributed.is_initialized() and is_main():
        time.sleep(_LAST_SECONDS)
    os._exit(status)


def is_main() -> bool:
    """True on the one process that writes files and prints."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def broadcast_bytes(value: bytes) -> bytes:
    """Process 0's value, on every process; what the others pass is ignored."""
    if jax.process_count() == 1:
        return value
    length = int(_broadcast(np.array(len(value), np.int64)))
    padded = np.zeros(length, np.uint8)
    if is_main():
        padded[:] = np.frombuffer(value, np.uint8)
    return _broadcast(padded).tobytes()


def _broadcast(value: np.ndarray) -> Any:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(value))
