"""Which accelerator a run is for: asked for by name, or found.

JAX takes a CPU in silence where a driver is missing, and the run would take years.
"""

import importlib.metadata
import importlib.util
import os

import jax

from mmjax.parallel.place import has_tpu

PLATFORMS = {"tpu": "tpu", "gpu": "cuda"}  # and the extra of this package that brings it


def require(platform: str) -> None:
    """Raises ValueError unless the devices are what was asked for.

    Args:
      platform: 'tpu' or 'gpu'; '' takes any that JAX can start.
    """
    if platform and platform not in PLATFORMS:
        raise ValueError(f"--require={platform}: give one of {', '.join(PLATFORMS)}.")
    named = jax.config.jax_platforms
    if not platform and not named:
        return
    asked = f"--require={platform}" if platform else f"JAX_PLATFORMS={named}"
    try:
        found = jax.local_devices()
        words = f"{len(found)} x {found[0].device_kind} ({found[0].platform})"
        if platform in ("", found[0].platform):
            return
    except (RuntimeError, AssertionError) as error:  # what JAX_PLATFORMS names cannot be started
        words = " ".join(str(error).split())[:200] or "no device"
    wanted = platform or named.split(",")[0].replace("cuda", "gpu").replace("rocm", "gpu")
    raise ValueError(f"{asked}: JAX found {words}. {_advice(wanted)}")


def leave_out_tpu() -> bool:
    """Keeps JAX from looking for TPUs where there are none; before the first use of a device.

    libtpu may be installed only to compile for TPUs elsewhere. Without chips JAX still starts it,
    which takes seconds, asks the network and prints a page.

    Returns:
      Whether it was done: not where platforms were named, or a plugin brings another accelerator.
    """
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    if jax.config.jax_platforms or plugins or not _installed("tpu") or has_tpu(os.environ):
        return False
    jax.config.update("jax_platforms", "cpu")
    return True


def _advice(platform: str) -> str:
    wanted = jax.config.jax_platforms or platform
    if platform not in wanted.replace("cuda", "gpu").replace("rocm", "gpu").split(","):
        return f"JAX_PLATFORMS={wanted} keeps it from others; unset it."
    if _installed(platform):
        look = "nvidia-smi" if platform == "gpu" else "ls /dev/accel* /dev/vfio"
        return (
            f"JAX's {platform} plugin is installed; does `{look}` show the device and its driver?"
        )
    if platform not in PLATFORMS:
        return "Unset it, or name a platform that is here."
    return f"Do pip install 'mmjax[{PLATFORMS[platform]}]'."


def _installed(platform: str) -> bool:
    if platform == "tpu":
        return importlib.util.find_spec("libtpu") is not None
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return any("cuda" in plugin.name or "rocm" in plugin.name for plugin in plugins)
