"""Writes positions.npz: position tables resized for pictures of many shapes, by transformers.

Run by hand where torch and transformers are installed: python tests/golden/make_positions.py
"""

import pathlib

import numpy as np
import torch
from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionEmbeddings

LENGTH = 36
# No picture of one column and several rows: for it torch 2.13 repeats the first row on a CPU.
# Fewer and more patches than the table's on one side or on both; all of the length and one.
GRIDS = ((4, 4), (1, 1), (1, 36), (18, 2), (6, 6), (2, 3), (3, 7), (9, 4), (5, 2), (2, 17))


def main():
    """Tables of several sides, two numbers a position."""
    arrays = {"grids": np.array(GRIDS, np.int32)}
    for side in (3, 4, 16):
        table = np.random.default_rng(side).normal(size=(side * side, 2)).astype(np.float32)
        arrays[f"table_{side}"] = table
        made = Siglip2VisionEmbeddings.resize_positional_embeddings(
            torch.tensor(table).reshape(side, side, 2), torch.tensor(GRIDS), LENGTH
        )
        arrays[f"resized_{side}"] = made.numpy()
    np.savez_compressed(pathlib.Path(__file__).with_name("positions.npz"), **arrays)


if __name__ == "__main__":
    main()
