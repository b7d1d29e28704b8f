"""Pictures cut into patches, and patches left out in training."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.dense import Dense
from mmjax.typing import Array, Float, Int, PRNGKeyArray


def patchify(
    image: Float[Array, "batch height width channels"], patch_size: int
) -> Float[Array, "batch patches values"]:
    """Patches in reading order, each flattened as (height, width, channels).

    What is left over at the right and at the bottom, where `patch_size` does not divide a side, is
    not seen: SigLIP So400m/14 at 384 looks at 378 pixels.

    Args:
      image: pictures.
      patch_size: side of a patch, in pixels.

    Raises:
      ValueError: a picture smaller than a patch.
    """
    batch, height, width, channels = image.shape
    if height < patch_size or width < patch_size:
        raise ValueError(
            f"a patch of {patch_size} pixels does not fit pictures of {height}x{width}; choose a "
            "larger image_size or a smaller patch_size."
        )
    rows, columns = height // patch_size, width // patch_size
    x = image[:, : rows * patch_size, : columns * patch_size]
    x = x.reshape(batch, rows, patch_size, columns, patch_size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)  # [b, rows, patch, columns, patch, c] -> [b, r, c, p, p, c]
    return x.reshape(batch, rows * columns, patch_size * patch_size * channels)


class PatchEmbedding(nn.Module):
    """One dense layer from the pixels of a patch to a token.

    The same as a convolution whose stride is its size; the kernel is [height·width·channels, dim],
    a convolution's kernel [height, width, channels, dim] reshaped.

    Pictures that are cut already come as `patchify` would make them.

    Attributes:
      patch_size: side of a patch, in pixels.
      dim: width of a token.
      bias: whether the layer has one (CLIP has none).
      dtype: type to compute in, see `compute_type`.

    Source: Dosovitskiy et al. 2020, equation 1.
    """

    patch_size: int
    dim: int
    bias: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "batch height width channels"] | Float[Array, "batch patches values"],
    ) -> Float[Array, "batch patches dim"]:
        dtype = compute_type(self.dtype)
        x = image.astype(dtype)
        x = x if x.ndim == 3 else patchify(x, self.patch_size)
        return Dense(self.dim, use_bias=self.bias, name="embedding", dtype=dtype)(x)


def drop_patches(
    x: Float[Array, "batch patches dim"],
    fraction: float,
    key: PRNGKeyArray,
    row: Int[Array, " batch"],
) -> Float[Array, "batch kept dim"]:
    """A random choice of each row's patches, in their order.

    Each row keeps the same number. A row's choice depends on the key and its row number alone, so
    it is the same however the batch is split over devices or micro-batches.

    Args:
      x: tokens that already know their positions.
      fraction: part of the patches to leave out, 0 to below 1; at least one is kept.
      key: the step's key.
      row: the rows' numbers within the global batch.

    Source: Li et al. 2022 (FLIP), section 3.
    """
    patches = x.shape[1]
    kept = max(1, round(patches * (1 - fraction)))

    def choose(number: Int[Array, ""]) -> Int[Array, " kept"]:
        order = jax.random.permutation(jax.random.fold_in(key, number), patches)
        return jnp.sort(order[:kept])

    chosen = jax.vmap(choose)(row)
    return jnp.take_along_axis(x, chosen[:, :, None], axis=1)
