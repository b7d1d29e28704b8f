"""Writes published/resnet_* and published/open_clip_modified_resnet, from timm and open_clip.

Tiny models, as parity fixtures. Run by hand where torch, timm and open_clip are installed:
python tests/golden/make_published_resnet.py
"""

import fixtures
import torch

TEXT = {"context_length": 6, "heads": 2, "layers": 1, "vocab_size": 30, "width": 16}
VISION = {"head_width": 16, "image_size": 64, "layers": [2, 1, 1, 1], "width": 2}
STEM = "7x7 s2 p3 64 + maxpool 3 s2 p1"


def main():
    """One with each kind of block, and CLIP's."""
    fixtures.without_torchvision()
    from open_clip.model import CLIP
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet

    sizes = {"channels": [4, 6, 8, 10], "layers": [2, 1, 1, 1], "num_classes": 7}
    for name, block in (("resnet_basic", BasicBlock), ("resnet_bottleneck", Bottleneck)):
        torch.manual_seed(0)
        model = fixtures.shake(ResNet(block, **sizes))
        image = torch.randn(2, 3, 40, 40)  # odd sides on the way down
        with torch.no_grad():
            outputs = {"logits": model(image), "features": model.forward_features(image)}
        outputs = {key: value.numpy() for key, value in outputs.items()}
        config = {"block": block.__name__, **sizes, "stem": STEM}
        fixtures.write(name, model, config, {"image": image}, outputs)

    config = {"embed_dim": 12, "quick_gelu": True, "text_cfg": TEXT, "vision_cfg": VISION}
    torch.manual_seed(0)
    model = fixtures.shake(CLIP(**config))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        layers = model.visual.forward_intermediates(image)["image_intermediates"]
        outputs = {"image_unnorm": model.encode_image(image).numpy(), "layer4": layers[-1].numpy()}
    fixtures.write("open_clip_modified_resnet", model, config, {"image": image}, outputs)


if __name__ == "__main__":
    main()
