"""Writes efficientnet.npz: a tiny EfficientNet of random weights, from transformers' ALIGN.

Run by hand where torch and transformers are installed: python tests/golden/make_efficientnet.py
"""

import pathlib

import numpy as np
import torch
from transformers import AlignVisionConfig, AlignVisionModel

# An odd side, a strided block of either padding, stages of two blocks, rounded channels.
CONFIG = AlignVisionConfig(
    image_size=27,
    width_coefficient=0.5,
    depth_coefficient=1.5,
    in_channels=[32, 16, 24],
    out_channels=[16, 24, 20],
    kernel_sizes=[3, 5, 3],
    strides=[1, 2, 2],
    num_block_repeats=[1, 1, 1],
    expand_ratios=[1, 3, 2],
    depthwise_padding=[4],
    hidden_dim=16,
)


def spread(model):
    """Random biases, norms and statistics, so that none can be mapped wrongly unseen.

    Kernels become so large that pictures stay apart.
    """
    with torch.no_grad():
        for array in model.parameters():
            deviation = 1.5 / array[0].numel() ** 0.5 if array.ndim > 1 else 0.1
            array.add_(deviation * torch.randn_like(array))
        for name, array in model.named_buffers():
            if name.endswith("running_mean"):
                array.copy_(0.1 * torch.randn_like(array))
            if name.endswith("running_var"):
                array.copy_(0.5 + torch.rand_like(array))


def main():
    """Draws weights, statistics and inputs, runs the model, saves all of it."""
    torch.manual_seed(0)
    model = AlignVisionModel(CONFIG).eval()
    spread(model)
    pixels = torch.randn(2, 3, 27, 27)
    out = model(pixel_values=pixels, output_hidden_states=True)
    weights = torch.randn_like(out.pooler_output)
    (out.pooler_output * weights).sum().backward()
    arrays = {f"state/{name}": array for name, array in model.state_dict().items()}
    arrays |= {f"grad_norm/{name}": x.grad.norm() for name, x in model.named_parameters()}
    arrays |= {f"out/hidden_states.{n}": x for n, x in enumerate(out.hidden_states)}
    arrays |= {
        "pixel_values": pixels,
        "weights": weights,
        "out/last_hidden_state": out.last_hidden_state,
        "out/pooler_output": out.pooler_output,
    }
    path = pathlib.Path(__file__).with_name("efficientnet.npz")
    np.savez_compressed(path, **{name: x.detach().numpy() for name, x in arrays.items()})


if __name__ == "__main__":
    main()
