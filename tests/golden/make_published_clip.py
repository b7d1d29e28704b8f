"""Writes published/clip*, from transformers: tiny CLIPs, as parity fixtures and as saved folders.

Run by hand where torch and transformers are installed: python tests/golden/make_published_clip.py
"""

import fixtures
import torch
from transformers import CLIPConfig, CLIPModel

TEXT = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 10,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 8,
}


def main():
    """The rule of the highest number with quick_gelu, the rule of end-of-text with gelu."""
    for name, act, eos, pad in (("clip", "quick_gelu", 2, 1), ("clip_gelu_eos", "gelu", 50, 50)):
        config = CLIPConfig(
            text_config={**TEXT, "hidden_act": act, "eos_token_id": eos, "pad_token_id": pad},
            vision_config={**VISION, "hidden_act": act},
            projection_dim=12,
            attn_implementation="eager",
        )
        torch.manual_seed(0)
        model = fixtures.shake(CLIPModel(config))
        ids = torch.randint(3, 49, (3, 10))
        mask = torch.ones(3, 10, dtype=torch.long)
        for row, length in enumerate((10, 6, 4)):
            ids[row, length - 1] = 59 if eos == 2 else eos
            ids[row, length:] = pad
            mask[row, length:] = 0
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "pixel_values": torch.randn(3, 3, 24, 24),
        }
        kwargs = {"return_loss": True, "output_hidden_states": True}
        out = model(**inputs, **kwargs)
        fixtures.write(name, model, config.to_dict(), inputs, fixtures.flat(out), kwargs, out.loss)
        model.save_pretrained(fixtures.PUBLISHED / name / "saved")


if __name__ == "__main__":
    main()
