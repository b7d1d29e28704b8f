"""Many processes: start-up, the end of one, and the few words they exchange on the host."""

import atexit
import errno
import os
import socket
import sys
import threading
import time
from typing import Any

import jax
import numpy as np

from mmjax.parallel.limits import Watchdog
from mmjax.parallel.peers import Peers
from mmjax.parallel.place import Place, find_place, note
from mmjax.parallel.watchdog import begin_witness, end_witness

EXIT_NOT_JOINED = 2
_LAST_SECONDS = 3.0
_GRACE_SECONDS = 60  # by which JAX's own limit, which ends a process without a line, is later
_BEATS = 12  # in heartbeat_seconds

_peers: Peers | None = None


def start(limits: Watchdog) -> str:
    """Joins the job that the environment names; a no-op in a job of one process.

    Plain variables (MMJAX_COORDINATOR=host:port, MMJAX_PROCESSES=number, MMJAX_PROCESS=0 ...
    number-1), Open MPI, Slurm or a TPU slice, see `place`. Must run before the first use of a
    device.

    Args:
      limits: how long to wait for the others, and for a sign of life later.

    Returns:
      A line for people such as '4 processes by Slurm', or ''.

    Raises:
      ValueError: variables are half set or cannot be.
    """
    global _peers
    if jax.distributed.is_initialized():
        return ""
    place = find_place()
    if place is None:
        return note()
    if "tpu" not in os.environ.get("JAX_PLATFORMS", ""):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    from orbax.checkpoint import multihost  # takes a second, so before the others wait for it

    _check_port(place)
    _join(place, limits)
    process, processes = jax.process_index(), jax.process_count()
    if processes == 1:
        return ""
    witness = begin_witness(process, processes)
    host, _, port = _coordinator().rpartition(":")
    if process:
        witness.tell(coordinator=[host.strip("[]"), int(port)])
    client = multihost.get_jax_distributed_client()
    _peers = Peers(client, process, processes, limits.heartbeat_seconds / _BEATS, witness)
    _peers.start()
    atexit.register(_peers.stop)
    return f"{processes} processes by {place.how}"


def _check_port(place: Place) -> None:
    """Raises ValueError where somebody listens at process 0's port, at which JAX would crash."""
    if place.process or not place.coordinator:
        return
    port = int(place.coordinator.rpartition(":")[2])
    everywhere = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if everywhere else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=everywhere).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"process 0 by {place.how}: port {port} is in use on this machine, by another job "
                "or by a process 0 that still runs. End it, or give all processes another port."
            ) from None


def _join(place: Place, limits: Watchdog) -> None:
    joined = threading.Event()
    # JAX would end the process with lines of C++, so ours is the shorter patience.
    threading.Thread(
        target=_give_up, args=(place, limits.start_seconds, joined), daemon=True
    ).start()
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.processes,
            place.process,
            # None would leave it to JAX, which shows a process of Slurm one GPU alone.
            local_device_ids=None if place.processes is None else list(place.gpus),
            cluster_detection_method=place.detection,
            initialization_timeout=round(limits.start_seconds + _GRACE_SECONDS),
            heartbeat_timeout_seconds=round(limits.heartbeat_seconds),
        )
    except (RuntimeError, OSError) as error:
        line = " ".join(str(error).split())
        raise ValueError(f"start-up of several processes by {place.how}: {line[:300]}") from error
    finally:
        joined.set()


def _give_up(place: Place, seconds: float, joined: threading.Event) -> None:
    """Ends a process that waits for others in vain, which an exception could not."""
    if joined.wait(seconds):
        return
    where = place.coordinator or _coordinator()
    host, _, port = where.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        problem = f"process 0 answers at {where}, but not all processes have joined it"
    except (OSError, ValueError):
        problem = f"process 0 cannot be reached at {where or 'its address'}"
    if joined.is_set():
        return
    number = "a process" if place.process is None else f"process {place.process}"
    of = "" if place.processes is None else f" of {place.processes}"
    os.write(
        2,
        f"error: {number}{of} by {place.how}: after {seconds:g} s {problem}. Start all processes "
        "at the same time, each with its own number, and let them reach that port; "
        "--config.watchdog.start_seconds waits longer.\n".encode(),
    )
    os._exit(EXIT_NOT_JOINED)


def _coordinator() -> str:
    """host:port of process 0; JAX has no public word for what it found itself."""
    from jax._src import distributed

    return distributed.global_state.coordinator_address or ""


def blame(error: Exception) -> str:
    """Who is gone, in words, where that is why `error` came; '' where it is this process's own.

    May wait for some seconds, since the devices know of it before it can be told who it was.
    """
    broken = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)
    return _peers.gone() if _peers is not None and broken else ""


def leave(status: int, why: str = "") -> None:
    """Ends this process at once, with a status other than 0.

    An ordinary exit would wait for the other processes, which may be waiting for this one in a
    collective, and for threads that may be stuck. Process 0 goes last, since the others are ended
    by force where it goes first.

    Args:
      status: of the exit.
      why: one line for the other processes.
    """
    sys.stdout.flush()
    if _peers is not None:
        _peers.stop(why or f"exit status {status}")
    end_witness()
    if jax.distributed.is_initialized() and is_main():
        time.sleep(_LAST_SECONDS)
    os._exit(status)


def is_main() -> bool:
    """True on the one process that writes files and prints.

    Before a job of several is joined its variables tell: to ask JAX would start a backend, which
    has to wait for the others. (Where they do not tell, as on a TPU slice, every process is it.)
    """
    if jax.distributed.is_initialized():
        return jax.process_index() == 0
    try:
        place = find_place()
    except ValueError:  # `start` refuses them
        return True
    return place is None or not place.process


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


def gather_bytes(value: bytes, most: int) -> list[bytes]:
    """Each process's value by its number, on every process; of more than `most` bytes the first."""
    if jax.process_count() == 1:
        return [value[:most]]
    from jax.experimental import multihost_utils

    padded = np.zeros(4 + most, np.uint8)
    own = np.frombuffer(value[:most], np.uint8)
    padded[:4] = np.frombuffer(len(own).to_bytes(4, "little"), np.uint8)
    padded[4 : 4 + len(own)] = own
    rows = [row.tobytes() for row in np.asarray(multihost_utils.process_allgather(padded))]
    return [row[4 : 4 + int.from_bytes(row[:4], "little")] for row in rows]


def _broadcast(value: np.ndarray) -> Any:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(value))
