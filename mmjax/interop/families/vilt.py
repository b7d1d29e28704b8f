"""ViLT as Hugging Face publishes it: config.json with model_type 'vilt'.

Which heads there are is told by the file; whether its classifier answers questions or judges
statements about several pictures is told by config.json's 'num_images'.

Source: transformers, models/vilt/modeling_vilt.py and configuration_vilt.py.
"""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.families.hf_bert import OLD_NAMES, bert_config, bert_fields
from mmjax.interop.families.hf_blocks import rows
from mmjax.interop.families.vit import BLOCK
from mmjax.interop.family import Family, dense, known, label_count, labels, norm
from mmjax.interop.forms import patches, reshaped
from mmjax.interop.rows import Aside, Row, Table, Tied, layers
from mmjax.interop.tensors import Tensors, WeightsError
from mmjax.models.fusion.vilt import Vilt, ViltStream

__all__ = ["FAMILY"]

# {their class: heads of ours}
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "ViltModel": (),
    "ViltForMaskedLM": ("masked_lm",),
    "ViltForImageAndTextRetrieval": ("matching",),
    "ViltForQuestionAnswering": ("answer",),
    "ViltForImagesAndTextClassification": ("reasoning",),
}
TOLD_BY_NAMES = (
    ("mlm_score.transform.dense.weight", "ViltForMaskedLM"),
    ("rank_output.weight", "ViltForImageAndTextRetrieval"),
    ("classifier.weight", "ViltForTokenClassification"),
)
DEFAULTS = {
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "image_size": 384,
    "patch_size": 32,
    "modality_type_vocab_size": 2,
    "max_image_length": -1,
    "num_images": -1,
}
BUILT = {"num_channels": (3,), "qkv_bias": (True,), "tie_word_embeddings": (True,)}


def fitted(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    """Their config with the class that holds what the file holds."""
    names = tensors.names()
    kind = next((kind for name, kind in TOLD_BY_NAMES if name in names), "ViltModel")
    if "classifier.3.weight" in names:
        several = config.get("num_images", -1) > 0
        kind = "ViltForImagesAndTextClassification" if several else "ViltForQuestionAnswering"
    return {**config, "architectures": [kind]}


def model(config: Mapping[str, Any]) -> Vilt:
    """Our model of their config."""
    config = {**DEFAULTS, **config}
    kind = (config.get("architectures") or ["ViltModel"])[0]
    if kind not in ARCHITECTURES:
        raise WeightsError(f"config: {kind} is not built; {', '.join(ARCHITECTURES)} are.")
    known(config, BUILT, "config")
    for field in ("image_size", "patch_size"):
        if not isinstance(config[field], int):
            raise WeightsError(f"config: {field}={config[field]!r} is not built; one number is.")
    most = config["max_image_length"]
    stream = ViltStream(
        **bert_fields(config, "config"),
        image_size=config["image_size"],
        patch_size=config["patch_size"],
        max_patches=most if most is not None and most >= 0 else None,
        modalities=config["modality_type_vocab_size"],
    )
    heads = ARCHITECTURES[kind]
    number = label_count(config)
    if "reasoning" in heads:
        if number != 2:
            raise WeightsError(f"config: {number} labels of {kind} are not built; 2 are.")
        return Vilt(stream, heads, pictures=config["num_images"])
    return Vilt(stream, heads, number) if "answer" in heads else Vilt(stream, heads)


def config(model: Vilt) -> dict[str, Any]:
    """Their config of our model."""
    kinds = [kind for kind, heads in ARCHITECTURES.items() if set(heads) == set(model.heads)]
    if not kinds:
        raise WeightsError(
            f"the format hf/vilt cannot express this model: heads={model.heads!r} are of no class "
            "there."
        )
    stream = model.stream
    made = {
        "architectures": kinds,
        "model_type": "vilt",
        **bert_config(stream),
        "image_size": stream.image_size,
        "patch_size": stream.patch_size,
        "num_channels": 3,
        "qkv_bias": True,
        "max_image_length": -1 if stream.max_patches is None else stream.max_patches,
        "modality_type_vocab_size": stream.modalities,
        "num_images": model.pictures if "reasoning" in model.heads else -1,
    }
    if "answer" not in model.heads:
        return made
    return {**made, **labels(model.answers)}


def table(model: Vilt) -> Table:
    """Rows of the whole model; without heads it is found with the prefix or without."""
    prefix = "vilt." if model.heads else ""
    there = f"{prefix}embeddings"
    dim = model.stream.dim
    kept = (
        *_text_rows(f"{there}.text_embeddings"),
        Row(f"{there}.token_type_embeddings.weight", "stream/modality_embedding"),
        Row(f"{there}.cls_token", "stream/patches/class_token", reshaped((-1,), (1, 1, -1))),
        Row(
            f"{there}.position_embeddings",
            "stream/patches/position_embedding",
            reshaped((-1, dim), (1, -1, dim)),
        ),
        Row(
            f"{there}.patch_embeddings.projection.weight",
            "stream/patches/pixels/embedding/kernel",
            patches(model.stream.patch_size),
        ),
        Row(f"{there}.patch_embeddings.projection.bias", "stream/patches/pixels/embedding/bias"),
        *layers(f"{prefix}encoder.layer.{{n}}", "stream/blocks", model.stream.depth, BLOCK),
        *rows(norm(f"{prefix}layernorm", "stream/norm")),
        *rows(dense(f"{prefix}pooler.dense", "stream/pool")),
        *_head_rows(model),
        Aside(rf"{prefix}embeddings\.text_embeddings\.(position|token_type)_ids", "numbers alone"),
    )
    return Table(kept, (*OLD_NAMES, *(() if model.heads else ((r"^vilt\.", ""),))))


def _text_rows(there: str) -> tuple[Row, ...]:
    """Rows of the words' tables and norm."""
    tables = {"word": "token", "position": "position", "token_type": "token_type"}
    return (
        *(
            Row(f"{there}.{theirs}_embeddings.weight", f"stream/{ours}_embedding")
            for theirs, ours in tables.items()
        ),
        *rows(norm(f"{there}.LayerNorm", "stream/embedding_norm")),
    )


def _head_rows(model: Vilt) -> tuple[Row | Tied, ...]:
    """Rows of the heads that there are."""
    made: tuple[Row | Tied, ...] = ()
    if "masked_lm" in model.heads:
        words = "vilt.embeddings.text_embeddings.word_embeddings.weight"
        made += (
            *rows(dense("mlm_score.transform.dense", "masked_lm/dense")),
            *rows(norm("mlm_score.transform.LayerNorm", "masked_lm/norm")),
            Row("mlm_score.decoder.bias", "masked_lm/bias"),
            Tied("mlm_score.decoder.weight", words),
            Tied("mlm_score.bias", "mlm_score.decoder.bias"),
        )
    if "matching" in model.heads:
        made += rows(dense("rank_output", "matching_head"))
    for head in ("answer", "reasoning"):
        if head in model.heads:
            made += rows(dense("classifier.0", f"{head}_head/hidden"))
            made += rows(norm("classifier.1", f"{head}_head/norm"))
            made += rows(dense("classifier.3", f"{head}_head/scores"))
    return made


FAMILY = Family("hf/vilt", model, table, config, fitted)
