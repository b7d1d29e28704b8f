"""Writes published/vilbert*: tiny ViLBERTs of both releases, as parity fixtures.

The reference is vilbert_reference.py beside this file.

Run by hand where torch is installed: python tests/golden/make_published_vilbert.py
"""

import fixtures
import torch
from vilbert_reference import Reference

CONFIG = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "v_feature_size": 10,
    "v_target_size": 6,
    "v_hidden_size": 20,
    "v_num_hidden_layers": 3,
    "v_num_attention_heads": 2,
    "v_intermediate_size": 12,
    "v_hidden_act": "gelu",
    "v_hidden_dropout_prob": 0.1,
    "v_attention_probs_dropout_prob": 0.1,
    "v_initializer_range": 0.02,
    "bi_hidden_size": 8,
    "bi_num_attention_heads": 2,
    "bi_intermediate_size": 8,
    "bi_attention_type": 1,
    "t_biattention_id": [1, 2],
    "v_biattention_id": [1, 2],
    "fast_mode": False,
    "fixed_t_layer": 0,
    "fixed_v_layer": 0,
    "fusion_method": "mul",
    "in_batch_pairs": False,
    "pooling_method": "mul",
    "with_coattention": True,
}
RELEASES = {
    "vilbert": {
        "dynamic_attention": False,
        "model": "bert",
        "num_negative": 128,
        "objective": 0,
        "task_specific_tokens": False,
        "visual_target": 0,
        "visualization": False,
    },
    "vilbert_beta": {"intra_gate": False, "predict_feature": False},
}
KINDS = {
    "base": "BertModel",
    "model": "BertModel",
    "pretrain": "BertForMultiModalPreTraining",
    "tasks": "VILBertForVLTasks",
}
REFERENCES = {"vilbert": "vilbert_multi_task", "vilbert_beta": "vilbert_beta"}
# Equal to the later release's in every array and number, so once is enough.
LEAVE = ("vilbert_beta_base", "vilbert_beta_pretrain")


def pairs(config, rows=4, length=10, regions=5):
    """Texts, a 0 in the first among its words, and regions; of different lengths."""
    ids = torch.randint(1, config["vocab_size"], (rows, length))
    mask = torch.zeros(rows, length, dtype=torch.long)
    kinds = torch.zeros(rows, length, dtype=torch.long)
    seen = torch.ones(rows, regions, dtype=torch.long)
    for row in range(rows):
        words = length - 2 * row
        ids[row, words:] = 0
        mask[row, :words] = 1
        kinds[row, words // 2 : words] = 1
        seen[row, regions - row % 3 :] = 0
    ids[0, 3] = 0
    features = torch.randn(rows, regions, config["v_feature_size"])
    features[:, 0] = features[:, 1:].mean(1)
    places = torch.rand(rows, regions, 5)
    places[:, 0] = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": kinds,
        "image_feat": features,
        "image_loc": places,
        "image_attention_mask": seen,
    }


def labels(config, inputs):
    """Labels of pretraining, some words at padding; one class of a region is impossible."""
    rows, length = inputs["input_ids"].shape
    regions = inputs["image_feat"].shape[1] - 1
    words = torch.randint(1, config["vocab_size"], (rows, length))
    words[torch.rand(rows, length) < 0.6] = -1
    words[1, length - 1] = 2
    shares = torch.randn(rows, regions, config["v_target_size"]).softmax(-1)
    shares[0, 0, 0] = 0.0
    return {
        "masked_lm_labels": words,
        "image_label": torch.where(torch.rand(rows, regions) < 0.5, 1, -1),
        "image_target": shares,
        "next_sentence_label": torch.arange(rows) % 2,
    }


def main(config=CONFIG, releases=RELEASES, leave=LEAVE, **sizes):
    """The classes of both releases, but for those that are left."""
    for release, more in releases.items():
        for name, kind in KINDS.items():
            if f"{release}_{name}" in leave:
                continue
            torch.manual_seed(0)
            whole = {**config, **more}
            model = Reference(whole, kind, release == "vilbert_beta")
            inputs = pairs(whole, **sizes)
            kwargs = {"output_all_encoded_layers": True} if name == "base" else {}
            if name == "pretrain":
                inputs |= labels(whole, inputs)
            if name == "tasks":
                inputs["image_attention_mask"] = inputs["image_attention_mask"].float()
            out = model(inputs, every=bool(kwargs))
            reference = f"{REFERENCES[release]}.{kind}"
            outputs, loss = fixtures.flat(out), out.get("loss")
            folder = f"{release}_{name}"
            fixtures.write(folder, model, whole, inputs, outputs, kwargs, loss, reference)
    torch.manual_seed(0)
    told = {**config, **releases["vilbert"], "task_specific_tokens": True}
    model, inputs = Reference(told, "BertModel", False), pairs(told, **sizes)
    inputs["task_ids"] = torch.tensor([[0], [2], [1], [2]])
    outputs = fixtures.flat(model(inputs))
    del outputs["sequence_output_t"]  # a token longer than ours, which leaves the task's out
    reference = "vilbert_multi_task.BertModel"
    fixtures.write("vilbert_task_tokens", model, told, inputs, outputs, reference=reference)


if __name__ == "__main__":
    main()
