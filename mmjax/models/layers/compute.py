"""The type that layers compute in, chosen by the platform where it is left open."""

import jax.numpy as jnp

from mmjax.parallel.sharding import platform

DTYPES = ("auto", "float32", "bfloat16")
GAINING = ("tpu", "gpu")  # their matrix units take bfloat16


def compute_type(dtype: str) -> jnp.dtype:
    """The type behind a module's field `dtype`; called while tracing, when the platform is known.

    Args:
      dtype: 'float32', 'bfloat16' or 'auto': bfloat16 on TPU and GPU, float32 on a CPU. Some CPUs
        gain by bfloat16 too (`bfloat16`); left open, numbers are those of any other CPU.

    Raises:
      ValueError: another name.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is none of {', '.join(DTYPES)}.")
    if dtype == "auto":
        dtype = "bfloat16" if platform() in GAINING else "float32"
    return jnp.dtype(dtype)
