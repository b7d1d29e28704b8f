"""CLIP as Hugging Face publishes it: config.json with model_type 'clip'.

Source: transformers, models/clip/modeling_clip.py and configuration_clip.py.
"""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.families.hf_blocks import blocks, patch_rows, rows, text_tables
from mmjax.interop.family import Family, activation_of, activation_to, dense, known, norm
from mmjax.interop.rows import Aside, Row, Table
from mmjax.interop.tensors import WeightsError
from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT

__all__ = [
    "FAMILY",
    "HIGHEST_ID",
    "VISION",
    "older_config",
    "sub_config",
    "vision_config",
    "vision_fields",
    "vision_rows",
]

# The value of eos_token_id with which a text is pooled at its highest token number; published
# configs from before end-of-text was looked for hold it.
HIGHEST_ID = 2

VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
TEXT = {
    "vocab_size": 49_408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49_407,
}


def sub_config(config: Mapping[str, Any], tower: str, defaults: Mapping[str, Any]) -> dict:
    """A tower's config over its class's defaults.

    Args:
      config: of the whole model.
      tower: 'vision' or 'text'.
      defaults: of the tower's class.
    """
    return {**defaults, **(config.get(f"{tower}_config") or {})}


def older_config(config: Mapping[str, Any], tower: str, defaults: Mapping[str, Any]) -> dict:
    """As `sub_config`, of a class that still reads an old '..._config_dict'.

    Where there is one, the reference makes the tower's config of it alone and lays that over the
    newer one, so that even the class's defaults win over what the newer one says.
    """
    older = config.get(f"{tower}_config_dict")
    made = sub_config(config, tower, defaults)
    return made if older is None else {**made, **defaults, **older}


def vision_fields(vision: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of our ViT of a CLIP vision config."""
    known(vision, {"num_channels": (3,)}, where)
    return {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "dim": vision["hidden_size"],
        "depth": vision["num_hidden_layers"],
        "num_heads": vision["num_attention_heads"],
        "mlp_dim": vision["intermediate_size"],
        "activation": activation_of(vision["hidden_act"], where),
        "norm_epsilon": vision["layer_norm_eps"],
        "pooling": "class",
        "pre_norm": True,
        "patch_bias": False,
    }


def vision_config(image: ViT) -> dict[str, Any]:
    """A CLIP vision config of our ViT."""
    return {
        "model_type": "clip_vision_model",
        "hidden_size": image.dim,
        "intermediate_size": image.mlp_dim,
        "num_hidden_layers": image.depth,
        "num_attention_heads": image.num_heads,
        "num_channels": 3,
        "image_size": image.image_size,
        "patch_size": image.patch_size,
        "hidden_act": activation_to(image.activation),
        "layer_norm_eps": image.norm_epsilon,
    }


def model(config: Mapping[str, Any]) -> TwoTower:
    """Our model of their config."""
    vision = older_config(config, "vision", VISION)
    text = older_config(config, "text", TEXT)
    eos = text["eos_token_id"]
    if not isinstance(eos, int):
        raise WeightsError(f"text_config: eos_token_id={eos!r} is not built; one number is.")
    pooling = {"pooling": "highest_id"} if eos == HIGHEST_ID else {"eos_id": eos}
    return TwoTower(
        image=ViT(**vision_fields(vision, "vision_config")),
        text=TextTransformer(
            vocab_size=text["vocab_size"],
            length=text["max_position_embeddings"],
            dim=text["hidden_size"],
            depth=text["num_hidden_layers"],
            num_heads=text["num_attention_heads"],
            mlp_dim=text["intermediate_size"],
            activation=activation_of(text["hidden_act"], "text_config"),
            norm_epsilon=text["layer_norm_eps"],
            causal=True,
            mask_padding=True,
            **{"pooling": "end_of_text", **pooling},
        ),
        embed_dim=config.get("projection_dim", 512),
    )


def config(model: TwoTower) -> dict[str, Any]:
    """Their config of our model; classes for one tower alone read its width there."""
    text = model.text
    projection = {"projection_dim": model.embed_dim}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        **projection,
        "logit_scale_init_value": model.log_scale_init,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": text.vocab_size,
            "hidden_size": text.dim,
            "intermediate_size": text.mlp_dim,
            "num_hidden_layers": text.depth,
            "num_attention_heads": text.num_heads,
            "max_position_embeddings": text.length,
            "hidden_act": activation_to(text.activation),
            "layer_norm_eps": text.norm_epsilon,
            "eos_token_id": HIGHEST_ID if text.pooling == "highest_id" else text.eos_id,
            "bos_token_id": None,  # nothing reads it; its default may lie outside the vocabulary
            **projection,
        },
        "vision_config": {**vision_config(model.image), **projection},
    }


def vision_rows(image: ViT) -> tuple[Row, ...]:
    """Rows of the picture tower."""
    return (
        Row("vision_model.embeddings.class_embedding", "image/class_token"),
        *patch_rows(image.patch_size, image.patch_bias),
        *rows(norm("vision_model.pre_layrnorm", "image/input_norm")),
        *blocks("vision_model", "image", image.depth),
        *rows(norm("vision_model.post_layernorm", "image/norm")),
        *rows(dense("visual_projection", "image_projection", bias=False)),
    )


def table(model: TwoTower) -> Table:
    """Rows of the whole model."""
    return Table(
        (
            Row("logit_scale", "log_scale"),
            *text_tables(),
            *blocks("text_model", "text", model.text.depth),
            *rows(norm("text_model.final_layer_norm", "text/norm")),
            *rows(dense("text_projection", "text_projection", bias=False)),
            *vision_rows(model.image),
            Aside(r"(text|vision)_model\.embeddings\.position_ids", "0, 1, 2 and so on"),
        )
    )


FAMILY = Family("hf/clip", model, table, config)
