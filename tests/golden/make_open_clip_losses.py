"""Makes open_clip_losses.npz: values and gradients of open_clip's losses on fixed embeddings.

Run in an environment with torch and open_clip_torch 3.3.0; torchvision is not needed, since only
the file of the losses is loaded:

  python tests/golden/make_open_clip_losses.py
"""

import importlib.metadata
import importlib.util
import math
import pathlib

import numpy as np
import torch

VERSION = "3.3.0"


def losses_of_open_clip():
    found = importlib.metadata.version("open_clip_torch")
    if found != VERSION:
        raise SystemExit(f"open_clip_torch {found} is installed, the golden is of {VERSION}.")
    folder = importlib.util.find_spec("open_clip").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("losses", pathlib.Path(folder) / "loss.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    losses = losses_of_open_clip()
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 16, 24))
    text = text + 0.4 * image  # so that some rows are right and some are wrong
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    image, text = image.astype(np.float32), text.astype(np.float32)
    arrays = {"image": image, "text": text}
    for name, loss, scale, bias in (
        ("clip_start", losses.ClipLoss(), 1 / 0.07, None),
        ("clip_100", losses.ClipLoss(), 100.0, None),
        ("siglip_start", losses.SigLipLoss(), 10.0, -10.0),
        ("siglip_100", losses.SigLipLoss(), 100.0, -3.0),
    ):
        values = {"image": image, "text": text, "log_scale": math.log(scale)}
        if bias is not None:
            values["bias"] = bias
        leaves = {
            key: torch.tensor(value, dtype=torch.float64, requires_grad=True)
            for key, value in values.items()
        }
        further = {"logit_bias": leaves["bias"]} if bias is not None else {}
        total = loss(leaves["image"], leaves["text"], leaves["log_scale"].exp(), **further)
        total.backward()
        arrays[f"{name}/log_scale"] = np.float64(values["log_scale"])
        if bias is not None:
            arrays[f"{name}/bias"] = np.float64(bias)
        arrays[f"{name}/loss"] = total.detach().numpy()
        for key, leaf in leaves.items():
            arrays[f"{name}/gradient/{key}"] = leaf.grad.numpy()
        print(name, float(total.detach()))
    np.savez_compressed(pathlib.Path(__file__).with_name("open_clip_losses.npz"), **arrays)


if __name__ == "__main__":
    main()
