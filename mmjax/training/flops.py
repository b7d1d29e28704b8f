"""How much arithmetic a step does, counted from shapes, and what share of the chip's peak that is.

XLA's own `cost_analysis` counts the body of a loop once, so a scanned tower would look like one
layer. Here a traced function is walked instead: matrix products and convolutions count, loops by
their length; everything else (norms, softmax, the optimizer) is left out, as is customary for a
model's FLOPs.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

from mmjax.parallel.chips import find_chip


def step_flops(function: Callable[..., Any], *args: Any) -> float:
    """FLOPs of one call, over all devices together; nothing is compiled or run.

    Args:
      function: what to trace, jitted or not, e.g. the train step. Recomputation under `remat`
        counts as often as it is traced: pass a step without it for the model's FLOPs.
      args: arrays or their shapes (`jax.ShapeDtypeStruct`).
    """
    return count_flops(jax.make_jaxpr(function)(*args))


def count_flops(jaxpr: Any) -> float:
    """FLOPs of the matrix products and convolutions of a `jax.make_jaxpr` result.

    A multiplication with its addition counts as 2. Of the branches of a `cond` the dearest counts;
    the body of a `while`, whose length is unknown, counts once.
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _dot(equation)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "cond":
            total += max(count_flops(branch) for branch in equation.params["branches"])
        else:
            inner = sum(count_flops(body) for body in _bodies(equation.params))
            total += inner * _repetitions(name, equation.params)
    return total


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 peak of one device in FLOP/s, or None where it is not known.

    Args:
      device_kind: `jax.devices()[0].device_kind`.
    """
    chip = find_chip(device_kind)
    return None if chip is None else chip.flops


def utilisation(flops: float, step_seconds: float, device_kind: str, devices: int) -> float | None:
    """Model FLOPs utilisation, 0 to 1, or None where the device's peak is not known.

    Args:
      flops: of one step over all devices.
      step_seconds: seconds a step, above 0.
      device_kind: `jax.devices()[0].device_kind`.
      devices: number of devices, all of this kind.

    Source: Chowdhery et al., "PaLM", appendix B.
    """
    peak = peak_flops(device_kind)
    return None if peak is None else flops / step_seconds / (peak * devices)


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _convolution(equation: Any) -> float:
    # Each output sums over one kernel: its window times its input channels. Zeros that are put
    # between the inputs (the gradient of a strided convolution) cost nothing.
    kernel = equation.invars[1].aval
    out_channels = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    zeros = math.prod(equation.params["lhs_dilation"])
    return 2.0 * equation.outvars[0].aval.size * kernel.size / out_channels / zeros


def _bodies(params: dict[str, Any]) -> Iterator[Any]:
    """The traced functions that an equation holds: of jit, remat, custom_vjp, scan, ..."""
    for value in params.values():
        for body in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(body, (core.Jaxpr, core.ClosedJaxpr)):
                yield body


def _repetitions(name: str, params: dict[str, Any]) -> int:
    """How often the bodies of an equation run."""
    if name == "scan":
        return params["length"]
    if name == "shard_map":  # the body is one device's part
        axes = params.get("newly_manual_axes", params.get("manual_axes"))  # new and older JAX
        return math.prod(params["mesh"].shape[axis] for axis in axes)
    if name == "pallas_call":  # the body is one cell of the grid
        return math.prod(params["grid_mapping"].grid)
    return 1
