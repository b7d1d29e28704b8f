"""Writes published/siglip2_naflex, from transformers: a tiny SigLIP 2 NaFlex, as a parity fixture.

Run by hand where torch and transformers are installed:
python tests/golden/make_published_siglip2.py
"""

import fixtures
import torch
from transformers import Siglip2Config, Siglip2Model

TOWER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES = ((2, 5), (4, 3), (1, 2))  # of 12 patches at most; the table is 3 by 3


def main():
    """Pictures of three shapes, the second without padding."""
    config = Siglip2Config(
        text_config={
            **TOWER,
            "intermediate_size": 24,
            "vocab_size": 50,
            "max_position_embeddings": 8,
            "bos_token_id": 48,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        vision_config={**TOWER, "intermediate_size": 28, "patch_size": 4, "num_patches": 9},
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = fixtures.shake(Siglip2Model(config))
    ids = torch.randint(2, 48, (3, 8))
    mask = torch.zeros(3, 12, dtype=torch.long)
    for row, (length, (rows, columns)) in enumerate(zip((8, 5, 3), SHAPES, strict=True)):
        ids[row, length:] = 1
        mask[row, : rows * columns] = 1
    inputs = {
        "input_ids": ids,
        "pixel_values": torch.randn(3, 12, 48) * mask[..., None],
        "pixel_attention_mask": mask,
        "spatial_shapes": torch.tensor(SHAPES),
    }
    kwargs = {"return_loss": True, "output_hidden_states": True}
    out = model(**inputs, **kwargs)
    outputs = fixtures.flat(out)
    fixtures.write("siglip2_naflex", model, config.to_dict(), inputs, outputs, kwargs, out.loss)


if __name__ == "__main__":
    main()
