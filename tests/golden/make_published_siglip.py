"""Writes published/siglip*, from transformers: tiny SigLIPs, as parity fixtures.

Run by hand where torch and transformers are installed: python tests/golden/make_published_siglip.py
"""

import fixtures
import torch
from transformers import SiglipConfig, SiglipModel

TEXT = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 8,
    "pad_token_id": 1,
    "bos_token_id": 48,
    "eos_token_id": 1,
}
VISION = {
    "intermediate_size": 28,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 19,  # no multiple of the patch: a last row and column of pixels is not seen
    "patch_size": 6,
}


def main():
    """Towers of one width, and a text tower that is projected to the pictures' width."""
    for name, width in (("siglip", 16), ("siglip_projected", 20)):
        config = SiglipConfig(
            text_config={**TEXT, "projection_size": width},
            vision_config={**VISION, "hidden_size": width},
            attn_implementation="eager",
        )
        torch.manual_seed(0)
        model = fixtures.shake(SiglipModel(config))
        ids = torch.randint(2, 50, (3, 8))
        for row, length in enumerate((8, 5, 3)):
            ids[row, length:] = 1
        inputs = {"input_ids": ids, "pixel_values": torch.randn(3, 3, 19, 19)}
        kwargs = {"return_loss": True, "output_hidden_states": True}
        kwargs = kwargs if name == "siglip" else {}  # the loss and its gradient once
        out = model(**inputs, **kwargs)
        fixtures.write(name, model, config.to_dict(), inputs, fixtures.flat(out), kwargs, out.loss)


if __name__ == "__main__":
    main()
