"""ViLBERT as its two releases publish it: the multi-task one (12-in-1) and the earlier one.

Neither names a model_type: a config is known by its `v_biattention_id`. Which heads there are, and
of which release, is told by the file; without one a config of the earlier release is known by what
it lacks, `task_specific_tokens`.

Source: facebookresearch/vilbert-multi-task and jiasenlu/vilbert_beta, vilbert/vilbert.py and
config/*.json.
"""

import re
from collections.abc import Mapping
from typing import Any

from mmjax.interop.families.bert import masked_lm_rows
from mmjax.interop.families.hf_bert import BLOCK, OLD_NAMES, bert_config, bert_fields, bert_rows
from mmjax.interop.families.hf_blocks import rows
from mmjax.interop.family import Family, activation_of, activation_to, dense, known, norm
from mmjax.interop.forms import SAME
from mmjax.interop.rows import Aside, Row, Table, Tied, layers
from mmjax.interop.tensors import Tensors, WeightsError
from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.regions import RegionTower
from mmjax.models.fusion.task_bert import TaskBert
from mmjax.models.fusion.vilbert import EARLIER, PRETRAINING, TWELVE, Vilbert

__all__ = ["FAMILY"]

TASK = "embeddings.task_embeddings.weight"
LATER = "task_specific_tokens"  # a field of the multi-task release alone
# What both releases' programs ask a config for, with the only values that are built.
FIXED = {
    "bi_attention_type": 1,
    "fast_mode": False,
    "fixed_t_layer": 0,
    "fixed_v_layer": 0,
    "fusion_method": "mul",
    "in_batch_pairs": False,
    "initializer_range": 0.02,
    "pooling_method": "mul",
    "v_initializer_range": 0.02,
    "with_coattention": True,
}
TWELVE_FIXED = {
    "dynamic_attention": False,
    "model": "bert",
    "num_negative": 128,
    "objective": 0,
    LATER: False,
    "visual_target": 0,
    "visualization": False,
}
EARLIER_FIXED = {"intra_gate": False, "predict_feature": False}
BUILT = ("fast_mode", "fusion_method", "in_batch_pairs", "with_coattention")
BUILT += ("dynamic_attention", "model", "intra_gate")
DEFAULTS = {
    "v_feature_size": 2048,
    "v_target_size": 1601,
    "v_hidden_size": 1024,
    "v_num_hidden_layers": 6,
    "v_num_attention_heads": 8,
    "v_intermediate_size": 1024,
    "v_hidden_act": "gelu",
    "v_hidden_dropout_prob": 0.1,
    "bi_hidden_size": 1024,
    "bi_num_attention_heads": 8,
    "v_biattention_id": [0, 1, 2, 3, 4, 5],
    "t_biattention_id": [6, 7, 8, 9, 10, 11],
    "num_labels": 3129,
    "num_scene_labels": 1533,
    "num_tasks": 20,
}
TASKS, PRETRAINED = "VILBertForVLTasks", "BertForMultiModalPreTraining"
# {our head: their name}
SCORES = {"ranking": "vil_logit", "entailment": "vil_tri_prediction"}
SCORES |= {"grounding": "vision_logit", "tagging": "linguisic_logit"}
ANSWERS = {"answer": "vil_prediction", "scene_answer": "vil_prediction_gqa"}
ANSWERS |= {"reasoning": "vil_binary_prediction"}
# {the config's number: names in a file of which the first axis is it}
SIZES = {
    "num_labels": r"(module\.)?vil_prediction\.(logit_fc|main)\.3\.(weight|weight_v)",
    "num_tasks": rf"(module\.)?(bert\.)?{TASK}",
    "num_scene_labels": r"(module\.)?vil_prediction_gqa\.logit_fc\.3\.weight",
}


def _bridge(own: str, other: str, side: str, ours: str) -> tuple[Any, ...]:
    """Entries of what one stream does at a bridge.

    Args:
      own: number of this stream in their names.
      other: number of the other.
      side: letter of this stream in their names.
      ours: path of our block.
    """
    return (
        *dense(f"biattention.query{own}", f"{ours}/attention/query"),
        *dense(f"biattention.key{other}", f"{ours}/attention/key"),
        *dense(f"biattention.value{other}", f"{ours}/attention/value"),
        *dense(f"biOutput.dense{own}", f"{ours}/attention/output"),
        *norm(f"biOutput.LayerNorm{own}", f"{ours}/attention_norm"),
        *dense(f"{side}_intermediate.dense", f"{ours}/mlp/up"),
        *dense(f"{side}_output.dense", f"{ours}/mlp/down"),
        *norm(f"{side}_output.LayerNorm", f"{ours}/mlp_norm"),
    )


