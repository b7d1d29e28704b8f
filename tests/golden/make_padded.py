"""Writes padded.npz: pictures prepared by transformers' processor of ViLT, Pillow's form.

Run by hand where torch and transformers are installed: python tests/golden/make_padded.py
"""

import pathlib

import numpy as np
from transformers.models.vilt.image_processing_pil_vilt import (
    ViltImageProcessorPil,
    get_resize_output_image_size,
)

# Square, wide, tall, longer than is allowed, and of the right size.
SHAPES = ((30, 41), (40, 26), (20, 20), (9, 60), (70, 11), (16, 24))
SIDES = (31, 100, 255, 256, 257, 333, 480, 640, 1000)


def main():
    """Pixels after normalisation and masks at a tiny size, and sizes at the published one."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in SHAPES]
    processor = ViltImageProcessorPil(size={"shortest_edge": 16}, size_divisor=4)
    made = processor(images=images, return_tensors="np")
    longer = int(1333 / 800 * 384)
    sizes = [
        (height, width, *get_resize_output_image_size(np.zeros((3, height, width)), 384, longer))
        for height in SIDES
        for width in SIDES
        if max(height, width) < 19 * min(height, width)
    ]
    arrays = {f"image{n}": image for n, image in enumerate(images)}
    arrays |= {name: np.asarray(array) for name, array in made.items()}
    arrays["sizes"] = np.array(sizes, np.int32)
    np.savez_compressed(pathlib.Path(__file__).with_name("padded.npz"), **arrays)


if __name__ == "__main__":
    main()
