"""CLIP's ResNet: three convolutions as its stem, averages before strides, attention as its end."""

from typing import Any

import flax.linen as nn

from mmjax.models.encoders.resnet import Stage
from mmjax.models.interfaces import TowerOutput
from mmjax.models.layers.batch_norm import BatchNorm
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.convolution import convolution
from mmjax.models.layers.pooling import MeanAttentionPooling
from mmjax.typing import Array, Float, Int

INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # what PyTorch begins with


class AveragedBottleneck(nn.Module):
    """A bottleneck whose strides are averages of squares of pixels, in both of its ways.

    Attributes:
      channels: inside; the output has four times as many.
      stride: side of the squares; 1 averages nothing.
      dtype: type to compute in, see `compute_type`.
      train: whether to normalise by the batch, see `BatchNorm`.

    Source: Radford et al. 2021 (CLIP), section 2.4; He et al. 2019 (bag of tricks), figure 2c;
    open_clip, modified_resnet.py `Bottleneck`.
    """

    channels: int
    stride: int = 1
    dtype: str = "float32"
    train: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns out"]:
        wide = 4 * self.channels
        y = _conv(self, "conv1", self.channels, 1)(x)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="norm1")(y, self.train))
        y = _conv(self, "conv2", self.channels, 3)(y)
        y = _average(nn.relu(BatchNorm(dtype=self.dtype, name="norm2")(y, self.train)), self.stride)
        y = _conv(self, "conv3", wide, 1)(y)
        y = BatchNorm(scale_init=0.0, dtype=self.dtype, name="norm3")(y, self.train)
        if self.stride > 1 or x.shape[-1] != wide:
            x = _conv(self, "shortcut_conv", wide, 1)(_average(x, self.stride))
            x = BatchNorm(dtype=self.dtype, name="shortcut_norm")(x, self.train)
        return nn.relu(x + y)


def _conv(module: Any, name: str, channels: int, size: int, stride: int = 1) -> nn.Conv:
    return convolution(module, name, channels, size, stride, init=INIT, dtype=module.dtype)


def _average(x: Any, side: int) -> Any:
    """Means of squares; what is left over at the right and at the bottom is not seen."""
    return x if side == 1 else nn.avg_pool(x, (side, side), (side, side))


class ClipResNet(nn.Module):
    """CLIP's ResNet; its attention pooling ends in the shared space, so nothing projects it.

    Attributes:
      image_size: side of the square pictures, in pixels, a multiple of 32.
      width: channels of the stem; the map of features has 32 times as many.
      depths: blocks of each of the four stages.
      head_width: numbers of one attention head of the pooling; must divide 32 x `width`.
      embed_dim: width of the pooled vector.
      dtype: type to compute in: 'float32', 'bfloat16' or 'auto'; parameters and statistics are
        float32.
      remat: what a block stores, see `mmjax.models.layers.remat`.

    Source: Radford et al. 2021 (CLIP), section 2.4; open_clip, modified_resnet.py.
    """

    image_size: int = 224
    width: int = 64
    depths: tuple[int, ...] = (3, 4, 6, 3)
    head_width: int = 64
    embed_dim: int = 1024
    dtype: str = "float32"
    remat: str = "none"

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the tokens of a picture."""
        return height // 32, width // 32

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "batch height width channels"],
        row: Int[Array, " batch"] | None = None,
        train: bool = False,
    ) -> TowerOutput:
        """Encodes normalised pictures.

        Args:
          image: normalised pixels, [batch, image_size, image_size, channels].
          row: not looked at.
          train: whether to normalise by the batch, see `BatchNorm`.

        Returns:
          `tokens` is the map of features in reading order, [batch, (image_size / 32)^2, 32 width];
          `pooled` what attention makes of it, [batch, embed_dim].

        Raises:
          ValueError: pictures of another size, or a size or width that does not divide.
        """
        del row
        self._check(image)
        x = image.astype(compute_type(self.dtype))
        half = self.width // 2
        for number, (channels, stride) in enumerate(((half, 2), (half, 1), (self.width, 1))):
            x = _conv(self, f"stem_conv{number + 1}", channels, 3, stride)(x)
            norm = BatchNorm(dtype=self.dtype, name=f"stem_norm{number + 1}")
            x = nn.relu(norm(x, train))
        x = _average(x, 2)
        for number, depth in enumerate(self.depths):
            strides = (1 if number == 0 else 2, *[1] * (depth - 1))
            channels, name = self.width * 2**number, f"stage{number + 1}"
            stage = Stage(AveragedBottleneck, channels, strides, self.dtype, self.remat, name=name)
            x = stage(x, train)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])  # [b, h, w, c] -> [b, h * w, c]
        heads = tokens.shape[-1] // self.head_width
        pool = MeanAttentionPooling(heads, self.embed_dim, self.dtype, name="pool")
        return TowerOutput(tokens, None, pool(tokens))

    def _check(self, image: Any) -> None:
        """Raises ValueError where options or inputs do not fit each other."""
        if len(self.depths) != 4:
            raise ValueError(f"depths={self.depths}: four stages are needed.")
        if self.image_size % 32:
            raise ValueError(f"image_size={self.image_size} is no multiple of 32.")
        if image.shape[1:3] != (self.image_size, self.image_size):
            raise ValueError(
                f"pictures are {image.shape[1]}x{image.shape[2]}, the model's image_size is "
                f"{self.image_size}; give both the same size."
            )
        if 32 * self.width % self.head_width:
            raise ValueError(
                f"head_width={self.head_width} does not divide 32 x width = {32 * self.width}."
            )


def _size(width: int, depths: tuple[int, ...], image_size: int, embed_dim: int) -> dict[str, Any]:
    """Field values of a size."""
    return {"width": width, "depths": depths, "image_size": image_size, "embed_dim": embed_dim}


# Source of the sizes: Radford et al. 2021 (CLIP), table 19.


def clip_resnet50() -> dict[str, Any]:
    """Fields of RN50."""
    return _size(64, (3, 4, 6, 3), 224, 1024)


def clip_resnet101() -> dict[str, Any]:
    """Fields of RN101."""
    return _size(64, (3, 4, 23, 3), 224, 512)


def clip_resnet50x4() -> dict[str, Any]:
    """Fields of RN50x4."""
    return _size(80, (4, 6, 10, 6), 288, 640)


def clip_resnet50x16() -> dict[str, Any]:
    """Fields of RN50x16."""
    return _size(96, (6, 8, 18, 8), 384, 768)


def clip_resnet50x64() -> dict[str, Any]:
    """Fields of RN50x64."""
    return _size(128, (3, 15, 36, 10), 448, 1024)
