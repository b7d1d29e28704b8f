"""Writes published/open_clip*, from open_clip: tiny models, as parity fixtures.

Run by hand where torch and open_clip are installed:
python tests/golden/make_published_open_clip.py
"""

import fixtures
import torch

TEXT = {"context_length": 10, "heads": 4, "layers": 2, "vocab_size": 60, "width": 24}
VISION = {"head_width": 8, "image_size": 24, "layers": 3, "patch_size": 8, "width": 16}


def main():
    """One with each activation."""
    fixtures.without_torchvision()
    from open_clip.model import CLIP

    for name, quick in (("open_clip", True), ("open_clip_gelu", False)):
        config = {"embed_dim": 12, "quick_gelu": quick, "text_cfg": TEXT, "vision_cfg": VISION}
        torch.manual_seed(0)
        model = fixtures.shake(CLIP(**config))
        image, text = torch.randn(3, 3, 24, 24), torch.randint(1, 58, (3, 10))
        for row, length in enumerate((10, 6, 4)):
            text[row, length - 1] = 59
            text[row, length:] = 0
        unnormalised = model.encode_image(image), model.encode_text(text)
        image_features, text_features, scale = model(image, text)
        outputs = {
            "image_features": image_features,
            "text_features": text_features,
            "logit_scale_exp": scale,
            "image_unnorm": unnormalised[0],
            "text_unnorm": unnormalised[1],
            "logits_per_image": scale * image_features @ text_features.T,
        }
        outputs = {key: value.detach().numpy() for key, value in outputs.items()}
        fixtures.write(name, model, config, {"image": image, "text": text}, outputs)


if __name__ == "__main__":
    main()
