"""Fields and rows of a BERT tower, which many of Hugging Face's models hold."""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.families.hf_blocks import rows
from mmjax.interop.family import activation_of, activation_to, dense, known, norm
from mmjax.interop.rows import Row, layers
from mmjax.models.encoders.bert import Bert

__all__ = ["OLD_NAMES", "TEXT", "bert_config", "bert_fields", "bert_rows"]

TEXT = {
    "vocab_size": 30_522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "layer_norm_eps": 1e-12,
}

# Files that were converted from the first TensorFlow release call a norm's arrays so.
OLD_NAMES = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))

BLOCK = (
    *dense("attention.self.query", "attention/query"),
    *dense("attention.self.key", "attention/key"),
    *dense("attention.self.value", "attention/value"),
    *dense("attention.output.dense", "attention/output"),
    *norm("attention.output.LayerNorm", "attention_norm"),
    *dense("intermediate.dense", "mlp/up"),
    *dense("output.dense", "mlp/down"),
    *norm("output.LayerNorm", "mlp_norm"),
)


def bert_fields(text: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of our Bert, but for its pooling, of a BERT config over `TEXT`.

    Args:
      text: their config.
      where: what to call it in errors.

    Raises:
      WeightsError: it asks for what is not built.
    """
    text = {**TEXT, **text}
    built = {
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
    }
    known(text, built, where)
    return {
        "vocab_size": text["vocab_size"],
        "length": text["max_position_embeddings"],
        "token_types": text["type_vocab_size"],
        "dim": text["hidden_size"],
        "depth": text["num_hidden_layers"],
        "num_heads": text["num_attention_heads"],
        "mlp_dim": text["intermediate_size"],
        "dropout": text["hidden_dropout_prob"],
        "activation": activation_of(text["hidden_act"], where),
        "norm_epsilon": text["layer_norm_eps"],
    }


def bert_config(text: Bert) -> dict[str, Any]:
    """A BERT config of our Bert; there is no dropout of attention weights in ours."""
    return {
        "vocab_size": text.vocab_size,
        "hidden_size": text.dim,
        "num_hidden_layers": text.depth,
        "num_attention_heads": text.num_heads,
        "intermediate_size": text.mlp_dim,
        "max_position_embeddings": text.length,
        "type_vocab_size": text.token_types,
        "hidden_act": activation_to(text.activation),
        "hidden_dropout_prob": text.dropout,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": text.norm_epsilon,
    }


def bert_rows(text: Bert, theirs: str, ours: str) -> tuple[Row, ...]:
    """Rows of a BERT tower.

    Args:
      text: the tower.
      theirs: what stands before each name, with its dot, e.g. 'bert.'.
      ours: what stands before each path, with its slash, e.g. 'text/'.
    """
    tables = [
        Row(f"{theirs}embeddings.{there}_embeddings.weight", f"{ours}{here}_embedding")
        for there, here in (
            ("word", "token"),
            ("position", "position"),
            ("token_type", "token_type"),
        )
    ]
    pooler = text.pooling == "tanh" or text.spare_pooler
    return (
        *tables,
        *rows(norm(f"{theirs}embeddings.LayerNorm", f"{ours}embedding_norm")),
        *layers(f"{theirs}encoder.layer.{{n}}", f"{ours}blocks", text.depth, BLOCK),
        *(rows(dense(f"{theirs}pooler.dense", f"{ours}pool")) if pooler else ()),
    )
