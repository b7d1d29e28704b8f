"""Regions of a picture, found by somebody's detector, as tokens that all see each other."""

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.interfaces import TowerOutput
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.dense import Dense
from mmjax.models.layers.pooling import mean
from mmjax.models.layers.transformer import run_blocks
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Bool, Float

JOINS = ("mean", "sum")


class RegionTower(nn.Module):
    """Features and boxes, each through a dense layer, made one token a region; post-norm blocks.

    Attributes:
      feature_dim: numbers that describe a region.
      box_dim: numbers that say where it is: 4 in LXMERT, 5 in ViLBERT.
      join: 'mean' is of the two after a layer norm each (LXMERT), 'sum' is a layer norm over the
        sum (ViLBERT).
      dim: width of a token.
      depth: number of blocks.
      num_heads: attention heads; must divide `dim`.
      mlp_dim: width inside the perceptrons.
      dropout: part of the numbers set to zero in training, of the embedded regions and of what
        attention and perceptrons add; 0 to below 1.
      activation: 'gelu', 'gelu_tanh', 'quick_gelu' or 'relu'.
      norm_epsilon: added to the variance in layer norms.
      dtype: type to compute in, see `compute_type`.
      scan: see `run_blocks`.
      remat: see `run_blocks`.
      attention: see `run_blocks`.

    Source: Tan and Bansal 2019 (LXMERT), sections 2.1 and 2.2; Lu et al. 2019 (ViLBERT), section
    2.2.
    """

    feature_dim: int = 2048
    box_dim: int = 4
    join: str = "mean"
    dim: int = 768
    depth: int = 5
    num_heads: int = 12
    mlp_dim: int = 3072
    dropout: float = 0.0
    activation: str = "gelu"
    norm_epsilon: float = 1e-12
    dtype: str = "float32"
    scan: bool = True
    remat: str = "dots_no_batch"
    attention: str = "auto"

    @nn.compact
    def __call__(
        self,
        regions: Float[Array, "batch regions features"],
        boxes: Float[Array, "batch regions places"],
        region_mask: Bool[Array, "batch regions"] | None = None,
        train: bool = False,
    ) -> TowerOutput:
        """Encodes a picture's regions; pooled is the mean of the real ones.

        Args:
          regions: each region's features.
          boxes: where each region is.
          region_mask: True where a region is real; None where all are.
          train: whether numbers are dropped (needs an rng named 'dropout').

        Raises:
          ValueError: features or boxes of another width, or an unknown option.
        """
        given = (regions.shape[-1], boxes.shape[-1])
        if given != (self.feature_dim, self.box_dim):
            raise ValueError(
                f"regions of {given[0]} features with boxes of {given[1]} numbers; the model takes "
                f"feature_dim={self.feature_dim} and box_dim={self.box_dim}."
            )
        if self.join not in JOINS:
            raise ValueError(f"join={self.join!r} is none of {', '.join(JOINS)}.")
        mask = jnp.ones(regions.shape[:2], bool) if region_mask is None else region_mask
        dropout = self.dropout if train else 0.0
        x = self._embed(regions, boxes)
        if dropout:
            x = nn.Dropout(dropout, deterministic=False)(x)
        x = constrain(x, "batch", None, None)
        if self.depth:
            x = run_blocks(
                x,
                mask[:, None],  # [b, n] -> [b, 1, n]
                depth=self.depth,
                num_heads=self.num_heads,
                mlp_dim=self.mlp_dim,
                activation=self.activation,
                norm_epsilon=self.norm_epsilon,
                dtype=self.dtype,
                scan=self.scan,
                remat=self.remat,
                attention=self.attention,
                norm="after",
                dropout=dropout,
            )
        return TowerOutput(x, mask, mean(x, mask))

    def _embed(
        self,
        regions: Float[Array, "batch regions features"],
        boxes: Float[Array, "batch regions places"],
    ) -> Float[Array, "batch regions dim"]:
        """One token for each region."""
        dtype = compute_type(self.dtype)

        def dense(name: str, x: Float[Array, "batch regions _"]) -> Float[Array, "..."]:
            init = nn.initializers.normal(0.02)
            return Dense(self.dim, kernel_init=init, name=name, dtype=dtype)(x)

        def norm(name: str, x: Float[Array, "batch regions dim"]) -> Float[Array, "..."]:
            return nn.LayerNorm(epsilon=self.norm_epsilon, dtype=dtype, name=name)(x)

        seen, placed = dense("features", regions), dense("boxes", boxes)
        if self.join == "sum":
            return norm("embedding_norm", seen + placed)
        return (norm("features_norm", seen) + norm("boxes_norm", placed)) / 2
