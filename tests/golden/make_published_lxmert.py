"""Writes published/lxmert*, from transformers: tiny LXMERTs, as parity fixtures.

Run by hand where torch and transformers are installed: python tests/golden/make_published_lxmert.py
"""

import fixtures
import torch
from transformers import (
    LxmertConfig,
    LxmertForPreTraining,
    LxmertForQuestionAnswering,
    LxmertModel,
)

CONFIG = LxmertConfig(
    vocab_size=40,
    hidden_size=16,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=12,
    l_layers=2,
    x_layers=2,
    r_layers=1,
    visual_feat_dim=10,
    num_qa_labels=7,
    num_object_labels=6,
    num_attr_labels=5,
    attn_implementation="eager",
)
MODELS = {
    "lxmert": LxmertModel,
    "lxmert_pretrain": LxmertForPreTraining,
    "lxmert_vqa": LxmertForQuestionAnswering,
}


def pairs(config):
    """Three texts, a 0 in the first among its words, and regions; of different lengths."""
    ids = torch.randint(1, config.vocab_size, (3, 10))
    mask = torch.zeros(3, 10, dtype=torch.long)
    kinds = torch.zeros(3, 10, dtype=torch.long)
    seen = torch.ones(3, 5)
    for row, length in enumerate((10, 6, 4)):
        ids[row, length:] = 0
        mask[row, :length] = 1
        kinds[row, length // 2 : length] = 1
        seen[row, 5 - row :] = 0
    ids[0, 3] = 0
    corners = torch.rand(3, 5, 4)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": kinds,
        "visual_feats": torch.randn(3, 5, config.visual_feat_dim),
        "visual_pos": corners,
        "visual_attention_mask": seen,
    }


def labels(config, inputs):
    """Labels of all pretraining tasks, some of them not asked, some at padding."""
    words = torch.randint(1, config.vocab_size, (3, 10))
    words[torch.rand(3, 10) < 0.6] = -100
    words[1, 8] = 2
    objects = torch.randint(0, config.num_object_labels, (3, 5))
    objects[2, 1] = -100
    kinds = {
        "obj": objects,
        "attr": torch.randint(0, config.num_attr_labels, (3, 5)),
        "feat": 2 * torch.randn(3, 5, config.visual_feat_dim),
    }
    flat = {}
    for name, label in kinds.items():
        flat[f"obj_labels.{name}.label"] = label
        flat[f"obj_labels.{name}.conf"] = torch.rand(3, 5)
    return {
        "labels": words,
        "matched_label": torch.tensor([0, 1, 1]),
        "ans": torch.randint(0, config.num_qa_labels, (3,)),
        **flat,
    }


def main(config=CONFIG):
    """The trunk with its states and attention, and the losses of the heads."""
    for name, model in MODELS.items():
        torch.manual_seed(0)
        model = fixtures.shake(model(config))
        inputs = pairs(config)
        given, kwargs = dict(inputs), {"output_hidden_states": True, "output_attentions": True}
        if name == "lxmert_pretrain":
            inputs |= labels(config, inputs)
            asked = {}
            for key, value in inputs.items():
                _, _, rest = key.partition("obj_labels.")
                if rest:
                    asked.setdefault(rest.split(".")[0], []).append(value)
                else:
                    given[key] = value
            given["obj_labels"] = asked
        if name == "lxmert_vqa":
            given["labels"] = inputs["labels"] = torch.randint(0, config.num_qa_labels, (3,))
        out = model(**given, **kwargs)
        loss = out.get("loss")
        fixtures.write(name, model, config.to_dict(), inputs, fixtures.flat(out), kwargs, loss)


if __name__ == "__main__":
    main()
