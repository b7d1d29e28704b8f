"""Devices to a named mesh.

Three axes, always in this order: `data` (rows of the batch), `fsdp` (rows of the batch, with the
state cut along it), `tensor` (widths of the layers).
"""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "tensor")


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The mesh of the run.

    Args:
      data: size of the axis over which the batch is split; -1 takes all devices left over.
      fsdp: size of the axis over which batch and state are split.
      tensor: size of the axis over which layers are split.
      devices: all of the job's by default.

    Raises:
      ValueError: the product is not the number of devices; the message gives sizes that are.
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
    if data * rest != len(devices):
        fitting = ", ".join(
            f"{len(devices) // size}x{size}x1" for size in range(1, 9) if len(devices) % size == 0
        )
        raise ValueError(
            f"mesh {data}x{fsdp}x{tensor} (data x fsdp x tensor) does not fit {len(devices)} "
            f"devices. These do: {fitting}."
        )
    return jax.make_mesh(
        (data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices
    )


def check_batch(batch_size: int, mesh: Mesh, processes: int) -> None:
    """Raises ValueError where a batch cannot be dealt out evenly, with sizes that can."""
    ways = math.lcm(mesh.shape["data"] * mesh.shape["fsdp"], processes)
    if batch_size < 1 or batch_size % ways:
        below, above = batch_size // ways * ways, (batch_size // ways + 1) * ways
        sizes = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"batch_size={batch_size} is no multiple of {ways} (batch axes of the mesh: "
            f"{mesh.shape['data']}x{mesh.shape['fsdp']}, processes: {processes}). Take {sizes}."
        )
