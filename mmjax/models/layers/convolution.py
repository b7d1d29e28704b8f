"""Convolutions without bias, with kernels that may be stored in parts."""

import functools
from typing import Any

import flax.linen as nn
import jax

from mmjax.models.layers.compute import compute_type
from mmjax.parallel.sharding import used_and_stored


def convolution(
    module: nn.Module,
    name: str,
    features: int,
    size: int,
    stride: int = 1,
    *,
    init: nn.initializers.Initializer,
    dtype: str = "float32",
    padding: tuple[int, int] | None = None,
    depthwise: bool = False,
) -> nn.Conv:
    """A convolution without bias, of odd size, that keeps the picture's size but for the stride.

    Unless `padding` says otherwise (size - 1) / 2 pixels of zeros stand on each side, as PyTorch's
    models have it. TensorFlow's 'SAME' puts fewer of them at the left where there is a stride,
    which is another function.

    Args:
      module: what the layer is a part of.
      name: of the layer; its kernel is [height, width, channels, features].
      features: channels of the output.
      size: side of the kernel.
      stride: pixels from one place of the output to the next.
      init: of the kernel.
      dtype: type to compute in, see `compute_type`.
      padding: pixels of zeros (above and at the left, below and at the right).
      depthwise: whether each channel is convolved by itself; `features` is the number of channels
        then, and the kernel [height, width, 1, features].
    """
    path = "/".join((*module.path, name, "kernel"))
    around = padding or ((size - 1) // 2, (size - 1) // 2)
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        padding=(around, around),
        feature_group_count=features if depthwise else 1,
        use_bias=False,
        kernel_init=init,
        dtype=compute_type(dtype),
        conv_general_dilated=functools.partial(_gathered, path=path),
        name=name,
    )


def _gathered(x: Any, kernel: Any, *rest: Any, path: str, **how: Any) -> Any:
    """The convolution with its kernel gathered from where it is stored in parts, if it is."""
    places = used_and_stored(path, kernel.ndim)
    if places is not None:
        kernel = jax.lax.with_sharding_constraint(kernel, places[0])
    return jax.lax.conv_general_dilated(x, kernel, *rest, **how)
