"""Devices by name that need not be here: TPU slices for libtpu to compile for, simulated CPUs.

'v5e:16x16' is one slice of 256 chips, 'v5e:16x16*2' two of them, 'cpu:8' eight simulated CPU
devices, 'gpu' the GPUs of this machine.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax

from mmjax.parallel.chips import GIB, Chip, find_chip


@dataclasses.dataclass(frozen=True)
class _Family:
    """A TPU version: what JAX calls it, chips of the largest slice, and slices to name."""

    kind: str
    most_chips: int
    axes: int
    named: tuple[str, ...]


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
FAMILIES = {
    "v4": _Family("TPU v4", 4096, 3, (*_DEEP, "8x16x16", "12x16x16")),
    "v5e": _Family("TPU v5 lite", 256, 2, _FLAT),
    "v5p": _Family("TPU v5", 6144, 3, (*_DEEP, "8x16x16", "16x16x16", "16x16x24")),
    "v6e": _Family("TPU v6 lite", 256, 2, _FLAT),
    "tpu7x": _Family("TPU7x", 9216, 3, (*_DEEP, "8x16x16", "16x16x16", "16x16x32")),
}

# libtpu otherwise asks the cloud which chips there are, and locks them.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
      name: as it was given.
      devices: of JAX, in its order.
      chip: published figures of one device, or None.
    """

    name: str
    devices: tuple[Any, ...]
    chip: Chip | None

    @property
    def processes(self) -> int:
        """How many hosts, each with a process, these devices have."""
        return len({device.process_index for device in self.devices})


def check_name(name: str) -> None:
    """Raises ValueError for a name that means no devices; starts nothing."""
    if name == "gpu":
        return
    family, _, rest = name.partition(":")
    if family == "cpu":
        if not re.fullmatch(r"[1-9]\d{0,3}", rest):
            raise ValueError(f"--plan={name}: for simulated CPU devices give cpu:8, say.")
        return
    if family not in FAMILIES:
        raise ValueError(
            f"--plan={name}: no such topology. There are "
            f"{', '.join(f'{known}:{one.named[4]}' for known, one in FAMILIES.items())}, several "
            "slices as in v5e:16x16*2, cpu:8 and gpu; --plan=list names them all."
        )
    given = re.fullmatch(r"(\d+(?:x\d+)*)(?:\*([1-9]\d*))?", rest)
    sizes = tuple(int(size) for size in given[1].split("x")) if given else ()
    if not _possible(sizes, FAMILIES[family]):
        raise ValueError(
            f"--plan={name}: {rest!r} is no slice of {family}. These are: "
            f"{', '.join(FAMILIES[family].named)}; two slices are written as "
            f"{family}:{FAMILIES[family].named[4]}*2."
        )
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"--plan={name}: libtpu compiles for TPUs, and is not installed. Do pip install libtpu."
        )


def open_topology(name: str) -> Topology:
    """The devices of a name; call it before JAX has started a device.

    Raises:
      ValueError: a name that means none, libtpu or GPUs that are not here, or a JAX that has begun
        with fewer CPU devices.
    """
    check_name(name)
    family, _, rest = name.partition(":")
    if family == "cpu":
        devices = _simulated(name, int(rest))
    elif family == "gpu":
        devices = _local_gpus()
    else:
        devices = _slices(name, family, rest)
    return Topology(name, tuple(devices), find_chip(devices[0].device_kind))


def table() -> str:
    """All names with what their devices can do."""
    lines = [f"{'topology':<16}{'chips':>6}{'HBM':>9}{'peak':>10}{'HBM':>10}{'link, one':>11}"]
    lines.append(f"{'':<16}{'':>6}{'a chip':>9}{'bf16':>10}{'bandwidth':>10}{'axis':>11}")
    for family, one in FAMILIES.items():
        chip = find_chip(one.kind)
        ways = chip.devices_per_chip
        for shape in one.named:
            chips = math.prod(int(size) for size in shape.split("x"))
            lines.append(
                f"{family + ':' + shape:<16}{chips:>6}{chip.hbm_bytes * ways / GIB:>5.0f} GiB"
                f"{chip.flops * ways / 1e12:>6.0f} TF/s{chip.hbm_bandwidth * ways / 1e9:>5.0f} GB/s"
                f"{chip.link_bandwidth * ways / 1e9:>6.0f} GB/s"
            )
    lines.append("v5e:16x16*2     two slices, and so for each; 'data' alone goes between them")
    lines.append("cpu:8           simulated CPU devices, any number; no times are known")
    lines.append("gpu             the GPUs of this machine")
    return "\n".join(lines)


def _possible(sizes: tuple[int, ...], family: _Family) -> bool:
    """Whether there may be such a slice: one that is named, or whole cubes up to the largest."""
    if "x".join(map(str, sizes)) in family.named:
        return True
    cubes = len(sizes) == family.axes == 3 and all(size and size % 4 == 0 for size in sizes)
    return cubes and tuple(sorted(sizes)) == sizes and math.prod(sizes) <= family.most_chips


def _simulated(name: str, number: int) -> list[Any]:
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:
        with contextlib.suppress(RuntimeError):  # devices have started; perhaps there are enough
            jax.config.update("jax_num_cpu_devices", number)
    devices = jax.devices("cpu")
    if len(devices) < number:
        raise ValueError(
            f"--plan={name}: JAX has begun with {len(devices)} CPU devices. Ask for no more, or "
            "leave XLA_FLAGS=--xla_force_host_platform_device_count out."
        )
    return devices[:number]


def _local_gpus() -> list[Any]:
    try:
        return jax.devices("gpu")
    except RuntimeError as error:
        line = " ".join(str(error).split())[:160]
        raise ValueError(
            f"--plan=gpu: JAX finds no GPU here ({line}). Do pip install 'mmjax[cuda]' on a "
            "machine that has one, or plan for a TPU, see --plan=list."
        ) from None


def _slices(name: str, family: str, rest: str) -> list[Any]:
    from jax.experimental import topologies

    for variable, value in _QUIET.items():
        os.environ.setdefault(variable, value)
    shape, _, slices = rest.partition("*")
    how: dict[str, Any] = {"num_slices": int(slices)} if slices else {}
    if family == "v4":
        how["chip_config_name"] = "megacore"  # both cores of a chip as one device, as JAX has them
    if shape == "1x1":
        how["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{family}:{shape}", **how
        )
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        line = " ".join(str(error).split())[:200]
        raise ValueError(f"--plan={name}: libtpu has no such slice ({line}).") from None
    return list(found.devices)
