"""SigLIP as Hugging Face publishes it: config.json with model_type 'siglip'.

SigLIP 2 at a fixed resolution is published as this class too.

Source: transformers, models/siglip/modeling_siglip.py and configuration_siglip.py.
"""

import math
from collections.abc import Mapping
from typing import Any

from mmjax.interop.families.clip import sub_config
from mmjax.interop.families.hf_blocks import blocks, patch_rows, rows, text_tables
from mmjax.interop.family import Family, activation_of, activation_to, dense, known, norm
from mmjax.interop.forms import SAME, TRANSPOSED, reshaped
from mmjax.interop.rows import Aside, Row, Table
from mmjax.interop.tensors import WeightsError
from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT

__all__ = ["FAMILY", "SCALARS", "VISION"]
__all__ += ["head_rows", "shared_config", "shared_fields", "text_rows", "tower_fields"]

VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
TEXT = {
    "vocab_size": 32_000,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
SCALARS = (
    Row("logit_scale", "log_scale", reshaped((), (1,))),
    Row("logit_bias", "bias", reshaped((), (1,))),
)
PACKED = tuple(f"image/pool/attention/{part}" for part in ("query", "key", "value"))


def tower_fields(tower: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What the fields of our two towers have in common, of a tower's config."""
    return {
        "dim": tower["hidden_size"],
        "depth": tower["num_hidden_layers"],
        "num_heads": tower["num_attention_heads"],
        "mlp_dim": tower["intermediate_size"],
        "activation": activation_of(tower["hidden_act"], where),
        "norm_epsilon": tower["layer_norm_eps"],
    }


def tower_config(tower: Any) -> dict[str, Any]:
    """The way back of `tower_fields`."""
    return {
        "hidden_size": tower.dim,
        "intermediate_size": tower.mlp_dim,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.num_heads,
        "hidden_act": activation_to(tower.activation),
        "layer_norm_eps": tower.norm_epsilon,
    }


def shared_fields(config: Mapping[str, Any], image_dim: int) -> dict[str, Any]:
    """Fields of our dual encoder but for its picture tower.

    Args:
      config: of the whole model.
      image_dim: width of the picture tower, which is the shared space's.

    Raises:
      WeightsError: texts and pictures would be of different widths.
    """
    text = sub_config(config, "text", TEXT)
    width = text.get("projection_size") or text["hidden_size"]
    if width != image_dim:
        raise WeightsError(
            f"text_config: projection_size={width} is not the hidden_size={image_dim} of "
            "vision_config, so texts and pictures cannot be compared."
        )
    return {
        "text": TextTransformer(
            vocab_size=text["vocab_size"],
            length=text["max_position_embeddings"],
            pooling="last",
            **tower_fields(text, "text_config"),
        ),
        "embed_dim": width,
        "project_image": "none",
        "project_text": "linear_bias",
        "log_scale_init": math.log(10.0),
        "bias_init": -10.0,
    }


def shared_config(model: TwoTower, kind: str, vision: Mapping[str, Any]) -> dict[str, Any]:
    """Their config of our dual encoder.

    Args:
      model: ours.
      kind: 'siglip' or 'siglip2'.
      vision: what is the picture tower's alone.
    """
    return {
        "architectures": [f"{kind.capitalize()}Model"],
        "model_type": kind,
        "text_config": {
            "model_type": f"{kind}_text_model",
            **tower_config(model.text),
            "vocab_size": model.text.vocab_size,
            "max_position_embeddings": model.text.length,
            "projection_size": model.embed_dim,
        },
        "vision_config": {
            "model_type": f"{kind}_vision_model",
            **tower_config(model.image),
            "num_channels": 3,
            "patch_size": model.image.patch_size,
            "vision_use_head": True,
            **vision,
        },
    }


def model(config: Mapping[str, Any]) -> TwoTower:
    """Our model of their config."""
    vision = sub_config(config, "vision", VISION)
    known(vision, {"num_channels": (3,), "vision_use_head": (True,)}, "vision_config")
    image = ViT(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        pooling="attention",
        **tower_fields(vision, "vision_config"),
    )
    return TwoTower(image=image, **shared_fields(config, image.dim))


def config(model: TwoTower) -> dict[str, Any]:
    """Their config of our model."""
    return shared_config(model, "siglip", {"image_size": model.image.image_size})


def head_rows() -> tuple[Row, ...]:
    """The pooling head of the picture tower."""
    head, pool = "vision_model.head", "image/pool"
    kernels, biases = (tuple(f"{path}/{kind}" for path in PACKED) for kind in ("kernel", "bias"))
    return (
        Row(f"{head}.probe", f"{pool}/probe", reshaped((-1,), (1, 1, -1))),
        Row(f"{head}.attention.in_proj_weight", kernels, TRANSPOSED),
        Row(f"{head}.attention.in_proj_bias", biases, SAME),
        *rows(dense(f"{head}.attention.out_proj", f"{pool}/attention/output")),
        *rows(norm(f"{head}.layernorm", f"{pool}/norm")),
        *rows(dense(f"{head}.mlp.fc1", f"{pool}/mlp/up")),
        *rows(dense(f"{head}.mlp.fc2", f"{pool}/mlp/down")),
    )


def text_rows(text: TextTransformer) -> tuple[Row, ...]:
    """The text tower and its projection."""
    return (
        *text_tables(),
        *blocks("text_model", "text", text.depth),
        *rows(norm("text_model.final_layer_norm", "text/norm")),
        *rows(dense("text_model.head", "text_projection")),
    )


def table(model: TwoTower) -> Table:
    """Rows of the whole model."""
    image = model.image
    return Table(
        (
            *SCALARS,
            *text_rows(model.text),
            *patch_rows(image.patch_size, bias=True),
            *blocks("vision_model", "image", image.depth),
            *rows(norm("vision_model.post_layernorm", "image/norm")),
            *head_rows(),
            Aside(r"(text|vision)_model\.embeddings\.position_ids", "0, 1, 2 and so on"),
        )
    )


FAMILY = Family("hf/siglip", model, table, config)
