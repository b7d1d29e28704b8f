"""SigLIP 2 NaFlex as Hugging Face publishes it: config.json with model_type 'siglip2'.

At a fixed resolution SigLIP 2 is published as SigLIP.

Source: transformers, models/siglip2/modeling_siglip2.py and configuration_siglip2.py.
"""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.families import siglip
from mmjax.interop.families.clip import sub_config
from mmjax.interop.families.hf_blocks import blocks, rows
from mmjax.interop.family import Family, dense, known, norm
from mmjax.interop.rows import Aside, Row, Table
from mmjax.models.dual.naflex import NaFlexTwoTower
from mmjax.models.encoders.naflex import NaFlexViT

__all__ = ["FAMILY"]

VISION = {**siglip.VISION, "num_patches": 256}


def model(config: Mapping[str, Any]) -> NaFlexTwoTower:
    """Our model of their config."""
    vision = sub_config(config, "vision", VISION)
    known(vision, {"num_channels": (3,), "vision_use_head": (True,)}, "vision_config")
    image = NaFlexViT(
        patch_size=vision["patch_size"],
        positions=vision["num_patches"],
        **siglip.tower_fields(vision, "vision_config"),
    )
    return NaFlexTwoTower(image=image, **siglip.shared_fields(config, image.dim))


def config(model: NaFlexTwoTower) -> dict[str, Any]:
    """Their config of our model."""
    return siglip.shared_config(model, "siglip2", {"num_patches": model.image.positions})


def table(model: NaFlexTwoTower) -> Table:
    """Rows of the whole model."""
    name = "vision_model.embeddings"
    return Table(
        (
            *siglip.SCALARS,
            *siglip.text_rows(model.text),
            *rows(dense(f"{name}.patch_embedding", "image/patches/embedding")),
            Row(f"{name}.position_embedding.weight", "image/position_embedding"),
            *blocks("vision_model", "image", model.image.depth),
            *rows(norm("vision_model.post_layernorm", "image/norm")),
            *siglip.head_rows(),
            Aside(r"text_model\.embeddings\.position_ids", "0, 1, 2 and so on"),
        )
    )


FAMILY = Family("hf/siglip2", model, table, config)
