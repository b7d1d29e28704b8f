"""Writes published/chinese_clip, from transformers, as a parity fixture and as a saved folder.

Run by hand where torch and transformers are installed:

    python tests/golden/make_published_chinese_clip.py
"""

import fixtures
import torch
from make_published_bert import CONFIG as BERT
from make_published_bert import texts
from transformers import ChineseCLIPConfig, ChineseCLIPModel

VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
SHARED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)


def main():
    """A tiny model and the loss of three pairs."""
    config = ChineseCLIPConfig(
        text_config={name: getattr(BERT, name) for name in SHARED},
        vision_config=VISION,
        projection_dim=12,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = fixtures.shake(ChineseCLIPModel(config))
    inputs = {**texts(), "pixel_values": torch.randn(3, 3, 16, 16)}
    kwargs = {"return_loss": True}
    out = model(**inputs, **kwargs)
    outputs = fixtures.flat(out)
    fixtures.write("chinese_clip", model, config.to_dict(), inputs, outputs, kwargs, out.loss)
    model.save_pretrained(fixtures.PUBLISHED / "chinese_clip" / "saved")


if __name__ == "__main__":
    main()
