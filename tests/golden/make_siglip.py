"""Writes siglip.npz: a tiny SigLIP of random weights, its inputs and outputs, from transformers.

Run by hand where torch and transformers are installed: python tests/golden/make_siglip.py
"""

import pathlib

import numpy as np
import torch
from transformers import SiglipConfig, SiglipModel

TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG = SiglipConfig(
    text_config={
        **TOWER,
        "intermediate_size": 64,
        "vocab_size": 60,
        "max_position_embeddings": 8,
        "bos_token_id": 57,
        "eos_token_id": 1,
        "pad_token_id": 1,
    },
    # 26 is no multiple of 8: the last two rows and columns of pixels are not seen.
    vision_config={**TOWER, "intermediate_size": 72, "image_size": 26, "patch_size": 8},
)
LENGTHS = (8, 5, 3)


def main():
    """Draws weights and inputs, runs the model, saves all of it."""
    torch.manual_seed(0)
    model = SiglipModel(CONFIG).eval()
    with torch.no_grad():
        for array in model.parameters():
            # Random biases and norms too, so that none of them can be mapped wrongly unseen.
            array.add_(0.1 * torch.randn_like(array))
        model.logit_scale.fill_(np.log(10.0))
        model.logit_bias.fill_(-10.0)
    ids = torch.randint(2, 57, (3, 8))
    for row, length in enumerate(LENGTHS):
        ids[row, length - 1 :] = 1
    pixels = torch.randn(3, 3, 26, 26)
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=pixels, return_loss=True, output_hidden_states=True)
    arrays = {f"state/{name}": array for name, array in model.state_dict().items()}
    arrays |= {"input_ids": ids, "pixel_values": pixels}
    for name in ("loss", "logits_per_image", "image_embeds", "text_embeds"):
        arrays[f"out/{name}"] = out[name]
    for tower in ("vision", "text"):
        output = out[f"{tower}_model_output"]
        arrays[f"out/{tower}_hidden_states"] = torch.stack(output.hidden_states)
        arrays[f"out/{tower}_last_hidden_state"] = output.last_hidden_state
    path = pathlib.Path(__file__).with_name("siglip.npz")
    np.savez_compressed(path, **{name: array.numpy() for name, array in arrays.items()})


if __name__ == "__main__":
    main()
