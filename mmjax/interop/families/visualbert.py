"""VisualBERT as Hugging Face publishes it: config.json with model_type 'visual_bert'.

Which heads there are is told by the file; whether its one dense layer answers questions or judges
statements is told by config.json's 'architectures' alone, and where that is silent it answers.

Source: transformers, models/visual_bert/modeling_visual_bert.py and configuration_visual_bert.py.
"""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.families.bert import masked_lm_rows
from mmjax.interop.families.hf_bert import OLD_NAMES, bert_config, bert_fields, bert_rows
from mmjax.interop.families.hf_blocks import rows
from mmjax.interop.family import Family, dense, known, label_count, labels
from mmjax.interop.rows import Aside, Row, Table
from mmjax.interop.tensors import Tensors, WeightsError
from mmjax.models.fusion.visualbert import VisualBert, VisualBertStream

__all__ = ["FAMILY"]

# {their class: heads of ours}
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "VisualBertModel": (),
    "VisualBertForPreTraining": ("masked_lm", "matching"),
    "VisualBertForQuestionAnswering": ("answer",),
    "VisualBertForVisualReasoning": ("reasoning",),
    "VisualBertForRegionToPhraseAlignment": ("masked_lm", "matching", "alignment"),
}
TOLD_BY_NAMES = (
    ("attention.query.weight", "VisualBertForRegionToPhraseAlignment"),
    ("cls.seq_relationship.weight", "VisualBertForPreTraining"),
)
DENSE = ("VisualBertForQuestionAnswering", "VisualBertForVisualReasoning")
TABLES = {"type_embedding": "token_type", "position_embedding": "position"}


def fitted(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    """Their config with the class that holds what the file holds."""
    names = tensors.names()
    named = (config.get("architectures") or ["VisualBertModel"])[0]
    told = [kind for name, kind in TOLD_BY_NAMES if name in names]
    if told:
        kind = told[0]
    elif "cls.weight" in names:
        kind = DENSE[0] if named in ARCHITECTURES and named not in DENSE else named
    else:
        kind = "VisualBertModel"
    return {**config, "architectures": [kind]}


def model(config: Mapping[str, Any]) -> VisualBert:
    """Our model of their config."""
    kind = (config.get("architectures") or ["VisualBertModel"])[0]
    if kind not in ARCHITECTURES:
        raise WeightsError(f"config: {kind} is not built; {', '.join(ARCHITECTURES)} are.")
    known(config, {"bypass_transformer": (False,), "tie_word_embeddings": (True,)}, "config")
    width = config.get("visual_embedding_dim", 512)
    stream = VisualBertStream(**bert_fields(config, "config"), region_dim=width)
    number = label_count(config)
    heads = ARCHITECTURES[kind]
    if "reasoning" in heads and number != 2:
        raise WeightsError(f"config: {number} labels of {kind} are not built; 2 are.")
    return VisualBert(stream, heads, number) if "answer" in heads else VisualBert(stream, heads)


def config(model: VisualBert) -> dict[str, Any]:
    """Their config of our model."""
    kinds = [kind for kind, heads in ARCHITECTURES.items() if set(heads) == set(model.heads)]
    if not kinds:
        raise WeightsError(
            f"the format hf/visualbert cannot express this model: heads={model.heads!r} are of no "
            "class there."
        )
    made = {
        "architectures": kinds,
        "model_type": "visual_bert",
        **bert_config(model.stream),
        "visual_embedding_dim": model.stream.region_dim,
        "bypass_transformer": False,
        "special_visual_initialize": True,
    }
    if "answer" not in model.heads:
        return made
    return {**made, **labels(model.answers)}


def table(model: VisualBert) -> Table:
    """Rows of the whole model; without heads it is found with the prefix or without."""
    prefix = "visual_bert." if model.heads else ""
    visual = f"{prefix}embeddings.visual_"
    kept = (
        *bert_rows(model.stream, prefix, "stream/"),
        *rows(dense(f"{visual}projection", "stream/regions/projection")),
        *(
            Row(f"{visual}{there}_embeddings.weight", f"stream/regions/{here}")
            for here, there in TABLES.items()
        ),
        Aside(rf"{prefix}embeddings\.position_ids", "0, 1, 2 and so on"),
    )
    if "masked_lm" in model.heads:
        words = "visual_bert.embeddings.word_embeddings.weight"
        kept = (*kept, *masked_lm_rows(words))
        kept = (*kept, *rows(dense("cls.seq_relationship", "matching_head")))
    for head in ("answer", "reasoning"):
        if head in model.heads:
            kept = (*kept, *rows(dense("cls", f"{head}_head")))
    if "alignment" in model.heads:
        for layer in ("query", "key", "value"):
            kept = (*kept, *rows(dense(f"attention.{layer}", f"alignment/{layer}")))
    return Table(kept, (*OLD_NAMES, *(() if model.heads else ((r"^visual_bert\.", ""),))))


FAMILY = Family("hf/visualbert", model, table, config, fitted)
