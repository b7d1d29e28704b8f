"""Chinese-CLIP as Hugging Face publishes it: a BERT beside CLIP's picture tower.

The text's first token is projected as it is: there is no pooler and no norm after the blocks.

Source: transformers, models/chinese_clip/modeling_chinese_clip.py and
configuration_chinese_clip.py.
"""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.families.clip import (
    VISION,
    older_config,
    vision_config,
    vision_fields,
    vision_rows,
)
from mmjax.interop.families.hf_bert import OLD_NAMES, TEXT, bert_config, bert_fields, bert_rows
from mmjax.interop.families.hf_blocks import rows
from mmjax.interop.family import Family, dense
from mmjax.interop.rows import Aside, Row, Table
from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.vit import ViT

__all__ = ["FAMILY"]


def model(config: Mapping[str, Any]) -> TwoTower:
    """Our model of their config."""
    text = bert_fields(older_config(config, "text", TEXT), "text_config")
    return TwoTower(
        image=ViT(**vision_fields(older_config(config, "vision", VISION), "vision_config")),
        text=Bert(**text, pooling="class"),
        embed_dim=config.get("projection_dim", 512),
    )


def config(model: TwoTower) -> dict[str, Any]:
    """Their config of our model."""
    return {
        "architectures": ["ChineseCLIPModel"],
        "model_type": "chinese_clip",
        "projection_dim": model.embed_dim,
        "logit_scale_init_value": model.log_scale_init,
        "text_config": {"model_type": "chinese_clip_text_model", **bert_config(model.text)},
        "vision_config": {
            **vision_config(model.image),
            "model_type": "chinese_clip_vision_model",
        },
    }


def table(model: TwoTower) -> Table:
    """Rows of the whole model."""
    kept = (
        Row("logit_scale", "log_scale"),
        *bert_rows(model.text, "text_model.", "text/"),
        *rows(dense("text_projection", "text_projection", bias=False)),
        *vision_rows(model.image),
        Aside(r"(text|vision)_model\.embeddings\.position_ids", "0, 1, 2 and so on"),
    )
    return Table(kept, OLD_NAMES)


FAMILY = Family("hf/chinese_clip", model, table, config)
