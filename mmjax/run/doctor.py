"""`mmjax doctor`: what this machine has, and what to do about what it lacks."""

import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import re
import shutil
import sys
from collections.abc import Iterator

from mmjax.parallel import compilation
from mmjax.parallel.accelerator import leave_out_tpu

__all__ = ["main"]

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "safetensors")
OPTIONAL = {
    "huggingface_hub": "hf:// sources: pip install 'mmjax[hub]'",
    "wandb": "Weights & Biases: pip install 'mmjax[wandb]'",
    "gcsfs": "gs:// shards and workdirs: pip install 'mmjax[gcs]'",
}
LOW_MEMORY = 4 << 30
LOW_DISK = 5 << 30


def main() -> int:
    """Prints a line for each thing looked at; the exit status is 1 where something is wrong."""
    leave_out_tpu()
    wrong = 0
    for mark, text in _findings():
        wrong += mark == "BAD"
        print(f"{mark:4} {text}")
    return int(wrong > 0)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    parts = []
    for part in version.split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


def _floors() -> Iterator[tuple[str, str]]:
    """(package, oldest version that the tests were run on) of what this package needs."""
    for requirement in importlib.metadata.requires("mmjax") or ():
        found = re.fullmatch(r"([\w.-]+)>=([\d.]+)", requirement)
        if found:
            yield found[1], found[2]


def _findings() -> Iterator[tuple[str, str]]:
    yield "ok", f"Python {platform.python_version()} on {platform.platform()}"
    yield "ok", ", ".join(f"{name} {_version(name) or 'missing'}" for name in PACKAGES)
    for name, oldest in _floors():
        found = _version(name)
        if found is None:
            yield "BAD", f"{name} is missing: pip install '{name}>={oldest}'"
        elif _numbers(found) < _numbers(oldest):
            yield "BAD", f"{name} {found} was never tried: pip install -U '{name}>={oldest}'"
    yield from _devices()
    yield from _memory()
    yield from _reading()
    yield from _places()
    for name, use in OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            yield "-", f"not installed, for {use}"


def _devices() -> Iterator[tuple[str, str]]:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        reason = str(error).split("\n")[0]
        yield "BAD", f"no device starts: {reason}. Unset JAX_PLATFORMS, or set it to cpu."
        return
    kinds = sorted({device.device_kind for device in devices})
    yield "ok", f"{len(devices)} x {', '.join(kinds)} ({devices[0].platform})"
    if devices[0].platform == "cpu" and shutil.which("nvidia-smi"):
        yield "BAD", "there is an NVIDIA GPU that JAX does not see: pip install 'mmjax[cuda]'"
    if devices[0].platform == "cpu" and os.path.exists("/dev/accel0"):
        yield "BAD", "there is a TPU that JAX does not see: pip install 'mmjax[tpu]'"
    stats = getattr(devices[0], "memory_stats", lambda: None)()
    if stats and "bytes_limit" in stats:
        yield "ok", f"{stats['bytes_limit'] / 2**30:.1f} GiB of memory a device"


def _memory() -> Iterator[tuple[str, str]]:
    pages, size = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    free, cores = pages * size, len(os.sched_getaffinity(0))
    text = f"{cores} CPU cores, {free / 2**30:.1f} GiB of memory free"
    if free < LOW_MEMORY:
        yield "BAD", f"{text}: little for training; close something, or make the batch smaller"
    else:
        yield "ok", text
    shared = pathlib.Path("/dev/shm")
    if shared.exists() and shutil.disk_usage(shared).free < 256 << 20:
        yield (
            "BAD",
            "/dev/shm has under 256 MiB free, and worker processes hand pictures over there: "
            "give the container --shm-size=2g, or set --config.reading.workers=0",
        )


def _reading() -> Iterator[tuple[str, str]]:
    import cv2
    import PIL
    import simplejpeg

    rest = f"the rest by Pillow {PIL.__version__}, sizes by OpenCV {cv2.__version__}"
    yield "ok", f"JPEG by simplejpeg {simplejpeg.__version__} (libjpeg-turbo), {rest}"
    if sys.getfilesystemencoding().lower().replace("-", "") != "utf8":
        yield "BAD", "the locale is not UTF-8: set PYTHONUTF8=1"


def _places() -> Iterator[tuple[str, str]]:
    cache = compilation.cache_root()
    yield "ok", f"compilation cache: {cache}"
    where = next(parent for parent in (cache, *cache.parents) if parent.exists())
    if not os.access(where, os.W_OK):
        yield "BAD", f"{where} cannot be written: set MMJAX_CACHE to a folder that can"
    elif shutil.disk_usage(where).free < LOW_DISK:
        yield "BAD", f"{where} has under 5 GiB free: set MMJAX_CACHE to another disk"
