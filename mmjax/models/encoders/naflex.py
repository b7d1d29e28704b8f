"""A Vision Transformer for pictures of any shape, each in its own number of patches (NaFlex)."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.interfaces import TowerOutput
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.patches import PatchEmbedding
from mmjax.models.layers.pooling import AttentionPooling
from mmjax.models.layers.positions import resample
from mmjax.models.layers.transformer import run_blocks
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Bool, Float, Int


class NaFlexViT(nn.Module):
    """Patches as vectors, positions resized for each picture, blocks, a probe that pools.

    A batch holds pictures of several shapes, padded to one number of patches; padding is seen by
    nothing. Parameters lie at the same paths as those of `ViT` with pooling='attention'.

    Attributes:
      patch_size: side of a patch, in pixels.
      positions: places in the table of positions, a square number; its grid is what each picture's
        own is resized from.
      dim: width of a token.
      depth: number of blocks.
      num_heads: attention heads; must divide `dim`.
      mlp_dim: width inside the perceptrons.
      activation: 'gelu', 'gelu_tanh', 'quick_gelu' or 'relu'.
      norm_epsilon: added to the variance in layer norms.
      dtype: type to compute in: 'float32', 'bfloat16' or 'auto': bfloat16 where the platform gains
        by it (TPU, GPU), float32 on a CPU. Parameters are float32.
      scan: see `run_blocks`.
      remat: see `run_blocks`.
      attention: see `run_blocks`; pooling uses XLA's always.

    Source: Tschannen et al. 2025 (SigLIP 2), section 2.4; Dehghani et al. 2023 (NaViT).
    """

    patch_size: int = 16
    positions: int = 256
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    activation: str = "gelu_tanh"
    norm_epsilon: float = 1e-6
    dtype: str = "float32"
    scan: bool = True
    remat: str = "dots_no_batch"
    attention: str = "auto"

    @nn.compact
    def __call__(
        self,
        patches: Float[Array, "batch length values"],
        patch_mask: Bool[Array, "batch length"],
        patch_grid: Int[Array, "batch 2"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> TowerOutput:
        """Encodes normalised pictures.

        Args:
          patches: pixels of each patch in reading order, (height, width, channels) of a patch
            flattened; padded at the end.
          patch_mask: True where a patch is no padding.
          patch_grid: rows and columns of each picture's patches.
          row: the rows' global numbers; nothing is drawn here.
          train: nothing differs in training.

        Raises:
          ValueError: patches of another size, or positions that are no square.
        """
        del row, train
        self._check(patches)
        dtype = compute_type(self.dtype)
        x = PatchEmbedding(self.patch_size, self.dim, dtype=self.dtype, name="patches")(patches)
        init = nn.initializers.normal(self.dim**-0.5)
        table = self.param("position_embedding", init, (self.positions, self.dim))
        # Whole on each device: it is small, and what it is multiplied with is the batch's.
        places = resample(constrain(table, None, None), patch_grid, x.shape[1])
        x = x + places.astype(dtype)
        x = run_blocks(
            constrain(x, "batch", None, None),
            patch_mask[:, None],  # [b, n] -> [b, 1, n]
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            norm_epsilon=self.norm_epsilon,
            dtype=self.dtype,
            scan=self.scan,
            remat=self.remat,
            attention=self.attention,
        )
        x = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=dtype, name="norm")(x)
        pool = AttentionPooling(
            self.num_heads,
            self.mlp_dim,
            self.activation,
            self.norm_epsilon,
            self.dtype,
            name="pool",
        )
        return TowerOutput(x, patch_mask, pool(x, patch_mask))

    def example(self) -> dict[str, Any]:
        """One row of zeros for each word, as many patches as positions."""
        side = math.isqrt(self.positions)
        values = 3 * self.patch_size**2
        return {
            "patches": jnp.zeros((1, self.positions, values)),
            "patch_mask": jnp.ones((1, self.positions), bool),
            "patch_grid": jnp.full((1, 2), side, jnp.int32),
        }

    def _check(self, patches: Any) -> None:
        """Raises ValueError where options or inputs do not fit each other."""
        if math.isqrt(self.positions) ** 2 != self.positions:
            raise ValueError(f"positions={self.positions} is no square number.")
        values = 3 * self.patch_size**2
        if patches.shape[-1] != values:
            raise ValueError(
                f"patches hold {patches.shape[-1]} numbers each, and patch_size={self.patch_size} "
                f"takes {values}; give the transform and the model the same patch_size."
            )
