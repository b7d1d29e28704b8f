"""Writes published/vit*, from transformers: tiny ViTs, as parity fixtures and as saved folders.

Run by hand where torch and transformers are installed: python tests/golden/make_published_vit.py
"""

import fixtures
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTModel

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 18,
    "patch_size": 6,
}


def main():
    """One with a pooler of another width, one with a classifier."""
    for name, kind, more in (
        ("vit", ViTModel, {"pooler_output_size": 12}),
        ("vit_classifier", ViTForImageClassification, {"num_labels": 5}),
    ):
        config = ViTConfig(**SIZES, **more, attn_implementation="eager")
        config.architectures = [kind.__name__]
        torch.manual_seed(0)
        model = fixtures.shake(kind(config))
        inputs = {"pixel_values": torch.randn(2, 3, 18, 18)}
        kwargs = {"output_hidden_states": True}
        out = model(**inputs, **kwargs)
        fixtures.write(name, model, config.to_dict(), inputs, fixtures.flat(out), kwargs)
        model.save_pretrained(fixtures.PUBLISHED / name / "saved")


if __name__ == "__main__":
    main()
