"""ResNet: a picture as a map of features that gets smaller and wider, made of residual blocks."""

from typing import Any

import flax.linen as nn

from mmjax.models.interfaces import TowerOutput
from mmjax.models.layers.batch_norm import BatchNorm
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.convolution import convolution
from mmjax.models.layers.pooling import mean
from mmjax.models.layers.remat import recomputing
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Float, Int

INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al. 2015, for ReLU


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Attributes:
      channels: of the output.
      stride: of the first convolution.
      dtype: type to compute in, see `compute_type`.
      train: whether to normalise by the batch, see `BatchNorm`.

    Source: He et al. 2016, figure 5, left.
    """

    channels: int
    stride: int = 1
    dtype: str = "float32"
    train: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns out"]:
        y = _conv(self, "conv1", self.channels, 3, self.stride)(x)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="norm1")(y, self.train))
        y = _conv(self, "conv2", self.channels, 3)(y)
        y = BatchNorm(scale_init=0.0, dtype=self.dtype, name="norm2")(y, self.train)
        return nn.relu(y + _shortcut(self, x, self.channels, self.stride))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones that narrow and widen, beside a shortcut.

    Attributes:
      channels: inside; the output has four times as many.
      stride: of the 3x3 convolution (of the first one in the paper; the weights that are in use
        have it here).
      dtype: type to compute in, see `compute_type`.
      train: whether to normalise by the batch, see `BatchNorm`.

    Source: He et al. 2016, figure 5, right; torchvision, models/resnet.py `Bottleneck`.
    """

    channels: int
    stride: int = 1
    dtype: str = "float32"
    train: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns out"]:
        y = _conv(self, "conv1", self.channels, 1)(x)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="norm1")(y, self.train))
        y = _conv(self, "conv2", self.channels, 3, self.stride)(y)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="norm2")(y, self.train))
        y = _conv(self, "conv3", 4 * self.channels, 1)(y)
        y = BatchNorm(scale_init=0.0, dtype=self.dtype, name="norm3")(y, self.train)
        return nn.relu(y + _shortcut(self, x, 4 * self.channels, self.stride))


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


def _conv(module: Any, name: str, channels: int, size: int, stride: int = 1) -> nn.Conv:
    """A convolution of a block."""
    return convolution(module, name, channels, size, stride, init=INIT, dtype=module.dtype)


def _shortcut(module: Any, x: Any, channels: int, stride: int) -> Any:
    """The block's input, by a 1x1 convolution where its shape is not that of the output."""
    if stride == 1 and x.shape[-1] == channels:
        return x
    x = _conv(module, "shortcut_conv", channels, 1, stride)(x)
    return BatchNorm(dtype=module.dtype, name="shortcut_norm")(x, module.train)


class ResNet(nn.Module):
    """A 7x7 convolution, a max pooling, and four stages of residual blocks.

    Blocks lie at 'stage1/block1' and so on, each by itself: the first block of a stage has other
    shapes than the rest, so they are no stack.

    Attributes:
      block: 'basic' (18 and 34 layers) or 'bottleneck' (50 and more).
      channels: of each stage's blocks; bottlenecks give four times as many.
      depths: blocks of each stage; every stage but the first halves the sides.
      stem_channels: of the first convolution.
      dtype: type to compute in: 'float32', 'bfloat16' or 'auto'; parameters and statistics are
        float32.
      remat: what a block stores, see `mmjax.models.layers.remat`.

    Source: He et al. 2016, table 1; sizes of padding as in torchvision, models/resnet.py; a
    branch's last scale begins as 0 as in Goyal et al. 2017, section 5.1.
    """

    block: str = "bottleneck"
    channels: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    stem_channels: int = 64
    dtype: str = "float32"
    remat: str = "none"

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the tokens of a picture."""
        shrunk = 2 ** (1 + len(self.channels))
        return -(-height // shrunk), -(-width // shrunk)

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "batch height width channels"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> TowerOutput:
        """Encodes normalised pictures of any size.

        Args:
          image: normalised pixels.
          row: not looked at.
          train: whether to normalise by the batch, see `BatchNorm`.

        Returns:
          `tokens` is the map of features in reading order, [batch, height / 32 * width / 32, dim];
          `pooled` is its mean.

        Raises:
          ValueError: an unknown block, or not as many depths as channels.
        """
        del row
        if self.block not in BLOCKS:
            raise ValueError(f"block={self.block!r} is none of {', '.join(BLOCKS)}.")
        if len(self.channels) != len(self.depths):
            raise ValueError(f"{len(self.channels)} channels for {len(self.depths)} depths.")
        x = image.astype(compute_type(self.dtype))
        x = _conv(self, "stem_conv", self.stem_channels, 7, 2)(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="stem_norm")(x, train))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for number, (channels, depth) in enumerate(zip(self.channels, self.depths)):
            strides = (1 if number == 0 else 2, *[1] * (depth - 1))
            block, name = BLOCKS[self.block], f"stage{number + 1}"
            x = Stage(block, channels, strides, self.dtype, self.remat, name=name)(x, train)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])  # [b, h, w, c] -> [b, h * w, c]
        return TowerOutput(tokens, None, mean(tokens))


class Stage(nn.Module):
    """Residual blocks of one width, one after the other.

    Attributes:
      block: class of the blocks.
      channels: see the class.
      strides: of each block.
      dtype: type to compute in, see `compute_type`.
      remat: what a block stores, see `mmjax.models.layers.remat`.
    """

    block: type[nn.Module]
    channels: int
    strides: tuple[int, ...]
    dtype: str = "float32"
    remat: str = "none"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch rows columns out"]:
        block, _ = recomputing(self.block, self.remat, scan=False)
        for number, stride in enumerate(self.strides):
            name = f"block{number + 1}"
            x = block(self.channels, stride, self.dtype, train, name=name)(x)
            x = constrain(x, "batch", None, None, None)
        return x


# Source of the sizes: He et al. 2016, table 1.


def resnet18() -> dict[str, Any]:
    """Fields of ResNet-18."""
    return {"block": "basic", "depths": (2, 2, 2, 2)}


def resnet34() -> dict[str, Any]:
    """Fields of ResNet-34."""
    return {"block": "basic", "depths": (3, 4, 6, 3)}


def resnet50() -> dict[str, Any]:
    """Fields of ResNet-50."""
    return {"block": "bottleneck", "depths": (3, 4, 6, 3)}


def resnet101() -> dict[str, Any]:
    """Fields of ResNet-101."""
    return {"block": "bottleneck", "depths": (3, 4, 23, 3)}


def resnet152() -> dict[str, Any]:
    """Fields of ResNet-152."""
    return {"block": "bottleneck", "depths": (3, 8, 36, 3)}
