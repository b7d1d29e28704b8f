"""LXMERT as Hugging Face publishes it: config.json with model_type 'lxmert'.

Which heads there are is told by the config's tasks and by the names in the file: LxmertModel has
none, LxmertForQuestionAnswering the answer head alone.

Source: transformers, models/lxmert/modeling_lxmert.py and configuration_lxmert.py.
"""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.families.bert import masked_lm_rows
from mmjax.interop.families.hf_bert import BLOCK, OLD_NAMES, bert_config, bert_fields, bert_rows
from mmjax.interop.families.hf_blocks import rows
from mmjax.interop.family import Family, dense, known, norm
from mmjax.interop.rows import Row, Table, layers
from mmjax.interop.tensors import Tensors, WeightsError
from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.regions import RegionTower
from mmjax.models.fusion.lxmert import Lxmert

__all__ = ["FAMILY"]

ARCHITECTURES = ("LxmertModel", "LxmertForPreTraining", "LxmertForQuestionAnswering")
DEFAULTS = {
    "l_layers": 9,
    "x_layers": 5,
    "r_layers": 5,
    "visual_feat_dim": 2048,
    "visual_pos_dim": 4,
    "num_qa_labels": 9500,
    "num_object_labels": 1600,
    "num_attr_labels": 400,
    "task_obj_predict": True,
    "task_qa": True,
    "visual_obj_loss": True,
    "visual_attr_loss": True,
    "visual_feat_loss": True,
}
# {our kind of score: (theirs, the config's switch, the config's number of scores)}
REGIONS = {
    "object": ("obj", "visual_obj_loss", "num_object_labels"),
    "attribute": ("attr", "visual_attr_loss", "num_attr_labels"),
    "feature": ("feat", "visual_feat_loss", "visual_feat_dim"),
}
CROSSING = (
    *dense("visual_attention.att.query", "cross/query"),
    *dense("visual_attention.att.key", "cross/key"),
    *dense("visual_attention.att.value", "cross/value"),
    *dense("visual_attention.output.dense", "cross/output"),
    *norm("visual_attention.output.LayerNorm", "cross_norm"),
    *(
        entry
        for theirs, ours in (("lang", "text"), ("visn", "image"))
        for entry in (
            *dense(f"{theirs}_self_att.self.query", f"{ours}/attention/query"),
            *dense(f"{theirs}_self_att.self.key", f"{ours}/attention/key"),
            *dense(f"{theirs}_self_att.self.value", f"{ours}/attention/value"),
            *dense(f"{theirs}_self_att.output.dense", f"{ours}/attention/output"),
            *norm(f"{theirs}_self_att.output.LayerNorm", f"{ours}/attention_norm"),
            *dense(f"{theirs}_inter.dense", f"{ours}/mlp/up"),
            *dense(f"{theirs}_output.dense", f"{ours}/mlp/down"),
            *norm(f"{theirs}_output.LayerNorm", f"{ours}/mlp_norm"),
        )
    ),
)


