"""EfficientNet: a map of features made by thin convolutions between wide ones; ALIGN's pictures."""

import math
from typing import Any

import flax.linen as nn

from mmjax.models.interfaces import TowerOutput
from mmjax.models.layers.batch_norm import BatchNorm
from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.convolution import convolution
from mmjax.models.layers.dense import Dense
from mmjax.models.layers.pooling import mean
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Float, Int

# As in the original code, by what a number of the input feeds; in a depthwise kernel, whose last
# axis are channels that never meet, that is what flax takes for the numbers that feed one output.
INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
DEPTHWISE_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class InvertedBottleneck(nn.Module):
    """Widen, convolve each channel by itself, weigh the channels, narrow; the input added back.

    Attributes:
      channels: of the output.
      kernel_size: side of the depthwise convolution.
      stride: of the depthwise convolution.
      expand_ratio: width inside over that of the input; 1 leaves the widening out.
      squeeze_ratio: width of what weighs the channels, over that of the block's input.
      added: whether the input is added back.
      one_sided: whether a strided convolution's padding stands one pixel less above and at the
        left, as TensorFlow's 'SAME' has it for pictures of even sides; otherwise alike all round.
      drop_connect: part of the rows for which the block adds nothing; above 0 it needs an rng
        named 'dropout'.
      norm_momentum: see `BatchNorm`.
      norm_epsilon: see `BatchNorm`.
      dtype: type to compute in, see `compute_type`.

    Its output is sown as intermediate 'output'.

    Source: Tan and Le 2019 (EfficientNet), section 4; Sandler et al. 2018 (MobileNetV2), figure 3;
    Hu et al. 2018 (squeeze-and-excitation), section 3; Huang et al. 2016 (stochastic depth),
    section 3; transformers, models/align/modeling_align.py `AlignVisionBlock`.
    """

    channels: int
    kernel_size: int = 3
    stride: int = 1
    expand_ratio: int = 6
    squeeze_ratio: float = 0.25
    added: bool = False
    one_sided: bool = True
    drop_connect: float = 0.0
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch rows columns out"]:
        inside = x.shape[-1] * self.expand_ratio
        squeezed = max(1, int(x.shape[-1] * self.squeeze_ratio))
        y = x
        if self.expand_ratio != 1:
            y = nn.swish(self._convolved(y, "expand", inside, train=train))
        half = self.kernel_size // 2
        around = (half - 1 if self.stride > 1 and self.one_sided else half, half)
        if self.stride == 1:  # as large as the input; of an even kernel one pixel more at the end
            around = (self.kernel_size - 1 - half, half)
        how = {"size": self.kernel_size, "stride": self.stride, "padding": around}
        how |= {"init": DEPTHWISE_INIT, "depthwise": True}
        y = nn.swish(self._convolved(y, "depthwise", inside, train=train, **how))
        y = constrain(y, "batch", None, None, None)
        # Laid out at each step: of two products in a row XLA may exchange the rows otherwise.
        weights = constrain(y.mean(axis=(1, 2)), "batch", None)  # [b, h, w, c] -> [b, c]
        weights = constrain(nn.swish(self._dense("squeeze", squeezed)(weights)), "batch", None)
        weights = nn.sigmoid(self._dense("excite", inside)(weights))
        y = self._convolved(y * weights[:, None, None], "project", self.channels, train=train)
        if self.added:
            if self.drop_connect and train:
                drop = nn.Dropout(self.drop_connect, broadcast_dims=(1, 2, 3), deterministic=False)
                y = drop(y)
            y = x + y
        self.sow("intermediates", "output", y)
        return y

    def _convolved(self, x: Any, name: str, channels: int, *, train: bool, **how: Any) -> Any:
        """A convolution's output, normalised."""
        how = {"size": 1, "init": INIT, "dtype": self.dtype, **how}
        x = convolution(self, f"{name}_conv", channels, **how)(x)
        norm = BatchNorm(
            self.norm_momentum, self.norm_epsilon, dtype=self.dtype, name=f"{name}_norm"
        )
        return norm(x, train)

    def _dense(self, name: str, features: int) -> Dense:
        """A layer of what weighs the channels."""
        return Dense(features, kernel_init=INIT, name=name, dtype=compute_type(self.dtype))