BRIDGE = (*_bridge("2", "1", "t", "text_bridge"), *_bridge("1", "2", "v", "image_bridge"))


def fitted(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    """Their config with the class that holds what the file holds, and its numbers of answers."""
    made, names = dict(config), tensors.names()
    for field, pattern in SIZES.items():
        for name in names:
            if re.fullmatch(pattern, name):
                made[field] = tensors.shape(name)[0]
    if any(name.endswith(TASK) for name in names):
        made[LATER] = True
    if any("vil_prediction." in name for name in names):
        kind = TASKS
        made.setdefault(LATER, False)
        if any("vil_prediction.main." in name for name in names):
            del made[LATER]
    else:
        kind = PRETRAINED if any("cls.predictions." in name for name in names) else "BertModel"
    return {**made, "architectures": [kind]}


def model(config: Mapping[str, Any]) -> Vilbert:
    """Our model of their config."""
    kind = (config.get("architectures") or ["BertModel"])[0]
    if kind not in ("BertModel", PRETRAINED, TASKS):
        allowed = f"BertModel, {PRETRAINED}, {TASKS}"
        raise WeightsError(f"config: {kind} is not built; {allowed} are.")
    earlier = LATER not in config
    given = {**DEFAULTS, **config}
    fixed = {**FIXED, **TWELVE_FIXED, **EARLIER_FIXED}
    known(given, {field: (fixed[field],) for field in BUILT}, "config")
    fields = bert_fields(given, "config")
    fields["norm_epsilon"] = 1e-12  # whatever the config says
    depths = {"t": fields["depth"], "v": given["v_num_hidden_layers"]}
    lone = {}
    for side, depth in depths.items():
        at = list(given[f"{side}_biattention_id"])
        lone[side] = depth - len(at)
        if lone[side] < (side == "t") or at != list(range(lone[side], depth)):
            raise WeightsError(
                f"config: {side}_biattention_id={at} of {depth} layers is not built; the last "
                "layers, one after another, are, with a layer of text before them."
            )
    if len(given["t_biattention_id"]) != len(given["v_biattention_id"]):
        raise WeightsError("config: t_biattention_id and v_biattention_id are not equally many.")
    image = RegionTower(
        feature_dim=given["v_feature_size"],
        box_dim=5,
        join="sum",
        dim=given["v_hidden_size"],
        depth=lone["v"],
        num_heads=given["v_num_attention_heads"],
        mlp_dim=given["v_intermediate_size"],
        dropout=given["v_hidden_dropout_prob"],
        activation=activation_of(given["v_hidden_act"], "config"),
        norm_epsilon=fields["norm_epsilon"],
    )
    fields |= {"depth": lone["t"], "pooling": "class"}
    told = given.get(LATER)
    text = TaskBert(**fields, tasks=given["num_tasks"]) if told else Bert(**fields)
    tasks = EARLIER if earlier else TWELVE
    return Vilbert(
        text,
        image,
        len(given["t_biattention_id"]),
        given["bi_hidden_size"],
        given["bi_num_attention_heads"],
        heads={"BertModel": (), PRETRAINED: PRETRAINING, TASKS: tasks}[kind],
        region_classes=given["v_target_size"],
        answers=given["num_labels"],
        scene_answers=given["num_scene_labels"],
        scaled_answers=earlier,
    )


def config(model: Vilbert) -> dict[str, Any]:
    """Their config of our model."""
    text, image, depth = model.text, model.image, model.depth
    kind = TASKS if "answer" in model.heads else PRETRAINED if model.heads else "BertModel"
    made = bert_config(text)
    del made["layer_norm_eps"]
    return made | {
        "architectures": [kind],
        "model_type": "vilbert",
        **FIXED,
        **(EARLIER_FIXED if model.scaled_answers else TWELVE_FIXED),
        **({LATER: True, "num_tasks": text.tasks} if isinstance(text, TaskBert) else {}),
        "num_hidden_layers": text.depth + depth,
        "t_biattention_id": list(range(text.depth, text.depth + depth)),
        "v_feature_size": image.feature_dim,
        "v_target_size": model.region_classes,
        "v_hidden_size": image.dim,
        "v_num_hidden_layers": image.depth + depth,
        "v_biattention_id": list(range(image.depth, image.depth + depth)),
        "v_num_attention_heads": image.num_heads,
        "v_intermediate_size": image.mlp_dim,
        "v_hidden_act": activation_to(image.activation),
        "v_hidden_dropout_prob": image.dropout,
        "v_attention_probs_dropout_prob": 0.0,
        "bi_hidden_size": model.bridge_dim,
        "bi_intermediate_size": model.bridge_dim,
        "bi_num_attention_heads": model.bridge_heads,
        "num_labels": model.answers,
        "num_scene_labels": model.scene_answers,
    }


def table(model: Vilbert) -> Table:
    """Rows of the whole model; one without heads is found with the prefix 'bert.' or without."""
    renames = ((r"^module\.", ""), *OLD_NAMES)
    if not model.heads:
        return Table(_streams(model, ""), (*renames, (r"^bert\.", "")))
    kept: tuple[Any, ...] = _streams(model, "bert.")
    if "masked_lm" in model.heads:
        words = "bert.embeddings.word_embeddings.weight"
        kept += tuple(row for row in masked_lm_rows(words) if isinstance(row, Row))
        kept += (Tied("cls.predictions.decoder.weight", words, written=True),)
    if "matching" in model.heads:
        kept += rows(dense("cls.bi_seq_relationship", "matching_head/scores"))
    if "regions" in model.heads:
        head = "cls.imagePredictions"
        kept += rows(dense(f"{head}.transform.dense", "regions_head/dense"))
        kept += rows(norm(f"{head}.transform.LayerNorm", "regions_head/norm"))
        kept += rows(dense(f"{head}.decoder", "regions_head/object"))
    for head, name in SCORES.items():
        if head in model.heads:
            kept += rows(dense(name, f"{head}_head/scores"))
    for head, name in ANSWERS.items():
        if head in model.heads:
            kept += _answers(name, f"{head}_head", head == "answer" and model.scaled_answers)
    return Table(kept, renames)


def _answers(theirs: str, ours: str, scaled: bool) -> tuple[Row, ...]:
    """Rows of a head of answers."""
    if not scaled:
        return (
            *rows(dense(f"{theirs}.logit_fc.0", f"{ours}/up")),
            *rows(norm(f"{theirs}.logit_fc.2", f"{ours}/norm")),
            *rows(dense(f"{theirs}.logit_fc.3", f"{ours}/down")),
        )
    made: tuple[Row, ...] = ()
    for number, layer in (("0", "up"), ("3", "down")):
        kernel = dense(f"{theirs}.main.{number}", f"{ours}/{layer}")
        kernel[0] = (f"{theirs}.main.{number}.weight_v", *kernel[0][1:])
        made += rows(
            [*kernel, (f"{theirs}.main.{number}.weight_g", f"{ours}/{layer}/length", SAME)]
        )
    return made


def _streams(model: Vilbert, theirs: str) -> tuple[Row | Aside, ...]:
    """Rows of the streams, bridges and poolers, below a prefix of theirs."""
    text, image, depth = model.text, model.image, model.depth
    words, seen = f"{theirs}encoder.layer.{{n}}", f"{theirs}encoder.v_layer.{{n}}"
    places = f"{theirs}v_embeddings"
    made = (
        *bert_rows(text, theirs, "text/"),
        *rows(dense(f"{places}.image_embeddings", "image/features")),
        *rows(dense(f"{places}.image_location_embeddings", "image/boxes")),
        *rows(norm(f"{places}.LayerNorm", "image/embedding_norm")),
        *layers(f"{theirs}encoder.c_layer.{{n}}", "crossings", depth, BRIDGE),
        *layers(words, "crossings/text", depth, BLOCK, first=text.depth),
        *layers(seen, "crossings/image", depth, BLOCK, first=image.depth),
        *rows(dense(f"{theirs}t_pooler.dense", "text_pool")),
        *rows(dense(f"{theirs}v_pooler.dense", "image_pool")),
        Aside(r".*\.biOutput\.q_dense[12]\.(weight|bias)", "layers that no release calls"),
    )
    if isinstance(text, TaskBert):
        made += (Row(f"{theirs}{TASK}", "text/task_embedding"),)
    if image.depth:
        made += layers(seen, "image/blocks", image.depth, BLOCK)
    return made


FAMILY = Family("vilbert", model, table, config, fitted)
