"""The type of the parameters within forward and backward pass, beside their float32 master."""

import jax.numpy as jnp

from mmjax.paths import Rules, map_with_path, match
from mmjax.typing import PyTree

PARAMS_DTYPES = ("float32", "bfloat16")

# The matrices of the towers are nearly all bytes that travel. What is compared in float32 stays so
# (the projections into the shared space), and so do tables, to which many tokens add small parts.
_CAST: Rules = (
    ("objectives/.*", False),
    ("[^/]*_projection/.*", False),
    ("(.*/)?kernel", True),
    (".*", False),
)


def in_forward(params: PyTree, dtype: str) -> PyTree:
    """The parameters as the forward pass uses them: cast once, before anything gathers them.

    The master stays float32: the optimizer updates it, and it is what is averaged and saved, so
    updates smaller than bfloat16 can tell apart still add up. The derivative of the cast makes the
    gradients float32 again. Towers that compute in bfloat16 cast their kernels anyway, so their
    numbers do not change; what changes is that under FSDP the bytes gathered and the gradients
    summed over devices are half as many for certain, wherever the compiler would put the cast. (The
    TPU's puts it first by itself: the gathers of a small step for v5e were bfloat16 either way.)

    Args:
      params: float32.
      dtype: 'float32' leaves them as they are; 'bfloat16' casts the kernels of the towers.

    Raises:
      ValueError: another type.

    Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.1.
    """
    if dtype not in PARAMS_DTYPES:
        raise ValueError(f"params_dtype={dtype!r} is none of {', '.join(PARAMS_DTYPES)}.")
    if dtype == "float32":
        return params
    return map_with_path(
        lambda path, leaf: leaf.astype(jnp.bfloat16) if match(_CAST, path) else leaf, params
    )
