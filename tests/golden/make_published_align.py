"""Writes published/align, from transformers: a tiny ALIGN, as a parity fixture and a saved folder.

Run by hand where torch and transformers are installed: python tests/golden/make_published_align.py
"""

import fixtures
import torch
from make_efficientnet import CONFIG as VISION
from make_efficientnet import spread
from make_published_bert import CONFIG as BERT
from make_published_bert import texts
from make_published_chinese_clip import SHARED
from transformers import AlignConfig, AlignModel


def main():
    """A tiny model and the loss of three pairs."""
    config = AlignConfig(
        text_config={name: getattr(BERT, name) for name in SHARED},
        vision_config=VISION.to_dict(),
        projection_dim=16,
        temperature_init_value=0.3,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = fixtures.shake(AlignModel(config))
    spread(model.vision_model)
    inputs = {**texts(), "pixel_values": torch.randn(3, 3, 27, 27)}
    kwargs = {"return_loss": True}
    out = model(**inputs, **kwargs)
    outputs = fixtures.flat(out)
    fixtures.write("align", model, config.to_dict(), inputs, outputs, kwargs, out.loss)
    model.save_pretrained(fixtures.PUBLISHED / "align" / "saved")


if __name__ == "__main__":
    main()
