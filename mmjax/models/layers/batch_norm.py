"""Normalisation by the batch's statistics, with running ones for whoever sees a single picture."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.models.layers.compute import compute_type
from mmjax.typing import Array, Float

STATISTICS = "batch_stats"  # the collection of running statistics
FIXED = "fixed_stats"  # those of them that a step uses and leaves alone, under the same paths


class BatchNorm(nn.Module):
    """Each channel shifted and scaled to mean 0 and variance 1 over all other axes.

    In training the statistics are the batch's. Under jit that is the global batch, however many
    devices it lies on. Running statistics move towards them where the caller lets 'batch_stats'
    change. Where the caller also gives the collection 'fixed_stats' at this layer's path (a frozen
    tower), the layer does in training what it does otherwise: it uses the running statistics.

    Parameters are 'scale' and 'bias', running statistics 'mean' and 'var'. All of them, and the
    statistics of a batch, are float32.

    Attributes:
      momentum: weight of the old running statistics; PyTorch's own `momentum` is 1 less this.
      epsilon: added to the variance.
      affine: whether the layer has 'scale' and 'bias'.
      scale_init: first value of all scales; 0 makes a residual branch begin as nothing.
      dtype: type of the output, see `compute_type`.

    Source: Ioffe and Szegedy 2015, algorithms 1 and 2; as PyTorch's BatchNorm2d the variance that
    divides is the biased one, and the running one is unbiased.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    affine: bool = True
    scale_init: float = 1.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *places channels"], train: bool = False
    ) -> Float[Array, "batch *places channels"]:
        channels = x.shape[-1]
        mean = self.variable(STATISTICS, "mean", jnp.zeros, (channels,), jnp.float32)
        var = self.variable(STATISTICS, "var", jnp.ones, (channels,), jnp.float32)
        wide = x.astype(jnp.float32)
        if train and not self.has_variable(FIXED, "mean"):
            used_mean, used_var = moments(wide)
            if self.is_mutable_collection(STATISTICS) and not self.is_initializing():
                count = x.size // channels
                unbiased = used_var * (count / max(count - 1, 1))
                mean.value = self.momentum * mean.value + (1 - self.momentum) * used_mean
                var.value = self.momentum * var.value + (1 - self.momentum) * unbiased
        else:
            used_mean, used_var = mean.value, var.value
        factor = jax.lax.rsqrt(used_var + self.epsilon)
        if self.affine:
            init = nn.initializers.constant(self.scale_init)
            factor = factor * self.param("scale", init, (channels,))
        y = (wide - used_mean) * factor
        if self.affine:
            y = y + self.param("bias", nn.initializers.zeros_init(), (channels,))
        return y.astype(compute_type(self.dtype))


def moments(
    x: Float[Array, "batch *places channels"],
) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
    """(mean, biased variance) of each channel over all other axes.

    The variance is that of the differences from the mean. The mean square less the squared mean is
    one reading of x the less, and wrong where the mean is large beside the spread.
    """
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axis=axes)
    return mean, jnp.square(x - mean).mean(axis=axes)
