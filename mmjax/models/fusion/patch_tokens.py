"""Pictures of any shape, padded to one, as tokens that a fusing model reads: real patches first."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.looking import sow_cells
from mmjax.models.layers.patches import PatchEmbedding
from mmjax.models.layers.positions import stretch
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Bool, Float, Int


class PatchTokens(nn.Module):
    """Patches through a dense layer, with the table of positions laid over each picture's own part.

    A class token stands before the patches. Real patches stand in reading order, then padding does.

    Attributes:
      image_size: side in pixels of the square picture that the table of positions is of.
      patch_size: side of a patch, in pixels.
      dim: width of a token.
      max_patches: see `mmjax.models.fusion.vilt.ViltStream`.
      dropout: part of the numbers set to zero; above 0 it needs an rng named 'dropout'.
      dtype: type to compute in, see `compute_type`.

    Source: Kim et al. 2021 (ViLT), section 4.1; transformers, models/vilt/modeling_vilt.py
    `ViltEmbeddings.visual_embed`, which draws the order of the patches at random.
    """

    image_size: int
    patch_size: int
    dim: int
    max_patches: int | None = None
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "batch height width channels"],
        image_mask: Bool[Array, "batch height width"] | None = None,
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch tokens dim"], Bool[Array, "batch tokens"]]:
        """(tokens, True where a token is real); see `ViltStream` for the words.

        Raises:
          ValueError: `row` is missing where training draws patches.
        """
        dtype = compute_type(self.dtype)
        x = PatchEmbedding(self.patch_size, self.dim, dtype=self.dtype, name="pixels")(image)
        init = nn.initializers.normal(0.02)
        number = (self.image_size // self.patch_size) ** 2
        table = self.param("position_embedding", init, (1 + number, self.dim))
        first = self.param("class_token", init, (self.dim,)) + table[0]
        rows, columns = (side // self.patch_size for side in image.shape[1:3])
        mask = self._real(image_mask, image.shape)
        grid = jnp.stack([mask[:, :, 0].sum(axis=1), mask[:, 0].sum(axis=1)], axis=1)
        mask = mask.reshape(mask.shape[0], -1)
        place = jnp.broadcast_to(jnp.arange(rows * columns), mask.shape)
        whole = image_mask is None and not 0 < (self.max_patches or 0) < rows * columns
        chosen = None if whole else self._chosen(mask, row, train)
        if chosen is not None:
            x = jnp.take_along_axis(x, chosen[..., None], axis=1)
            mask, place = (jnp.take_along_axis(one, chosen, axis=1) for one in (mask, place))
        sow_cells(self, place, rows, columns, before=1)
        if whole and rows == columns == math.isqrt(number):
            x = x + table[1:].astype(dtype)
        else:
            # On each device: it is small, and what it is multiplied with is the batch's.
            spread = constrain(table[1:], None, None)
            x = x + stretch(spread, grid, place // columns, place % columns).astype(dtype)
        first = jnp.broadcast_to(first.astype(dtype), (x.shape[0], 1, self.dim))
        x = jnp.concatenate([first, x], axis=1)
        if self.dropout:
            x = nn.Dropout(self.dropout, deterministic=False)(x)
        return x, jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)

    def _real(self, image_mask: Any, shape: tuple[int, ...]) -> Bool[Array, "batch rows columns"]:
        """Whether the pixel at each patch's upper left corner is no padding."""
        batch, height, width = shape[:3]
        rows, columns = height // self.patch_size, width // self.patch_size
        if image_mask is None:
            return jnp.ones((batch, rows, columns), bool)
        corners = (np.arange(rows) * height // rows, np.arange(columns) * width // columns)
        return image_mask[:, corners[0]][:, :, corners[1]]

    def _chosen(
        self, mask: Bool[Array, "batch patches"], row: Any, train: bool
    ) -> Int[Array, "batch chosen"]:
        """Numbers of the patches that are kept, real ones first."""
        patches = mask.shape[1]
        kept = min(patches, self.max_patches or patches)
        number = jnp.arange(patches)
        order = jnp.argsort(jnp.where(mask, number, patches + number), axis=1)
        if kept == patches:
            return order
        real = mask.sum(axis=1, keepdims=True)
        spread = jnp.arange(kept) * jnp.maximum(real, kept) // kept  # over all that are real
        if not train:
            return jnp.take_along_axis(order, spread, axis=1)
        if row is None:
            raise ValueError(
                f"max_patches={kept} of {patches} needs the rows' numbers in training; pass the "
                "batch's 'row'."
            )
        key = self.make_rng("rows")

        def draw(number: Int[Array, ""]) -> Float[Array, " patches"]:
            return jax.random.uniform(jax.random.fold_in(key, number), (patches,))

        drawn = jnp.where(mask, jax.vmap(draw)(row), 2.0)  # padding, in its order, comes last
        among = jnp.argsort(drawn, axis=1)[:, :kept]
        among = jnp.sort(jnp.where(jnp.take_along_axis(mask, among, 1), among, patches + among))
        return among % patches
