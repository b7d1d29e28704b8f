"""The picture tower of an open_clip model that is a ResNet: `layers` of its config is a list.

Source: open_clip 3.3.0, src/open_clip/modified_resnet.py and model.py (`_build_vision_tower`).
"""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.families.resnet import COUNTED, block_rows, conv_norm
from mmjax.interop.family import dense
from mmjax.interop.rows import Aside, Row
from mmjax.models.encoders.clip_resnet import ClipResNet

__all__ = ["resnet_config", "resnet_rows", "resnet_tower"]

PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "c_proj": "output"}


def resnet_tower(vision: Mapping[str, Any], image_size: int, embed_dim: int) -> ClipResNet:
    """Our tower of a vision_cfg.

    Args:
      vision: the vision_cfg.
      image_size: of the pictures.
      embed_dim: of the model.
    """
    return ClipResNet(
        image_size=image_size,
        width=vision["width"],
        depths=tuple(vision["layers"]),
        head_width=vision.get("head_width", 64),
        embed_dim=embed_dim,
    )


def resnet_config(image: ClipResNet) -> dict[str, Any]:
    """The vision_cfg of our tower."""
    return {
        "image_size": image.image_size,
        "layers": list(image.depths),
        "width": image.width,
        "head_width": image.head_width,
        "patch_size": None,
    }


def resnet_rows(image: ClipResNet) -> tuple[Row | Aside, ...]:
    """Rows of the tower; its pooling ends in the shared space."""
    made: list[Row] = []
    for n in (1, 2, 3):
        names = (f"visual.conv{n}", f"image/stem_conv{n}"), (f"visual.bn{n}", f"image/stem_norm{n}")
        made += conv_norm(*names)
    for stage, depth in enumerate(image.depths, 1):
        for n in range(depth):
            names = f"visual.layer{stage}.{n}", f"image/stage{stage}/block{n + 1}"
            made += block_rows(*names, 3, shortcut=n == 0)
    pool = "visual.attnpool"
    made.append(Row(f"{pool}.positional_embedding", "image/pool/position_embedding"))
    for theirs, ours in PROJECTIONS.items():
        entries = dense(f"{pool}.{theirs}", f"image/pool/attention/{ours}")
        made += [Row(*entry) for entry in entries]
    return (*made, COUNTED)
