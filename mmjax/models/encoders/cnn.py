"""A small plain CNN: a few stages of convolutions, for pictures as small as drawn scenes."""

import flax.linen as nn

from mmjax.models.interfaces import TowerOutput
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.convolution import convolution
from mmjax.models.layers.pooling import mean
from mmjax.models.layers.positions import sincos_2d
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Float, Int

INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al. 2015, for ReLU


class Cnn(nn.Module):
    """Stages of two 3x3 convolutions, of which the first halves the sides; no residuals.

    Norms are over groups of channels of one picture, so nothing depends on the batch and there are
    no running statistics. What reads the tokens sees no map any more, so each is told where it
    stands by fixed sines. Layers lie at 'stage1/conv1', 'stage1/norm1' and so on.

    Attributes:
      channels: of each stage; the last is the width of a token and a multiple of 4.
      groups: of channels that are normalised together; must divide all of `channels`.
      norm_epsilon: added to the variance in norms.
      dtype: type to compute in: 'float32', 'bfloat16' or 'auto'; parameters are float32.

    Source: Simonyan and Zisserman 2015, section 2.1 (stacks of 3x3); Wu and He 2018, "Group
    Normalization", section 3.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    groups: int = 8
    norm_epsilon: float = 1e-5
    dtype: str = "float32"

    @property
    def dim(self) -> int:
        """Width of a token."""
        return self.channels[-1]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the tokens of a picture."""
        shrunk = 2 ** len(self.channels)
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
          train: nothing differs in training.

        Returns:
          `tokens` is the last map in reading order with places added, `pooled` the map's mean.

        Raises:
          ValueError: channels that the groups do not divide, or a width without places.
        """
        del row, train
        wrong = [number for number in self.channels if number % self.groups]
        if not self.channels or wrong or self.dim % 4 or self.dim < 8:
            raise ValueError(
                f"channels={self.channels}, groups={self.groups}: give at least one stage, "
                "channels that the groups divide, and a last number of them that is a multiple of "
                "4 from 8 on."
            )
        x = image.astype(compute_type(self.dtype))
        for number, channels in enumerate(self.channels):
            how = (channels, self.groups, self.norm_epsilon, self.dtype)
            x = Stage(*how, name=f"stage{number + 1}")(x)
        places = sincos_2d(x.shape[1], x.shape[2], self.dim).astype(x.dtype)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])  # [b, h, w, c] -> [b, h * w, c]
        return TowerOutput(tokens + places, None, mean(tokens))


class Stage(nn.Module):
    """Two convolutions of one width, each with a norm and ReLU after it.

    Attributes:
      channels: of the output.
      groups: see `Cnn`.
      norm_epsilon: see `Cnn`.
      dtype: see `Cnn`.
    """

    channels: int
    groups: int
    norm_epsilon: float
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns out"]:
        dtype = compute_type(self.dtype)
        for number, stride in ((1, 2), (2, 1)):
            conv = convolution(
                self, f"conv{number}", self.channels, 3, stride, init=INIT, dtype=self.dtype
            )
            how = {"epsilon": self.norm_epsilon, "dtype": dtype, "name": f"norm{number}"}
            x = nn.relu(nn.GroupNorm(self.groups, **how)(conv(x)))
        return constrain(x, "batch", None, None, None)
