"""Devices to a named mesh.

Three axes, always in this order: `data` (rows of the batch), `fsdp` (rows of the batch, with the
state cut along it), `tensor` (widths of the layers). Neighbours along `tensor` talk most, so they
stand closest; where a job spans several slices, only `data` goes from one slice to another.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "tensor")


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """The mesh of the run.

    Args:
      data: size of the axis over which the batch is split; -1 takes all devices left over.
      fsdp: size of the axis over which batch and state are split.
      tensor: size of the axis over which layers are split.
      devices: all of the job's by default; of a topology where they are not here.

    Raises:
      ValueError: the product is not the number of devices, or `data` cannot be dealt out to the
        slices; the message gives sizes that fit.
    """
    devices = jax.devices() if devices is None else list(devices)
    rest = fsdp * tensor
    if min(fsdp, tensor) < 1 or (data < 1 and data != -1):
        raise ValueError(
            f"mesh {data}x{fsdp}x{tensor} (data x fsdp x tensor): sizes are 1 or more, and data "
            "alone may be -1 (all devices left over)."
        )
    if data == -1 and len(devices) % rest == 0:
        data = len(devices) // rest
    slices = _slices(devices)
    if data * rest != len(devices) or data % slices:
        where = f"{slices} slices of {len(devices) // slices}" if slices > 1 else len(devices)
        kept = tensor if len(devices) // slices % tensor == 0 else 1
        raise ValueError(
            f"mesh {data}x{fsdp}x{tensor} (data x fsdp x tensor) does not fit {where} devices"
            f"{' (a multiple of the slices in data)' if slices > 1 else ''}. "
            f"These do: {', '.join(_fitting(len(devices), slices, kept))}."
        )
    return Mesh(
        _arranged((data, fsdp, tensor), slices, devices),
        AXES,
        axis_types=(AxisType.Auto,) * len(AXES),
    )


def _slices(devices: Sequence[Any]) -> int:
    """Number of TPU slices. GPU nodes count as one: `fsdp` may well go from one to another."""
    if devices[0].platform == "gpu":
        return 1
    return len({getattr(device, "slice_index", None) for device in devices})


def _fitting(devices: int, slices: int, tensor: int) -> list[str]:
    """Meshes that fit, the fewest parts of the state first."""
    each = devices // slices // tensor
    sizes = [size for size in range(1, each + 1) if each % size == 0][:6]
    return [f"{slices * each // size}x{size}x{tensor}" for size in sizes]


def _arranged(sizes: tuple[int, ...], slices: int, devices: Sequence[Any]) -> np.ndarray:
    """The devices so that neighbours on the mesh are neighbours in the machine.

    `jax.make_mesh` splits a physical axis of the torus between two of the mesh on v5e alone, and
    would refuse 8x8x1 on a v5p 4x4x4; and it refuses several slices.
    """
    how = {"allow_split_physical_axes": True}
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, **how)
    inner = (sizes[0] // slices, *sizes[1:])
    return mesh_utils.create_hybrid_device_mesh(inner, (slices, 1, 1), devices, **how)


def rows_of_process(mesh: Mesh, batch_size: int, process: int) -> np.ndarray:
    """Numbers, in the global batch, of the rows that a process has to feed to its devices.

    Devices stand in the mesh as the machine's rings ask for it, so a process's rows need not be
    neighbours; and processes whose devices share a row of the mesh, along `tensor`, feed the same.

    Args:
      mesh: of the run.
      batch_size: rows of the global batch, as `check_batch` lets pass.
      process: its number.
    """
    groups = mesh.devices.reshape(-1, mesh.shape["tensor"])  # [data, fsdp, tensor] -> [d * f, t]
    mine = [
        number
        for number, group in enumerate(groups)
        if any(device.process_index == process for device in group)
    ]
    rows = np.arange(batch_size).reshape(len(groups), -1)
    return rows[mine].reshape(-1)


def check_batch(batch_size: int, mesh: Mesh, processes: int, name: str = "batch_size") -> None:
    """Raises ValueError where a batch cannot be dealt out evenly, with sizes that can."""
    ways = math.lcm(mesh.shape["data"] * mesh.shape["fsdp"], processes)
    if batch_size < 1:
        raise ValueError(f"{name}={batch_size}: a batch has at least one row. Take {ways}.")
    if batch_size % ways:
        below, above = batch_size // ways * ways, (batch_size // ways + 1) * ways
        sizes = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"{name}={batch_size} is no multiple of {ways} (batch axes of the mesh: "
            f"{mesh.shape['data']}x{mesh.shape['fsdp']}, processes: {processes}). Take {sizes}."
        )
