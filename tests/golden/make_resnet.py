"""Writes resnet_*.npz and resnet_counts.json: tiny random ResNets of timm and open_clip.

Of each: weights, pictures, what it gives in evaluation and in training, the running statistics
after one step of training, and the norm of the loss's gradient by each weight. Run by hand where
torch, timm and open_clip_torch 3.3.0 are installed; torchvision is not needed, as empty modules
stand in for it:

  python tests/golden/make_resnet.py
"""

import json
import pathlib

import fixtures
import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent
PLAIN = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
CLIP = {"clip_rn50": "RN50", "clip_rn101": "RN101", "clip_rn50x4": "RN50x4"}
CLIP |= {"clip_rn50x16": "RN50x16", "clip_rn50x64": "RN50x64"}


def draw(model):
    """Random weights of few bits each, which a small file holds exactly."""
    for name, array in model.state_dict().items():
        if array.dtype != torch.float32:
            continue
        if name.endswith("running_var"):
            value = 0.5 + torch.rand(array.shape)
        elif array.ndim == 1:  # norms and biases: none of them may be mapped wrongly unseen
            value = 0.25 * torch.randn(array.shape)
            value += float(name.endswith("weight"))
        else:
            value = torch.randn(array.shape) * (1.5 / array[0].numel()) ** 0.5
        array.copy_(torch.round(value * 32) / 32)


def observe(name, model, features):
    """Writes resnet_`name`.npz; `features` gives the map of features of pictures."""
    torch.manual_seed(0)
    with torch.no_grad():
        draw(model)
    image = torch.randint(-6, 7, (3, 3, 64, 64)).to(torch.int8)
    pixels = image.float() / 4
    state = {f"state/{k}": v.half().numpy() for k, v in model.state_dict().items() if v.ndim}
    arrays = {**state, "image": image.numpy()}
    model.eval()
    with torch.no_grad():
        arrays["eval/out"], arrays["eval/features"] = model(pixels), features(pixels)
    model.train()
    out = model(pixels)
    loss = torch.nn.functional.cross_entropy(out, torch.arange(3))
    loss.backward()
    arrays |= {"train/out": out.detach(), "train/loss": loss.detach()}
    for key, value in model.state_dict().items():
        if "running" in key:
            arrays[f"after/{key}"] = value
    for key, value in model.named_parameters():
        arrays[f"grad/{key}"] = value.grad.norm()
    np.savez_compressed(
        FOLDER / f"resnet_{name}.npz", **{key: np.asarray(value) for key, value in arrays.items()}
    )


def main():
    """Makes all of it."""
    fixtures.without_torchvision()
    import open_clip
    import timm
    from open_clip.modified_resnet import ModifiedResNet
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet

    for name, block in (("basic", BasicBlock), ("bottleneck", Bottleneck)):
        model = ResNet(block, layers=(2, 1, 1, 1), channels=(4, 6, 8, 10), num_classes=7)
        observe(name, model, model.forward_features)
    model = ModifiedResNet((2, 1, 1, 1), output_dim=12, heads=4, image_size=64, width=4)
    observe("clip", model, lambda x: model.forward_intermediates(x)["image_intermediates"][-1])

    counts = {}
    with torch.device("meta"):
        for name in PLAIN:
            counts[name] = timm.create_model(name)
        for name, theirs in CLIP.items():
            fields = open_clip.get_model_config(theirs)
            counts[name] = open_clip.CLIP(
                fields["embed_dim"], fields["vision_cfg"], fields["text_cfg"]
            )
    counts = {k: sum(x.numel() for x in model.parameters()) for k, model in counts.items()}
    made_with = {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "open_clip_torch": open_clip.__version__,
    }
    text = json.dumps({"made_with": made_with, "counts": counts}, indent=2) + "\n"
    (FOLDER / "resnet_counts.json").write_text(text)


if __name__ == "__main__":
    main()
