"""Writes naflex.npz: pictures prepared by transformers' processor of SigLIP 2, Pillow's form.

Run by hand where torch and transformers are installed: python tests/golden/make_naflex.py
"""

import pathlib

import numpy as np
from transformers.models.siglip2.image_processing_pil_siglip2 import (
    Siglip2ImageProcessorPil,
    get_image_size_for_max_num_patches,
)

# Larger and smaller than what fits, square, long, thin, and one of the right size.
SHAPES = ((30, 41), (9, 6), (50, 50), (5, 90), (61, 7), (12, 16))
SIDES = (1, 7, 16, 100, 255, 256, 257, 333, 480, 640, 1000, 4000)
LIMITS = ((16, 256), (16, 1024), (14, 100))


def main():
    """Pixels after normalisation at a tiny size, and grids at the published ones."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in SHAPES]
    processor = Siglip2ImageProcessorPil(patch_size=4, max_num_patches=12)
    made = processor(images=images, return_tensors="np")
    grids = [
        (
            height,
            width,
            side,
            limit,
            *get_image_size_for_max_num_patches(height, width, side, limit),
        )
        for side, limit in LIMITS
        for height in SIDES
        for width in SIDES
    ]
    arrays = {f"image{n}": image for n, image in enumerate(images)}
    arrays |= {name: np.asarray(array) for name, array in made.items()}
    arrays["sizes"] = np.array(grids, np.int32)
    np.savez_compressed(pathlib.Path(__file__).with_name("naflex.npz"), **arrays)


if __name__ == "__main__":
    main()
