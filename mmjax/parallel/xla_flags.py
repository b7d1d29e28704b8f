"""The compiler's flags: one set, with which a step is planned and run.

They go with the compilation (`jax.jit(..., compiler_options=...)`), so no environment variable has
to be set before the backend starts, and a step compiled for chips that are not here has them too.
"""

import os
from collections.abc import Mapping

VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")

TPU: Mapping[str, bool] = {
    # Gradients summed over `data` in the loop over layers travel while the next layer computes.
    "xla_tpu_enable_data_parallel_all_reduce_opt": True,
    # ... also where they differ in size, as the kernels of a block do.
    "xla_tpu_data_parallel_opt_different_sized_ops": True,
    # Under FSDP the kernels of the next layer are gathered during the matrix products of this one.
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
    "xla_tpu_overlap_compute_collective_tc": True,
}

GPU: Mapping[str, bool] = {
    # Collectives start as early and end as late as their data allows; off by default.
    "xla_gpu_enable_latency_hiding_scheduler": True,
    # In a loop over layers, what FSDP gathers for the next layer travels during this one ...
    "xla_gpu_enable_pipelined_all_gather": True,
    # ... and the gradients of the layer before are summed meanwhile.
    "xla_gpu_enable_pipelined_reduce_scatter": True,
    "xla_gpu_enable_pipelined_all_reduce": True,
}

CPU_ONCE: Mapping[str, int] = {
    # For what runs once: compiled in half the time, and milliseconds slower.
    "xla_backend_optimization_level": 1,
}


def compiler_options(platform: str, once: bool = False) -> dict[str, int]:
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
        flags = {"tpu": TPU, "gpu": GPU}.get(platform, {})
    return {name: value for name, value in flags.items() if name not in named}
