"""What a run ran on: versions, devices and commit, kept with each checkpoint."""

import importlib.metadata
import json
import pathlib
import platform
import shlex
import subprocess
import sys

import jax

import mmjax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers")


def describe() -> str:
    """One JSON object; needs the devices, so not before start-up."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    device = jax.devices()[0]
    facts = {
        "mmjax": mmjax.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": versions,
        "devices": len(jax.devices()),
        "device_kind": device.device_kind,
        "platform": device.platform,
        "processes": jax.process_count(),
        "command": shlex.join(sys.argv),
    }
    return json.dumps(facts, indent=1, sort_keys=True) + "\n"


def commit() -> str:
    """The checked-out commit of the package's repository, '' outside one."""
    folder = pathlib.Path(mmjax.__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
