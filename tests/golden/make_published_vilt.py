"""Writes published/vilt*, from transformers: tiny ViLTs with each of their heads.

Run by hand where torch and transformers are installed: python tests/golden/make_published_vilt.py

The reference draws the order of a picture's patches at random, which nothing but the order of its
tokens depends on; here they stay in reading order.
"""

import fixtures
import torch
from transformers import (
    ViltConfig,
    ViltForImageAndTextRetrieval,
    ViltForImagesAndTextClassification,
    ViltForMaskedLM,
    ViltForQuestionAnswering,
    ViltModel,
)

CONFIG = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
    "image_size": 12,
    "patch_size": 4,
    "attn_implementation": "eager",
}
SAVED = ("vilt", "vilt_mlm")  # published files, to compare names
LENGTH, ANSWERS = 8, 7
HEIGHT, WIDTH = 12, 20  # of the padded pictures
SHAPES = ((8, 16), (12, 8), (4, 20))  # of the pictures themselves


def in_order(weights, number, replacement=False):
    """Stands for torch.multinomial: the first ones in their order."""
    del weights, replacement
    return torch.arange(int(number))


def words(config, *pictures):
    """Three texts of different lengths with pictures of different shapes."""
    ids = torch.randint(1, config.vocab_size, (3, LENGTH))
    mask = torch.zeros(3, LENGTH, dtype=torch.long)
    kinds = torch.zeros(3, LENGTH, dtype=torch.long)
    pixels = torch.randn(3, *pictures, 3, HEIGHT, WIDTH)
    seen = torch.zeros(3, *pictures, HEIGHT, WIDTH, dtype=torch.long)
    for row, length in enumerate((LENGTH, 5, 3)):
        mask[row, :length] = 1
        kinds[row, length // 2 : length] = 1
        for number in range(pictures[0] if pictures else 1):
            height, width = SHAPES[(row + number) % 3]
            (seen[row, number] if pictures else seen[row])[:height, :width] = 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": kinds,
        "pixel_values": pixels,
        "pixel_mask": seen,
    }


def examples():
    """(folder, class, fields of its config, inputs beside the words, flags) of each."""
    masked = torch.randint(1, CONFIG["vocab_size"], (3, LENGTH))
    masked[torch.rand(3, LENGTH) < 0.5] = -100
    shares = torch.rand(3, ANSWERS) * (torch.rand(3, ANSWERS) < 0.5)
    states = {"output_hidden_states": True, "output_attentions": True}
    pairs = {"num_images": 2, "modality_type_vocab_size": 3}
    return (
        ("vilt", ViltModel, {}, {}, states),
        ("vilt_itm", ViltForImageAndTextRetrieval, {}, {}, {}),
        ("vilt_mlm", ViltForMaskedLM, {}, {"labels": masked}, {}),
        ("vilt_vqa", ViltForQuestionAnswering, {"num_labels": ANSWERS}, {"labels": shares}, {}),
        (
            "vilt_nlvr",
            ViltForImagesAndTextClassification,
            pairs,
            {"labels": torch.tensor([0, 1, 1])},
            {},
        ),
    )


def main():
    """The tower with its states, and the scores and losses of the heads."""
    torch.manual_seed(0)
    torch.multinomial = in_order
    for name, kind, fields, more, kwargs in examples():
        config = ViltConfig(**CONFIG, **fields)
        model = fixtures.shake(kind(config))
        inputs = {**words(config, *([2] if "num_images" in fields else [])), **more}
        out = model(**inputs, **kwargs)
        made = {**config.to_dict(), "architectures": [kind.__name__]}
        fixtures.write(name, model, made, inputs, fixtures.flat(out), kwargs, out.get("loss"))
        if name in SAVED:
            model.save_pretrained(fixtures.PUBLISHED / name / "saved")


if __name__ == "__main__":
    main()
