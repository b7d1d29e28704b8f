"""Writes clip.npz: a tiny CLIP of random weights, its inputs and outputs, from transformers.

Run by hand where torch and transformers are installed: python tests/golden/make_clip.py
"""

import pathlib

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel

TOWER = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_act": "quick_gelu"}
CONFIG = CLIPConfig(
    text_config={
        **TOWER,
        "hidden_size": 24,
        "intermediate_size": 48,
        "vocab_size": 60,
        "max_position_embeddings": 10,
        "bos_token_id": 57,
        "eos_token_id": 58,
        "pad_token_id": 0,
    },
    vision_config={
        **TOWER,
        "hidden_size": 32,
        "intermediate_size": 64,
        "image_size": 24,
        "patch_size": 8,
    },
    projection_dim=16,
)
LENGTHS = (10, 6, 4)


def main():
    """Draws weights and inputs, runs the model, saves all of it."""
    torch.manual_seed(0)
    model = CLIPModel(CONFIG).eval()
    with torch.no_grad():
        for name, array in model.named_parameters():
            # Random biases and norms too, so that none of them can be mapped wrongly unseen.
            if name != "logit_scale":
                array.add_(0.1 * torch.randn_like(array))
    ids = torch.randint(1, 57, (3, 10))
    mask = torch.zeros(3, 10, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        ids[row, 0] = 57
        ids[row, length - 1] = 58
        ids[row, length:] = 0
        mask[row, :length] = 1
    pixels = torch.randn(3, 3, 24, 24)
    with torch.no_grad():
        out = model(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=pixels,
            return_loss=True,
            output_hidden_states=True,
        )
    arrays = {f"state/{name}": array for name, array in model.state_dict().items()}
    arrays |= {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
    for name in ("loss", "logits_per_image", "image_embeds", "text_embeds"):
        arrays[f"out/{name}"] = out[name]
    for tower in ("vision", "text"):
        states = out[f"{tower}_model_output"].hidden_states
        arrays[f"out/{tower}_hidden_states"] = torch.stack(states)
    path = pathlib.Path(__file__).with_name("clip.npz")
    np.savez_compressed(path, **{name: array.numpy() for name, array in arrays.items()})


if __name__ == "__main__":
    main()
