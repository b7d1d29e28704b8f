"""Memory on a CPU: what makes a step fast where it is the only device, and a load frugal."""

import ctypes
import importlib.metadata
import importlib.util
import math
import os
import platform
from typing import Any

import jax
import numpy as np

from mmjax.parallel.place import find_place

# Options of glibc's mallopt, see malloc.h.
_MMAP_MAX, _TOP_PAD, _TRIM_THRESHOLD = -4, -2, -1
_PAD_BYTES = 1 << 28
_NEVER = -1  # the largest int would be a threshold of 2 GiB, and a step of B/32 frees more
_HUGE_PAGES = 14  # madvise's MADV_HUGEPAGE, see mman.h
_HUGE_PAGE_BYTES = 1 << 21
_ADVISED_BYTES = 1 << 33  # of addresses; a step of B/32 at batch 8 holds 4 GiB
_ALIGNMENT = 64  # bytes, of what XLA's CPU client takes without a copy


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array with nothing in it yet, which `jax.device_put` makes one of a CPU without a copy.

    Whoever puts it there must not write into it afterwards.

    Args:
      shape: its shape.
      dtype: its element type.

    Source: XLA, xla/pjrt/cpu/cpu_client.cc and xla/cpu_function_runtime.h (MinAlign).
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def keep_freed_memory() -> bool:
    """Lets each step find the memory of the one before; call it before the first use of a device.

    XLA's CPU client takes a step's buffers from malloc, and glibc by itself hands blocks of that
    size back to the kernel when they are freed, so each step waits for its pages to be zeroed
    again: over a third of the step of a ViT-Ti on two cores. Here glibc keeps what is freed. It can
    do so only for the main thread, so programs run in the thread that calls them. (One arena for
    all threads would do as well but for the lock, for which XLA's workers then wait.) The price is
    that the process stays as large as it ever was. The kernel is asked for huge pages there, which
    saves up to another twentieth.

    Returns:
      Whether it was done: not where there may be an accelerator, several devices or several
      processes, nor without glibc.

    Source: the GNU C Library's manual, "Malloc Tunable Parameters".
    """
    if platform.libc_ver()[0] != "glibc" or not one_cpu():
        return False
    libc = ctypes.CDLL(None)
    options = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _PAD_BYTES))
    done = [libc.mallopt(ctypes.c_int(name), ctypes.c_int(value)) for name, value in options]
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    _ask_for_huge_pages(libc)
    return all(done)


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """Has what malloc hands out next on huge pages, where the kernel gives them to who asks.

    glibc does so by itself only if GLIBC_TUNABLES says so before the process starts. Here the heap
    grows once over addresses that nothing is written to, so no memory is taken, and it never
    shrinks again. Where that many are refused it stays on the usual pages.
    """
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if block := libc.malloc(_ADVISED_BYTES):
        first = math.ceil(block / _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
        libc.madvise(first, _ADVISED_BYTES - (first - block), _HUGE_PAGES)
        libc.free(block)


def one_cpu() -> bool:
    """Whether this process has one CPU and nothing else to run on, told without starting it."""
    simulated = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if simulated or jax.config.jax_num_cpu_devices > 1 or find_place() is not None:
        return False
    if jax.config.jax_platforms:
        return jax.config.jax_platforms == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None
