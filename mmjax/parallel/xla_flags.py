"""The compiler's flags: one set, with which a step is planned and run.

They go with the compilation (`jax.jit(..., compiler_options=...)`), so no environment variable has
to be set before the backend starts, and a step compiled for chips that are not here has them too.
"""

import functools
import logging
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding

_UNKNOWN = re.compile(r"No such compile option: '(\w+)'")
Value = bool | int | str
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")

TPU: Mapping[str, Value] = {
    # Gradients summed over `data` in the loop over layers travel while the next layer computes.
    "xla_tpu_enable_data_parallel_all_reduce_opt": True,
    # ... also where they differ in size, as the kernels of a block do.
    "xla_tpu_data_parallel_opt_different_sized_ops": True,
    # Under FSDP the kernels of the next layer are gathered during the matrix products of this one.
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
    "xla_tpu_overlap_compute_collective_tc": True,
}

_ON = "COLLECTIVE_PIPELINING_MODE_ON"
GPU: Mapping[str, Value] = {
    # Collectives start as early and end as late as their data allows; off by default.
    "xla_gpu_enable_latency_hiding_scheduler": True,
    # In a loop over layers, what FSDP gathers for the next layer travels during this one ...
    "xla_gpu_pipeline_all_gather": _ON,
    # ... and the gradients of the layer before are summed meanwhile.
    "xla_gpu_pipeline_reduce_scatter": _ON,
    "xla_gpu_pipeline_all_reduce": _ON,
}

# What says the same to the compilers of jax 0.10; those of 0.11 know the new names alone.
FORMER: Mapping[str, tuple[str, Value]] = {
    "xla_gpu_pipeline_all_gather": ("xla_gpu_enable_pipelined_all_gather", True),
    "xla_gpu_pipeline_reduce_scatter": ("xla_gpu_enable_pipelined_reduce_scatter", True),
    "xla_gpu_pipeline_all_reduce": ("xla_gpu_enable_pipelined_all_reduce", True),
}

CPU: Mapping[str, Value] = {
    # An optimizer's slots are written where they lie. Without it the compiler copies parameters and
    # slots first wherever an update reads both what they were and what they become.
    "xla_cpu_copy_insertion_use_region_analysis": True,
}

CPU_ONCE: Mapping[str, Value] = {
    # For what runs once: compiled in half the time, and milliseconds slower.
    "xla_backend_optimization_level": 1,
}


def wanted(platform: str, once: bool = False) -> dict[str, Value]:
    """The options to compile with, less those that the person's environment decides.

    Args:
      platform: 'tpu', 'gpu' or 'cpu', of the devices that are compiled for.
      once: whether it runs a single time, as what draws the first state, rather than as a step.
    """
    given = " ".join(os.environ.get(variable, "") for variable in VARIABLES).split()
    named = {word.removeprefix("--").split("=")[0] for word in given}
    if once:
        flags = CPU_ONCE if platform == "cpu" else {}
    else:
        flags = {"tpu": TPU, "gpu": GPU, "cpu": CPU}.get(platform, {})
    return {
        name: value
        for name, value in flags.items()
        if not named & {name, *FORMER.get(name, ())[:1]}
    }


def compiler_options(mesh: Mesh, once: bool = False) -> dict[str, Value]:
    """What is `wanted` for a mesh's devices, in the names that their compiler knows.

    An option that it knows under none is left out, and a warning says so: it is for speed alone.
    """
    devices = list(mesh.devices.flat)
    own = [device for device in devices if device.process_index == jax.process_index()]
    device = (own or devices)[0]  # a topology's devices belong to no process here
    options = wanted(device.platform, once)
    return dict(_known(device, tuple(options.items())))


@functools.cache
def _known(device: Any, options: tuple[tuple[str, Value], ...]) -> tuple[tuple[str, Value], ...]:
    """The options under the names that the device's compiler takes, by asking it."""
    asked = dict(options)
    shape = jax.ShapeDtypeStruct((), jnp.float32, sharding=SingleDeviceSharding(device))
    while asked:
        try:
            jax.jit(jnp.negative, compiler_options=asked).lower(shape).compile()
            break
        except jax.errors.JaxRuntimeError as error:
            unknown = _UNKNOWN.search(str(error))
            if unknown is None or unknown[1] not in asked:
                raise
        del asked[unknown[1]]
        if unknown[1] in FORMER:
            former, value = FORMER[unknown[1]]
            asked[former] = value
        else:
            logging.getLogger("mmjax").warning(
                "the compiler for %s does not know %s; programs are compiled without it, at worst "
                "to run slower.",
                device.platform,
                unknown[1],
            )
    return tuple(asked.items())
