"""Two real processes join by each way of start-up; one alone starts at once; none waits on."""

import os
import socket
import subprocess
import sys
import time

import pytest

JOIN = """
import sys, time
import jax
from mmjax.parallel import hosts
from mmjax.parallel.limits import Watchdog
started = time.monotonic()
early = hosts.is_main()  # and starts no backend, before which the job has to be joined
try:
    line = hosts.start(Watchdog(start_seconds=float(sys.argv[1])))
except ValueError as error:
    sys.exit(f"error: {error}")
print(f"[{line}] in {time.monotonic() - started:.1f} s")
assert early == hosts.is_main()
print(jax.process_index(), hosts.broadcast_bytes(b"hello" if hosts.is_main() else b"").decode())
"""
CLUSTERS = ("MMJAX_", "SLURM_", "OMPI_", "TPU_", "MEGASCALE_", "JAX_COORDINATOR")


def begin(seconds=60.0, **variables):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(CLUSTERS)}
    environment = {**kept, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", **variables}
    return subprocess.Popen(
        [sys.executable, "-c", JOIN, str(seconds)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port(lowest=1024):
    """One that nobody listens at; JAX chooses from 61440 on, by the number of the job."""
    for port in range(max(lowest, 61440) + os.getpid() % 2000, 65536):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port")


def slurm(process):
    job = free_port() - 61440
    return {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(process),
    }


def open_mpi(process):
    job = (free_port() - 61440) << 12
    return {
        "OMPI_MCA_orte_hnp_uri": f"{job}.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(process),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(process),
    }


@pytest.mark.parametrize(("cluster", "how"), [(slurm, "Slurm"), (open_mpi, "Open MPI")])
def test_two_processes_find_each_other(cluster, how):
    variables = [cluster(process) for process in range(2)]
    pair = [begin(**given) for given in variables]
    ends = [process.communicate(timeout=120) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], ends
    for number, (out, err) in enumerate(ends):
        assert f"[2 processes by {how}]" in out
        assert out.splitlines()[-1] == f"{number} hello"
        assert err == ""


def test_one_process_starts_at_once_and_asks_no_network():
    alone = begin(TPU_WORKER_HOSTNAMES="a,b", GCE_METADATA_IP="192.0.2.1")  # nobody is there
    out, err = alone.communicate(timeout=120)
    assert alone.returncode == 0, err
    assert out.splitlines()[1] == "0 hello"
    assert out.startswith("[] in ")
    assert float(out.split()[2]) < 1


@pytest.mark.parametrize(
    ("process", "words"),
    [
        (1, "process 1 of 2 by MMJAX_PROCESSES: after 3 s process 0 cannot be reached at 127"),
        (0, "process 0 of 2 by MMJAX_PROCESSES: after 3 s process 0 answers at 127"),
    ],
)
def test_one_that_waits_in_vain_ends_in_one_line(process, words):
    started = time.monotonic()
    lonely = begin(
        3.0,
        MMJAX_COORDINATOR=f"127.0.0.1:{free_port()}",
        MMJAX_PROCESSES="2",
        MMJAX_PROCESS=str(process),
    )
    _, err = lonely.communicate(timeout=120)
    assert lonely.returncode == 2
    assert time.monotonic() - started < 60
    (line,) = err.splitlines()
    assert line.startswith(f"error: {words}")
    assert "start_seconds" in line


def test_a_port_that_is_in_use_is_one_line_at_once():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = begin(
            MMJAX_COORDINATOR=f"127.0.0.1:{port}", MMJAX_PROCESSES="2", MMJAX_PROCESS="0"
        )
        _, err = refused.communicate(timeout=120)
    assert refused.returncode == 1  # train.py makes 2 of it
    (line,) = err.splitlines()
    assert line.startswith(f"error: process 0 by MMJAX_PROCESSES: port {port} is in use")


def test_half_set_variables_are_one_line():
    wrong = begin(SLURM_JOB_ID="1", SLURM_STEP_NODELIST="localhost", SLURM_NTASKS="2")
    _, err = wrong.communicate(timeout=120)
    (line,) = err.splitlines()
    assert line.startswith("error: Slurm has set only some of")
