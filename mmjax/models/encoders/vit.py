"""Vision Transformer: a picture as a sequence of patches."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.interfaces import TowerOutput
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.dense import Dense, plus
from mmjax.models.layers.patches import PatchEmbedding, drop_patches
from mmjax.models.layers.pooling import AttentionPooling, mean
from mmjax.models.layers.positions import sincos_2d
from mmjax.models.layers.transformer import run_blocks
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Float, Int

POOLING = ("class", "mean", "attention")
POSITIONS = ("learned", "sincos")
HEADS = ("none", "linear", "tanh")


class ViT(nn.Module):
    """Patches, positions, Transformer blocks, a layer norm, and one of three ways to pool.

    Attributes:
      image_size: side of the square pictures, in pixels; what `patch_size` does not
        divide is cut off at the right and at the bottom.
      patch_size: side of a patch, in pixels.
      dim: width of a token.
      depth: number of blocks.
      num_heads: attention heads; must divide `dim`.
      mlp_dim: width inside the perceptrons.
      pooling: 'class' puts a learned token before the patches and returns it (CLIP), 'mean' is
        over patches, 'attention' is a probe that attends to them (SigLIP).
      head: what is made of the pooled vector: 'linear' is a dense layer (a classifier's scores),
        'tanh' one with tanh after it, 'none' nothing. Its parameters lie under 'head'.
      head_dim: what a head is wide; None is `dim`.
      positions: 'learned' or 'sincos'.
      pre_norm: whether a layer norm comes before the blocks (CLIP).
      patch_bias: whether the patch embedding has a bias (CLIP has none).
      patch_dropout: part of the patches left out in training, 0 to below 1.
      activation: 'gelu', 'gelu_tanh', 'quick_gelu' or 'relu'.
      norm_epsilon: added to the variance in layer norms.
      dtype: type to compute in: 'float32', 'bfloat16' or 'auto': bfloat16 where the platform gains
        by it (TPU, GPU), float32 on a CPU. Parameters are float32.
      scan: see `run_blocks`.
      remat: see `run_blocks`.
      attention: see `run_blocks`; pooling uses XLA's always.

    Source: Dosovitskiy et al. 2020, section 3.1.
    """

    image_size: int = 224
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    pooling: str = "attention"
    head: str = "none"
    head_dim: int | None = None
    positions: str = "learned"
    pre_norm: bool = False
    patch_bias: bool = True
    patch_dropout: float = 0.0
    activation: str = "gelu_tanh"
    norm_epsilon: float = 1e-6
    dtype: str = "float32"
    scan: bool = True
    remat: str = "dots_no_batch"
    attention: str = "auto"

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "batch height width channels"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
        tokens: bool = True,
    ) -> TowerOutput:
        """Encodes normalised pictures.

        Args:
          image: normalised pixels, [batch, image_size, image_size, channels].
          row: the rows' global numbers; needed where `train` drops patches.
          train: whether patches are dropped (needs an rng named 'rows').
          tokens: whether the tokens are wanted too, or the pooled vector alone.

        Raises:
          ValueError: pictures of another size, an unknown option, or `row` missing.
        """
        self._check(image, row, train)
        dtype = compute_type(self.dtype)
        x = PatchEmbedding(self.patch_size, self.dim, self.patch_bias, self.dtype, name="patches")(
            image
        )
        x, first = self._add_positions(x)
        if train and self.patch_dropout:
            assert row is not None  # checked above
            x = drop_patches(x, self.patch_dropout, self.make_rng("rows"), row)
        if first is not None:
            x = jnp.concatenate([first, x], axis=1)
        x = constrain(x, "batch", None, None)
        if self.pre_norm:
            x = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=dtype, name="input_norm")(x)
        alone = self.pooling == "class" and not tokens
        x = run_blocks(
            x,
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            norm_epsilon=self.norm_epsilon,
            dtype=self.dtype,
            scan=self.scan,
            remat=self.remat,
            attention=self.attention,
            tower=self,
            place=0 if alone else None,
        )
        x = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=dtype, name="norm")(x)
        return TowerOutput(None if alone else x, None, self._head(self._pool(x)))

    @property
    def num_patches(self) -> int:
        """Patches of a picture, before any are dropped."""
        return (self.image_size // self.patch_size) ** 2

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patches of a picture, without a class token before them."""
        return height // self.patch_size, width // self.patch_size

    def _check(self, image: Any, row: Any, train: bool) -> None:
        """Raises ValueError where options or inputs do not fit each other."""
        if self.pooling not in POOLING:
            raise ValueError(f"pooling={self.pooling!r} is none of {', '.join(POOLING)}.")
        if self.head not in HEADS:
            raise ValueError(f"head={self.head!r} is none of {', '.join(HEADS)}.")
        if self.positions not in POSITIONS:
            raise ValueError(f"positions={self.positions!r} is none of {', '.join(POSITIONS)}.")
        if image.shape[1:3] != (self.image_size, self.image_size):
            raise ValueError(
                f"pictures are {image.shape[1]}x{image.shape[2]}, the model's image_size is "
                f"{self.image_size}; give both the same size."
            )
        if not 0 <= self.patch_dropout < 1:
            raise ValueError(f"patch_dropout={self.patch_dropout} is not from 0 to below 1.")
        if train and self.patch_dropout and row is None:
            raise ValueError(
                f"patch_dropout={self.patch_dropout} needs the rows' numbers in training; pass the "
                "batch's 'row'."
            )

    def _add_positions(
        self, x: Float[Array, "batch patches dim"]
    ) -> tuple[Float[Array, "batch patches dim"], Float[Array, "batch 1 dim"] | None]:
        """Patches with their positions added, and the class token with its own, if there is one."""
        extra = 1 if self.pooling == "class" else 0
        init = nn.initializers.normal(self.dim**-0.5)
        if self.positions == "learned":
            shape = (extra + self.num_patches, self.dim)
            table = self.param("position_embedding", init, shape)
        else:  # a class token has no place in the picture: zeros, as in MAE
            side = self.image_size // self.patch_size
            table = jnp.pad(sincos_2d(side, side, self.dim), ((extra, 0), (0, 0)))
        if not extra:
            return plus(x, table), None
        first = self.param("class_token", init, (self.dim,)) + table[0]
        first = jnp.broadcast_to(first, (x.shape[0], 1, self.dim)).astype(x.dtype)
        return plus(x, table[1:]), first

    def _pool(self, x: Float[Array, "batch tokens dim"]) -> Float[Array, "batch dim"]:
        """One vector for each picture."""
        if self.pooling == "class":
            return x[:, 0]
        if self.pooling == "mean":
            return mean(x)
        return AttentionPooling(
            self.num_heads,
            self.mlp_dim,
            self.activation,
            self.norm_epsilon,
            self.dtype,
            name="pool",
        )(x)

    def _head(self, pooled: Float[Array, "batch dim"]) -> Float[Array, "batch head_dim"]:
        """What the head makes of the pooled vectors."""
        if self.head == "none":
            return pooled
        dtype = compute_type(self.dtype)
        x = Dense(self.head_dim or self.dim, name="head", dtype=dtype)(pooled)
        return jnp.tanh(x) if self.head == "tanh" else x


def _size(patch_size: int, dim: int, depth: int, num_heads: int, mlp_dim: int) -> dict[str, int]:
    """Field values of a size."""
    return {
        "patch_size": patch_size,
        "dim": dim,
        "depth": depth,
        "num_heads": num_heads,
        "mlp_dim": mlp_dim,
    }


# Sources of the sizes: Dosovitskiy et al. 2020, table 1; for Ti and S Touvron et al. 2021 (DeiT),
# table 1; for So400m Alabdulmohsin et al. 2023, section 4.


def vit_ti16() -> dict[str, int]:
    """Fields of ViT-Ti/16."""
    return _size(16, 192, 12, 3, 768)


def vit_s16() -> dict[str, int]:
    """Fields of ViT-S/16."""
    return _size(16, 384, 12, 6, 1536)


def vit_b32() -> dict[str, int]:
    """Fields of ViT-B/32."""
    return _size(32, 768, 12, 12, 3072)


def vit_b16() -> dict[str, int]:
    """Fields of ViT-B/16."""
    return _size(16, 768, 12, 12, 3072)


def vit_l16() -> dict[str, int]:
    """Fields of ViT-L/16."""
    return _size(16, 1024, 24, 16, 4096)


def vit_l14() -> dict[str, int]:
    """Fields of ViT-L/14."""
    return _size(14, 1024, 24, 16, 4096)


def vit_so400m14() -> dict[str, int]:
    """Fields of ViT-So400m/14."""
    return _size(14, 1152, 27, 16, 4304)