def fitted(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    """Their config with the class that holds what the file holds."""
    names = tensors.names()
    if any(".transform.dense." in name for name in names):
        kind = "LxmertForPreTraining"
    elif any(name.startswith("answer_head.") for name in names):
        kind = "LxmertForQuestionAnswering"
    else:
        kind = "LxmertModel"
    return {**config, "architectures": [kind]}


def model(config: Mapping[str, Any]) -> Lxmert:
    """Our model of their config."""
    kind = (config.get("architectures") or ["LxmertModel"])[0]
    if kind not in ARCHITECTURES:
        raise WeightsError(f"config: {kind} is not built; {', '.join(ARCHITECTURES)} are.")
    given = {**DEFAULTS, **config}
    known(given, {"tie_word_embeddings": (True,)}, "config")
    for field in ("l_layers", "r_layers", "x_layers"):
        if not given[field] > 0:
            raise WeightsError(f"config: {field}={given[field]!r} is not built; 1 or more are.")
    fields = bert_fields({**given, "num_hidden_layers": given["l_layers"]}, "config")
    fields["norm_epsilon"] = 1e-12  # whatever the config says
    shared = ("dim", "num_heads", "mlp_dim", "dropout", "activation", "norm_epsilon")
    image = RegionTower(
        feature_dim=given["visual_feat_dim"],
        box_dim=given["visual_pos_dim"],
        depth=given["r_layers"],
        **{name: fields[name] for name in shared},
    )
    outputs = tuple(
        (ours, given[number]) for ours, (_, switch, number) in REGIONS.items() if given[switch]
    )
    heads: tuple[str, ...] = ()
    if kind == "LxmertForPreTraining":
        heads = ("masked_lm", "matching")
        heads += ("regions",) if given["task_obj_predict"] else ()
        heads += ("answer",) if given["task_qa"] else ()
    elif kind == "LxmertForQuestionAnswering":
        heads = ("answer",)
    how = {"region_outputs": outputs, "answers": given["num_qa_labels"]}
    return Lxmert(Bert(**fields, pooling="class"), image, given["x_layers"], heads, **how)


def config(model: Lxmert) -> dict[str, Any]:
    """Their config of our model."""
    made = bert_config(model.text)
    del made["layer_norm_eps"], made["num_hidden_layers"]
    kind = "Model"
    if model.heads:
        kind = "ForPreTraining" if "masked_lm" in model.heads else "ForQuestionAnswering"
    made |= {
        "architectures": [f"Lxmert{kind}"],
        "model_type": "lxmert",
        "l_layers": model.text.depth,
        "r_layers": model.image.depth,
        "x_layers": model.depth,
        "visual_feat_dim": model.image.feature_dim,
        "visual_pos_dim": model.image.box_dim,
        "num_qa_labels": model.answers,
        "task_qa": "answer" in model.heads,
        "task_obj_predict": "regions" in model.heads,
    }
    there = dict(model.region_outputs)
    for kind, (_, switch, number) in REGIONS.items():
        made[switch] = kind in there
        made |= {number: there[kind]} if kind in there else {}
    return made


def table(model: Lxmert) -> Table:
    """Rows of the whole model; one without heads is found with the prefix 'lxmert.' or without."""
    if not model.heads:
        return Table(_towers(model, ""), ((r"^lxmert\.", ""), *OLD_NAMES))
    kept = _towers(model, "lxmert.")
    if "masked_lm" in model.heads:
        kept += masked_lm_rows("lxmert.embeddings.word_embeddings.weight")
    if "matching" in model.heads:
        kept += rows(dense("cls.seq_relationship", "matching_head/scores"))
    if "regions" in model.heads:
        head = "obj_predict_head"
        kept += rows(dense(f"{head}.transform.dense", "regions_head/dense"))
        kept += rows(norm(f"{head}.transform.LayerNorm", "regions_head/norm"))
        for kind, _ in model.region_outputs:
            kept += rows(dense(f"{head}.decoder_dict.{REGIONS[kind][0]}", f"regions_head/{kind}"))
    if "answer" in model.heads:
        kept += rows(dense("answer_head.logit_fc.0", "answer_head/up"))
        kept += rows(norm("answer_head.logit_fc.2", "answer_head/norm"))
        kept += rows(dense("answer_head.logit_fc.3", "answer_head/down"))
    return Table(kept, OLD_NAMES)


def _towers(model: Lxmert, theirs: str) -> tuple[Row, ...]:
    """Rows of all but the heads, below a prefix of theirs."""
    seen, crossing = f"{theirs}encoder.visn_fc", f"{theirs}encoder.x_layers.{{n}}"
    return (
        *bert_rows(model.text, theirs, "text/"),
        *rows(dense(f"{seen}.visn_fc", "image/features")),
        *rows(norm(f"{seen}.visn_layer_norm", "image/features_norm")),
        *rows(dense(f"{seen}.box_fc", "image/boxes")),
        *rows(norm(f"{seen}.box_layer_norm", "image/boxes_norm")),
        *layers(f"{theirs}encoder.r_layers.{{n}}", "image/blocks", model.image.depth, BLOCK),
        *layers(crossing, "crossings", model.depth, CROSSING),
        *rows(dense(f"{theirs}pooler.dense", "pool")),
    )


FAMILY = Family("hf/lxmert", model, table, config, fitted)
