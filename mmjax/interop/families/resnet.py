"""ResNets as timm and torchvision publish them; the names of their arrays are the same.

Source: timm, models/resnet.py and models/_hub.py (config.json); torchvision, models/resnet.py.
"""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.family import Family, dense, known
from mmjax.interop.forms import CONVOLUTION
from mmjax.interop.rows import Aside, Row, Table
from mmjax.interop.tensors import WeightsError
from mmjax.models.encoders.classifier import Classifier
from mmjax.models.encoders.resnet import (
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)

__all__ = ["COUNTED", "FAMILY", "block_rows", "conv_norm"]

SIZES = {
    "resnet18": resnet18(),
    "resnet34": resnet34(),
    "resnet50": resnet50(),
    "resnet101": resnet101(),
    "resnet152": resnet152(),
}
BLOCKS = {"BasicBlock": "basic", "Bottleneck": "bottleneck"}
CHANNELS = (64, 128, 256, 512)
STEM = "7x7 s2 p3 64 + maxpool 3 s2 p1"
# Arguments of timm's class and the values of them that are built, the default first.
BUILT = {
    "stem": (STEM,),
    "in_chans": (3,),
    "output_stride": (32,),
    "cardinality": (1,),
    "base_width": (64,),
    "stem_width": (64,),
    "stem_type": ("",),
    "replace_stem_pool": (False,),
    "block_reduce_first": (1,),
    "down_kernel_size": (1,),
    "avg_down": (False,),
    "act_layer": (None, "relu"),
    "norm_layer": (None, "batchnorm2d"),
    "aa_layer": (None,),
    "global_pool": ("avg",),
    "block_args": (None, {}),
}
COUNTED = Aside(r"(.*\.)?num_batches_tracked", "how many batches were seen; the momentum is fixed")


def model(config: Mapping[str, Any]) -> Classifier | ResNet:
    """Our model of their config: a config.json of timm, or the arguments of its class.

    No classes make a tower without a head.
    """
    given = dict(config)
    if "architecture" in config:
        name = config["architecture"].partition(".")[0]
        if name not in SIZES:
            raise WeightsError(f"architecture {name!r} is not built; {', '.join(SIZES)} are.")
        size = SIZES[name]
        block = next(theirs for theirs, ours in BLOCKS.items() if ours == size["block"])
        given = {"block": block, "layers": size["depths"], **(config.get("model_args") or {})}
        given.setdefault("num_classes", config.get("num_classes", 1000))
    known(given, {**BUILT, "block": tuple(BLOCKS)}, "the ResNet's config")
    tower = ResNet(
        block=BLOCKS[given["block"]],
        channels=tuple(given.get("channels", CHANNELS)),
        depths=tuple(given["layers"]),
    )
    classes = given.get("num_classes", 1000)
    return Classifier(tower, classes) if classes else tower


def config(model: Classifier | ResNet) -> dict[str, Any]:
    """Their config.json of our model."""
    tower = getattr(model, "image", model)
    like = {"block": tower.block, "depths": tuple(tower.depths)}
    name = next((name for name, size in SIZES.items() if size == like), None)
    changed: dict[str, Any] = {}
    if name is None:  # another depth than any that has a name
        name = "resnet18" if tower.block == "basic" else "resnet50"
        changed["layers"] = list(tower.depths)
    if tuple(tower.channels) != CHANNELS:
        changed["channels"] = list(tower.channels)
    classes = getattr(model, "num_classes", 0)
    features = (1 if tower.block == "basic" else 4) * tower.channels[-1]
    made = {"architecture": name, "num_classes": classes, "num_features": features}
    return {**made, "model_args": changed} if changed else made


def conv_norm(conv: tuple[str, str], norm: tuple[str, str]) -> tuple[Row, ...]:
    """Rows of a convolution without bias and of the norm after it.

    Args:
      conv: (their prefix, our path) of the convolution.
      norm: (their prefix, our path) of the norm.
    """
    theirs, ours = norm
    return (
        Row(f"{conv[0]}.weight", f"{conv[1]}/kernel", CONVOLUTION),
        Row(f"{theirs}.weight", f"{ours}/scale"),
        Row(f"{theirs}.bias", f"{ours}/bias"),
        Row(f"{theirs}.running_mean", f"{ours}/mean", statistics=True),
        Row(f"{theirs}.running_var", f"{ours}/var", statistics=True),
    )


def block_rows(theirs: str, ours: str, convolutions: int, shortcut: bool) -> tuple[Row, ...]:
    """Rows of a residual block.

    Args:
      theirs: what stands before its names.
      ours: its path.
      convolutions: in its branch.
      shortcut: whether the shortcut has one too.
    """
    made: list[Row] = []
    for n in range(1, convolutions + 1):
        conv, norm = f"conv{n}", f"norm{n}"
        made += conv_norm(
            (f"{theirs}.{conv}", f"{ours}/{conv}"), (f"{theirs}.bn{n}", f"{ours}/{norm}")
        )
    if shortcut:
        made += conv_norm(
            (f"{theirs}.downsample.0", f"{ours}/shortcut_conv"),
            (f"{theirs}.downsample.1", f"{ours}/shortcut_norm"),
        )
    return tuple(made)


def _tower_rows(tower: ResNet, ours: str) -> list[Row]:
    """Rows of a tower whose paths begin with `ours`."""
    made = [*conv_norm(("conv1", f"{ours}stem_conv"), ("bn1", f"{ours}stem_norm"))]
    widening, convolutions = (1, 2) if tower.block == "basic" else (4, 3)
    before = tower.stem_channels
    for stage, (channels, depth) in enumerate(zip(tower.channels, tower.depths), 1):
        for n in range(depth):
            shortcut = n == 0 and (stage > 1 or before != widening * channels)
            names = f"layer{stage}.{n}", f"{ours}stage{stage}/block{n + 1}"
            made += block_rows(*names, convolutions, shortcut)
        before = widening * channels
    return made


def table(model: Classifier | ResNet) -> Table:
    """Rows of the whole model."""
    if isinstance(model, ResNet):
        head = Aside(r"fc\.(weight|bias)", "the scores of classes, which this model has not")
        return Table((*_tower_rows(model, ""), head, COUNTED))
    head = tuple(Row(*entry) for entry in dense("fc", "head"))
    return Table((*_tower_rows(model.image, "image/"), *head, COUNTED))


FAMILY = Family("timm/resnet", model, table, config)
