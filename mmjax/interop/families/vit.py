"""ViT as Hugging Face publishes it, model_type 'vit': a picture tower with pooler or classifier.

Which of the two is told by config.json's 'architectures': ViTForImageClassification has the
classifier, ViTModel the pooler. `fitted` tells it by the file, where some were saved without.

Source: transformers, models/vit/modeling_vit.py and configuration_vit.py.
"""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.families.hf_blocks import rows
from mmjax.interop.family import (
    POOLER,
    Family,
    activation_of,
    activation_to,
    dense,
    known,
    label_count,
    labels,
    norm,
)
from mmjax.interop.forms import patches, reshaped
from mmjax.interop.rows import Aside, Row, Table, layers
from mmjax.interop.tensors import Tensors
from mmjax.models.encoders.vit import ViT

__all__ = ["BLOCK", "FAMILY", "RENAMES"]

DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
BUILT = {"num_channels": (3,), "qkv_bias": (True,), "pooler_act": ("tanh",)}
CLASSIFIER = "ViTForImageClassification"

BLOCK = (
    *norm("layernorm_before", "attention_norm"),
    *dense("attention.attention.query", "attention/query"),
    *dense("attention.attention.key", "attention/key"),
    *dense("attention.attention.value", "attention/value"),
    *dense("attention.output.dense", "attention/output"),
    *norm("layernorm_after", "mlp_norm"),
    *dense("intermediate.dense", "mlp/up"),
    *dense("output.dense", "mlp/down"),
)
# Names in memory of transformers 5 to published ones.
RENAMES = (
    (r"^((?:vit\.)?)layers\.(\d+)\.", r"\1encoder.layer.\2."),
    (r"(layer\.\d+\.attention\.)q_proj\.", r"\1attention.query."),
    (r"(layer\.\d+\.attention\.)k_proj\.", r"\1attention.key."),
    (r"(layer\.\d+\.attention\.)v_proj\.", r"\1attention.value."),
    (r"(layer\.\d+\.attention\.)o_proj\.", r"\1output.dense."),
    (r"(layer\.\d+\.)mlp\.fc1\.", r"\1intermediate.dense."),
    (r"(layer\.\d+\.)mlp\.fc2\.", r"\1output.dense."),
)


def fitted(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    """A config that also says what its file holds: a pooler, and a head where it names no class."""
    names = set(tensors.names())
    named = config.get("architectures") or ([CLASSIFIER] if "classifier.weight" in names else [])
    headed = any("pooler.dense." in name for name in names)
    return {**config, "architectures": list(named), POOLER: headed}


def model(config: Mapping[str, Any]) -> ViT:
    """Our model of their config."""
    where = "config"
    known(config, BUILT, where)
    config = {**DEFAULTS, **config}
    head: dict[str, Any] = {}
    if CLASSIFIER in (config.get("architectures") or ()):
        head = {"head": "linear", "head_dim": label_count(config)}
    elif config.get(POOLER, True):
        width = config.get("pooler_output_size") or config["hidden_size"]
        head = {"head": "tanh", "head_dim": width}
    return ViT(
        image_size=config["image_size"],
        patch_size=config["patch_size"],
        dim=config["hidden_size"],
        depth=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        mlp_dim=config["intermediate_size"],
        activation=activation_of(config["hidden_act"], where),
        norm_epsilon=config["layer_norm_eps"],
        pooling="class",
        **head,
    )


def config(model: ViT) -> dict[str, Any]:
    """Their config of our model."""
    made = {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": model.dim,
        "intermediate_size": model.mlp_dim,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.num_heads,
        "num_channels": 3,
        "image_size": model.image_size,
        "patch_size": model.patch_size,
        "hidden_act": activation_to(model.activation),
        "layer_norm_eps": model.norm_epsilon,
        "qkv_bias": True,
    }
    width = model.head_dim or model.dim
    if model.head == "tanh":
        return {**made, "pooler_act": "tanh", "pooler_output_size": width}
    if model.head == "linear":
        return {**made, "architectures": [CLASSIFIER], **labels(width)}
    return {**made, POOLER: False}


def table(model: ViT) -> Table:
    """Rows of the whole model; a classifier's tower stands below 'vit'."""
    classifies = model.head == "linear"
    prefix = "vit." if classifies else ""
    heads = {
        "none": (),
        "linear": rows(dense("classifier", "head")),
        "tanh": rows(dense("pooler.dense", "head")),
    }
    positions = reshaped((-1, model.dim), (1, -1, model.dim))
    patch, path = f"{prefix}embeddings.patch_embeddings.projection", "patches/embedding"
    return Table(
        (
            Row(f"{prefix}embeddings.cls_token", "class_token", reshaped((-1,), (1, 1, -1))),
            Row(f"{prefix}embeddings.position_embeddings", "position_embedding", positions),
            Row(f"{patch}.weight", f"{path}/kernel", patches(model.patch_size)),
            Row(f"{patch}.bias", f"{path}/bias"),
            *layers(f"{prefix}encoder.layer.{{n}}", "blocks", model.depth, BLOCK),
            *rows(norm(f"{prefix}layernorm", "norm")),
            *heads[model.head],
            Aside(rf"{prefix}embeddings\.mask_token", "for patches that are masked in pretraining"),
        ),
        (*RENAMES, *(() if classifies else ((r"^vit\.", ""),))),
    )


FAMILY = Family("hf/vit", model, table, config, fitted)
