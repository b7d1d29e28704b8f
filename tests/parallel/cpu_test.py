"""Memory that a step frees is there for the next one, where one CPU is the only device."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from mmjax.parallel import cpu

# Takes and frees 128 MiB a step, and counts the pages that the kernel has to zero for it: of the
# steps after the first ten the middle one, since the heap may still grow once when blocks that
# other threads freed late leave no gap that is large enough.
COUNT = """
import json, resource, sys
import jax, jax.numpy as jnp
from mmjax.parallel.cpu import keep_freed_memory

done = keep_freed_memory() if sys.argv[1] == "keep" else False

@jax.jit
def step(x):
    return x * 2.0, x + 2.0

x = jnp.ones((8, 1 << 21))
for _ in range(10):
    jax.block_until_ready(step(x))
faults = []
for _ in range(11):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(step(x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps({"done": done, "faults": sorted(faults)[5]}))
"""

# Takes 2.5 GiB, writes to the last 64 MiB of it and frees it; the faults of the second time.
LARGE = """
import ctypes, json, resource
from mmjax.parallel.cpu import keep_freed_memory

done = keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(5 << 29)
    ctypes.memset(block + (5 << 29) - (1 << 26), 1, 1 << 26)
    libc.free(block)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps({"done": done, "faults": faults}))
"""

# Writes to 64 MiB that nobody had before, in pieces as a step's arrays come.
FRESH = """
import ctypes, json, resource
from mmjax.parallel.cpu import keep_freed_memory

done = keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(16):
    ctypes.memset(libc.malloc(1 << 22), 1, 1 << 22)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
# Of this process: the largest size that the kernel tells begins with that of the parent.
(resident,) = (line for line in open("/proc/self/status") if line.startswith("VmRSS:"))
mib = int(resident.split()[1]) >> 10
print(json.dumps({"done": done, "faults": faults, "resident_mib": mib}))
"""


def count(how: str, program: str = COUNT) -> dict:
    alone = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "MMJAX_PROCESSES")}
    command = [sys.executable, "-c", program, how]
    env = {**alone, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_freed_memory_is_found_again_and_not_zeroed():
    kept, given_back = count("keep"), count("give back")
    assert kept["done"]
    assert given_back["faults"] > 10_000  # 128 MiB are 32,768 pages of 4 KiB
    assert kept["faults"] < 0.05 * given_back["faults"]


def test_more_than_two_gibibytes_are_kept_too():
    kept = count("keep", LARGE)
    assert kept["done"]
    assert kept["faults"] < 100  # 64 MiB are 16,384 pages


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, True),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}, False),
        ({"MMJAX_COORDINATOR": "a:1", "MMJAX_PROCESSES": "2", "MMJAX_PROCESS": "0"}, False),
    ],
)
def test_it_is_for_one_cpu_in_one_process_alone(monkeypatch, variables, expected):
    for name in ("XLA_FLAGS", "MMJAX_PROCESSES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    devices, platforms = jax.config.jax_num_cpu_devices, jax.config.jax_platforms
    # The suite runs on several devices; only what the function reads is changed for a moment.
    with monkeypatch.context() as patch:
        patch.setattr(
            cpu.jax, "config", type("C", (), {"jax_num_cpu_devices": -1, "jax_platforms": "cpu"})()
        )
        assert cpu.one_cpu() is expected
        cpu.jax.config.jax_platforms = "cuda,cpu"
        assert not cpu.one_cpu()
    assert (jax.config.jax_num_cpu_devices, jax.config.jax_platforms) == (devices, platforms)


def test_fresh_memory_comes_in_huge_pages_where_the_kernel_gives_them():
    fresh = count("keep", FRESH)
    assert fresh["done"]
    given = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if given.exists() and "[never]" not in given.read_text():
        assert fresh["faults"] < 1_000  # 16,384 pages of 4 KiB
    else:
        assert fresh["faults"] > 10_000
    assert fresh["resident_mib"] < 1_000  # addresses were asked for, not memory
