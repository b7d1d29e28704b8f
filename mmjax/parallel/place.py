"""Which process of how many this one is, told from the environment without asking anybody.

JAX finds clusters by itself, and its way to the coordinator's address is used. What it gets wrong
is put right here: an interactive Slurm shell inside a larger allocation is one process; a process
that has a node to itself sees all of its GPUs and not the first alone; one that Slurm has bound to
a GPU is not asked for a second; and a machine without TPUs asks no metadata server.
"""

import dataclasses
import glob
import importlib.util
import os
import re
from collections.abc import Mapping

VARIABLES = ("MMJAX_COORDINATOR", "MMJAX_PROCESSES", "MMJAX_PROCESS")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_OPEN_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
_TPU_DEVICES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")


@dataclasses.dataclass(frozen=True)
class Place:
    """A process's place in a job of several.

    Attributes:
      how: by what it was found, for people.
      detection: JAX's name of the cluster that knows what is None here, or 'deactivate'.
      coordinator: host:port of process 0, or None.
      processes: how many there are, or None.
      process: this one's number from 0, or None.
      gpus: numbers of the GPUs that are this process's; () means all that it sees.
    """

    how: str
    detection: str
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    gpus: tuple[int, ...] = ()


def find_place(environ: Mapping[str, str] | None = None, tpu: bool | None = None) -> Place | None:
    """This process's place, or None where it is the only one.

    Our own variables come first, then Open MPI's, Slurm's, and a TPU slice's.

    Args:
      environ: os.environ by default.
      tpu: whether this machine has TPUs; looked for by default.

    Raises:
      ValueError: variables that are half set or say nothing that can be.
    """
    environ = os.environ if environ is None else environ
    if any(environ.get(name) for name in VARIABLES):
        return _plain(environ)
    if environ.get("OMPI_COMM_WORLD_SIZE") or environ.get("OMPI_MCA_orte_hnp_uri"):
        return _open_mpi(environ)
    if environ.get("SLURM_STEP_NODELIST"):
        return _slurm(environ)
    return _tpu_slice(environ, has_tpu(environ) if tpu is None else tpu)


def note(environ: Mapping[str, str] | None = None) -> str:
    """What a job that runs as one process may have meant otherwise, or ''."""
    environ = os.environ if environ is None else environ
    tasks = environ.get("SLURM_NTASKS", "1")
    if environ.get("SLURM_STEP_NODELIST") or not tasks.isdigit() or int(tasks) < 2:
        return ""
    return f"1 process, though Slurm gave {tasks} tasks: `srun python ...` starts one in each."


def _plain(environ: Mapping[str, str]) -> Place:
    given = {name: environ.get(name, "") for name in VARIABLES}
    coordinator, processes, process = given.values()
    numbers = processes.isdigit() and process.isdigit() and int(process) < int(processes)
    if not numbers or not re.fullmatch(r".+:\d+", coordinator):
        raise ValueError(
            f"to join a job of several processes set all of {', '.join(VARIABLES)} "
            f"(host:port, a number, 0 to that number less 1); given: {given}."
        )
    return Place("MMJAX_PROCESSES", "deactivate", coordinator, int(processes), int(process))


def _open_mpi(environ: Mapping[str, str]) -> Place | None:
    processes, process, local = _numbers(environ, _OPEN_MPI, "Open MPI")
    if processes == 1:
        return None
    if not environ.get("OMPI_MCA_orte_hnp_uri"):  # gone with Open MPI 5
        raise ValueError(
            "this version of Open MPI does not tell where process 0 is; give mpirun "
            "-x MMJAX_COORDINATOR=host:port -x MMJAX_PROCESSES=number and set MMJAX_PROCESS="
            "$OMPI_COMM_WORLD_RANK in each process."
        )
    beside = int(environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "0") or 0)
    gpus = _gpus(environ, local, beside)
    return Place("Open MPI", "ompi", None, processes, process, gpus)


def _slurm(environ: Mapping[str, str]) -> Place | None:
    tasks, process, local = _numbers(environ, _SLURM[2:], "Slurm", _SLURM)
    step = environ.get("SLURM_STEP_NUM_TASKS", "")
    processes = int(step) if step.isdigit() else tasks
    if processes == 1:
        return None
    if process >= processes:
        raise ValueError(f"Slurm: SLURM_PROCID={process} of {processes} tasks cannot be.")
    gpus = _gpus(environ, local, _beside(environ))
    return Place("Slurm", "slurm", None, processes, process, gpus)


def _numbers(
    environ: Mapping[str, str], names: tuple[str, ...], who: str, needed: tuple[str, ...] = ()
) -> list[int]:
    needed = needed or names
    given = {name: environ.get(name, "") for name in needed}
    if not all(given.values()) or not all(given[name].isdigit() for name in names):
        raise ValueError(
            f"{who} has set only some of {', '.join(needed)}: {given}. Start with "
            f"{'srun' if who == 'Slurm' else 'mpirun'}, or unset them for a job of one process."
        )
    return [int(given[name]) for name in names]


def _beside(environ: Mapping[str, str]) -> int:
    """Tasks on this node, where Slurm tells it: '4(x2),3' by node."""
    counts: list[int] = []
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not found:
            return 0
        counts += [int(found[1])] * int(found[2] or 1)
    node = environ.get("SLURM_NODEID", "0")
    return counts[int(node)] if node.isdigit() and int(node) < len(counts) else 0


def _gpus(environ: Mapping[str, str], local: int, beside: int) -> tuple[int, ...]:
    """This process's share of the node's GPUs; () for all that it sees."""
    if beside == 1:
        return ()
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return (local,)
    seen = len([name for name in visible.split(",") if name])
    if seen <= 1:  # bound to its own already
        return ()
    share = seen // beside if beside else 1
    return tuple(range(local * share, (local + 1) * share)) if share else (local,)


def has_tpu(environ: Mapping[str, str]) -> bool:
    """Whether this machine has TPU chips and the library that drives them; asks no network."""
    platforms = environ.get("JAX_PLATFORMS", "")
    if platforms and "tpu" not in platforms.split(","):
        return False
    chips = any(glob.glob(pattern) for pattern in _TPU_DEVICES)
    return chips and importlib.util.find_spec("libtpu") is not None


def _tpu_slice(environ: Mapping[str, str], tpu: bool) -> Place | None:
    """JAX asks the variables of GKE, or the metadata server, for hosts, number and slices."""
    if not tpu:
        return None
    slices = environ.get("MEGASCALE_NUM_SLICES", "1")
    hosts = environ.get("TPU_PROCESS_ADDRESSES", environ.get("TPU_WORKER_HOSTNAMES"))
    if hosts is not None:
        if slices == "1" and "," not in hosts:
            return None
        return Place("the TPU slice's variables", "gketpu")
    if environ.get("TPU_SKIP_MDS_QUERY") is not None:
        return None
    return Place("the TPU slice's metadata", "gcetpu")