class EfficientNet(nn.Module):
    """A strided convolution, stages of inverted bottlenecks, and the mean of the last map.

    Each tuple has an entry for each stage. Blocks lie at 'stage1/block1' and so on, each by itself:
    the first block of a stage has other shapes than the rest. There is no 1x1 convolution after the
    last stage and no classifier, as in ALIGN.

    Attributes:
      in_channels: of the input of each stage, before `width_coefficient`.
      out_channels: of the output of each stage, before `width_coefficient`.
      kernel_sizes: sides of the depthwise convolutions.
      strides: of each stage's first block.
      num_block_repeats: blocks of each stage, before `depth_coefficient`.
      expand_ratios: see `InvertedBottleneck`.
      width_coefficient: factor on channels, which are rounded to `depth_divisor`.
      depth_coefficient: factor on blocks, rounded up.
      depth_divisor: what numbers of channels are a multiple of.
      stem_channels: of the first convolution, before `width_coefficient`.
      squeeze_ratio: see `InvertedBottleneck`.
      even_padding: numbers of the blocks, counted from 0 over all stages, whose strided convolution
        is padded alike all round, as for pictures of odd sides.
      drop_connect: part of the rows for which the last block adds nothing in training; it rises
        evenly from 0 at the first block. EfficientNet was trained with 0.2.
      norm_momentum: see `BatchNorm`.
      norm_epsilon: see `BatchNorm`.
      dtype: type to compute in: 'float32', 'bfloat16' or 'auto'; parameters and statistics are
        float32.

    Source: Tan and Le 2019 (EfficientNet), table 1 and section 4; transformers,
    models/align/modeling_align.py.
    """

    in_channels: tuple[int, ...] = (32, 16, 24, 40, 80, 112, 192)
    out_channels: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    kernel_sizes: tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    num_block_repeats: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    expand_ratios: tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)
    width_coefficient: float = 1.0
    depth_coefficient: float = 1.0
    depth_divisor: int = 8
    stem_channels: int = 32
    squeeze_ratio: float = 0.25
    even_padding: tuple[int, ...] = ()
    drop_connect: float = 0.0
    norm_momentum: float = 0.99
    norm_epsilon: float = 1e-3
    dtype: str = "float32"

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
          train: whether to normalise by the batch, see `BatchNorm`, and to leave blocks out, which
            needs an rng named 'dropout' where `drop_connect` is above 0.

        Returns:
          `tokens` is the last map in reading order, `pooled` its mean.

        Raises:
          ValueError: tuples of different lengths, or stages whose channels do not fit each other.
        """
        del row
        self._check()
        x = image.astype(compute_type(self.dtype))
        x = convolution(
            self,
            "stem_conv",
            self._channels(self.stem_channels),
            size=3,
            stride=2,
            padding=(0, 1),
            init=INIT,
            dtype=self.dtype,
        )(x)
        norm = BatchNorm(self.norm_momentum, self.norm_epsilon, dtype=self.dtype, name="stem_norm")
        x = nn.swish(norm(x, train))
        for number, blocks in enumerate(self._stages()):
            x = Stage(blocks, name=f"stage{number + 1}")(x, train)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])  # [b, h, w, c] -> [b, h * w, c]
        return TowerOutput(tokens, None, mean(tokens))

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return tuple(math.ceil(self.depth_coefficient * n) for n in self.num_block_repeats)

    def _check(self) -> None:
        """Raises ValueError where the stages do not fit together."""
        names = ("in_channels", "out_channels", "kernel_sizes", "strides", "num_block_repeats")
        lengths = {name: len(getattr(self, name)) for name in (*names, "expand_ratios")}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ValueError(f"each stage needs an entry in every tuple; they have: {told}.")
        given = (self.stem_channels, *self.out_channels[:-1])
        if [self._channels(n) for n in given] != [self._channels(n) for n in self.in_channels]:
            raise ValueError(
                f"in_channels={self.in_channels} are not what the stem and the stages before give, "
                f"{given}."
            )

    def _channels(self, number: int) -> int:
        """A number of channels by the width coefficient: rounded, but never down by over 10%."""
        wanted = number * self.width_coefficient
        unit = self.depth_divisor
        rounded = max(unit, int(wanted + unit / 2) // unit * unit)
        return rounded + unit if rounded < 0.9 * wanted else rounded

    def _stages(self) -> list[tuple[dict[str, Any], ...]]:
        """Fields of the blocks of each stage."""
        stages, number = [], 0
        for stage, depth in enumerate(self.depths):
            blocks = []
            for place in range(depth):
                blocks.append(
                    {
                        "channels": self._channels(self.out_channels[stage]),
                        "kernel_size": self.kernel_sizes[stage],
                        "stride": self.strides[stage] if place == 0 else 1,
                        "expand_ratio": self.expand_ratios[stage],
                        "squeeze_ratio": self.squeeze_ratio,
                        "added": place > 0,
                        "one_sided": number not in self.even_padding,
                        "drop_connect": self.drop_connect * number / sum(self.depths),
                        "norm_momentum": self.norm_momentum,
                        "norm_epsilon": self.norm_epsilon,
                        "dtype": self.dtype,
                    }
                )
                number += 1
            stages.append(tuple(blocks))
        return stages


class Stage(nn.Module):
    """Inverted bottlenecks of one width, one after the other.

    Attributes:
      blocks: fields of each.
    """

    blocks: tuple[Any, ...]

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch rows columns out"]:
        for number, fields in enumerate(self.blocks):
            x = InvertedBottleneck(**fields, name=f"block{number + 1}")(x, train)
            x = constrain(x, "batch", None, None, None)
        return x


def efficientnet_b7() -> dict[str, Any]:
    """Fields of EfficientNet-B7, of which ALIGN's published weights are.

    Source: Tan and Le 2019 (EfficientNet), section 4; transformers,
    models/align/configuration_align.py.
    """
    return {"width_coefficient": 2.0, "depth_coefficient": 3.1}
