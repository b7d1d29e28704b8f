"""Rows that CLIP, SigLIP and Chinese-CLIP have in common in Hugging Face layout."""

from collections.abc import Sequence
from typing import Any

from mmjax.interop.family import dense, norm
from mmjax.interop.forms import Form, patches
from mmjax.interop.rows import Row, layers

BLOCK = (
    *norm("layer_norm1", "attention_norm"),
    *dense("self_attn.q_proj", "attention/query"),
    *dense("self_attn.k_proj", "attention/key"),
    *dense("self_attn.v_proj", "attention/value"),
    *dense("self_attn.out_proj", "attention/output"),
    *norm("layer_norm2", "mlp_norm"),
    *dense("mlp.fc1", "mlp/up"),
    *dense("mlp.fc2", "mlp/down"),
)


def blocks(theirs: str, ours: str, depth: int) -> tuple[Row, ...]:
    """The stacked blocks of a tower.

    Args:
      theirs: the tower's prefix, e.g. 'vision_model'.
      ours: the tower's path, e.g. 'image'.
      depth: number of blocks.
    """
    return layers(f"{theirs}.encoder.layers.{{n}}", f"{ours}/blocks", depth, BLOCK)


def rows(entries: Sequence[tuple[str, Any, Form]]) -> tuple[Row, ...]:
    """Rows of entries outside of blocks."""
    return tuple(Row(*entry) for entry in entries)


def text_tables() -> tuple[Row, ...]:
    """Tables of tokens and positions of a text tower."""
    return (
        Row("text_model.embeddings.token_embedding.weight", "text/token_embedding"),
        Row("text_model.embeddings.position_embedding.weight", "text/position_embedding"),
    )


def patch_rows(patch_size: int, bias: bool, channels: int = 3) -> tuple[Row, ...]:
    """Patches and positions of a picture tower."""
    name, path = "vision_model.embeddings.patch_embedding", "image/patches/embedding"
    made = [
        Row(f"{name}.weight", f"{path}/kernel", patches(patch_size, channels)),
        Row("vision_model.embeddings.position_embedding.weight", "image/position_embedding"),
    ]
    return (*made, Row(f"{name}.bias", f"{path}/bias")) if bias else tuple(made)
