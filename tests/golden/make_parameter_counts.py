"""Writes parameter_counts.json: how many parameters the published reference classes have.

Run by hand where torch and transformers are installed; nothing is downloaded and, on torch's meta
device, no memory is filled:

    python tests/golden/make_parameter_counts.py
"""

import json
import pathlib

import torch
import transformers
from transformers import (
    AlignVisionConfig,
    AlignVisionModel,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    LxmertConfig,
    LxmertForPreTraining,
    SiglipConfig,
    SiglipModel,
    ViltConfig,
    ViltForMaskedLM,
    ViltForQuestionAnswering,
    VisualBertConfig,
    VisualBertForPreTraining,
)

WIDE = {"hidden_size": 1024, "intermediate_size": 4096}
SIGLIP_L = {**WIDE, "num_hidden_layers": 24, "num_attention_heads": 16}
SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
}
CLIP_L_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}

# The values that differ from the classes' defaults in the models' published configurations.
MODELS = {
    "clip_vit_b32": (CLIPModel, CLIPConfig()),
    "clip_vit_b16": (CLIPModel, CLIPConfig(vision_config={"patch_size": 16})),
    "clip_vit_l14": (
        CLIPModel,
        CLIPConfig(
            vision_config={**SIGLIP_L, "patch_size": 14},
            text_config=CLIP_L_TEXT,
            projection_dim=768,
        ),
    ),
    "siglip_b16": (SiglipModel, SiglipConfig()),
    "siglip_l16": (
        SiglipModel,
        SiglipConfig(vision_config={**SIGLIP_L, "image_size": 256}, text_config=SIGLIP_L),
    ),
    "siglip_so400m14": (
        SiglipModel,
        SiglipConfig(
            vision_config={**SO400M, "patch_size": 14, "image_size": 384}, text_config=SO400M
        ),
    ),
}

TOWERS = {
    "bert_base": (BertModel, BertConfig()),
    "bert_large": (
        BertModel,
        BertConfig(**WIDE, num_hidden_layers=24, num_attention_heads=16),
    ),
    "efficientnet_b7": (AlignVisionModel, AlignVisionConfig()),
    "lxmert": (LxmertForPreTraining, LxmertConfig()),
    "vilt_mlm": (ViltForMaskedLM, ViltConfig()),
    "vilt_vqa": (ViltForQuestionAnswering, ViltConfig(num_labels=3129)),
    "visualbert": (VisualBertForPreTraining, VisualBertConfig(visual_embedding_dim=2048)),
}


def count(models):
    """{name: number of parameters}."""
    counts = {}
    for name, (model, config) in models.items():
        with torch.device("meta"):
            counts[name] = sum(array.numel() for array in model(config).parameters())
    return counts


def main():
    """Counts each model."""
    made_with = {"torch": torch.__version__, "transformers": transformers.__version__}
    path = pathlib.Path(__file__).with_name("parameter_counts.json")
    made = {"made_with": made_with, "counts": count(MODELS), "towers": count(TOWERS)}
    path.write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
