"""Writes word_patch.npz: words and patches, and what ViLT's own code says they cost.

Run by hand where torch is installed, with the functions of dandelin/ViLT,
vilt/modules/objectives.py, in a file objectives.py of the folder given:
python tests/golden/make_word_patch.py FOLDER
"""

import pathlib
import sys

import numpy as np
import torch

ROWS, WORDS, PATCHES, WIDTH = 4, 7, 9, 8


def main(folder: str) -> None:
    """Random vectors with padding; the first and last word and the first patch count nothing."""
    sys.path.insert(0, folder)
    from objectives import optimal_transport_dist

    draw = torch.Generator().manual_seed(0)
    text = torch.randn(ROWS, WORDS, WIDTH, generator=draw).requires_grad_()
    image = torch.randn(ROWS, PATCHES, WIDTH, generator=draw).requires_grad_()
    words, patches = torch.tensor([[7], [4], [3], [6]]), torch.tensor([[9], [5], [2], [7]])
    text_mask, image_mask = torch.arange(WORDS) < words, torch.arange(PATCHES) < patches
    places = torch.arange(WORDS)
    no_word = ~text_mask | (places == 0) | (places == words - 1)
    no_patch = ~image_mask | (torch.arange(PATCHES) == 0)
    costs = optimal_transport_dist(text, image, no_word, no_patch, 0.5, 50, 1)
    weights = torch.arange(1.0, ROWS + 1)
    (costs * weights).sum().backward()
    made = {"text": text, "image": image, "text_mask": text_mask, "image_mask": image_mask}
    made |= {"costs": costs, "weights": weights, "d_text": text.grad, "d_image": image.grad}
    path = pathlib.Path(__file__).with_name("word_patch.npz")
    np.savez_compressed(path, **{name: x.detach().numpy() for name, x in made.items()})


if __name__ == "__main__":
    main(sys.argv[1])
