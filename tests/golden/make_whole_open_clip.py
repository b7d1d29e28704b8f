"""Writes whole/open_clip: a tiny CLIP in a folder as open_clip publishes them, with its tokenizer.

Beside it stand pictures, texts and what the reference makes of them: open_clip's own model and its
own SimpleTokenizer, on a vocabulary trained here. Its picture transform needs torchvision, so the
pictures go through Pillow by the same rule. Run by hand where torch, transformers and open_clip
are installed: python tests/golden/make_whole_open_clip.py
"""

import gzip
import json
import pathlib
import tempfile

import fixtures
import numpy as np
import tokenizers
import torch
from make_whole_clip import TEXTS, WORDS
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTokenizer

FOLDER = pathlib.Path(__file__).parent / "whole" / "open_clip"
SIZE = 24
LENGTH = 16
MERGES = 120
AWKWARD = (
    *TEXTS,
    "âœ” No problems",
    "schÃ¶n &eacute; &amp;lt;b&amp;gt; &#128512;",
    "THEY'LL say it's WE'VE and 'S o'clock 's",
    "\uff26\uff35\uff2c\uff2c \uff57\uff49\uff44\uff54\uff48 \ufb01\u201cquoted\u201d\u2026",
    "\u0130stanbul \u03a3\u03a3 stra\u00dfe \u1e9e",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u270c\U0001f3fd",
    "a\u200bb so\u00adft\tta\x0bb\x1cz\x85 \u2028end",
    "\uff11\uff12\uff13 \u00bd \u00b2 \u0663 1,234.5",
    "...!!!??? -- __init__ @user #tag http://a.b/c?d=e&f",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947",
    "\u732b\u3068\u72ac \ud55c\uad6d\uc5b4",
    "x" * 400,
    "\u00a0",
)


def byte_letters() -> list[str]:
    """The letter that stands for each byte, those that print first, as in the published files."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [n for n in range(256) if n not in printing]
    return [chr(n) for n in printing] + [chr(256 + n) for n in range(len(other))]


def merges() -> list[tuple[str, str]]:
    """Pairs that a byte-pair encoding joins, learnt from a handful of words."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=512 + MERGES, end_of_word_suffix="</w>", initial_alphabet=byte_letters()
    )
    words = " ".join(word for word in WORDS if word.isalpha()) + " it's they'll no problems ..."
    library.train_from_iterator([words] * 20, trainer)
    found = json.loads(library.to_str())["model"]["merges"]
    return [tuple(m) if isinstance(m, list) else tuple(m.split()) for m in found][:MERGES]


def tokenizers_of(folder: pathlib.Path) -> object:
    """open_clip's tokenizer of the pairs; the same one as a tokenizer.json goes into the folder."""
    from open_clip.tokenizer import SimpleTokenizer

    pairs = merges()
    letters = byte_letters()
    names = [*letters, *(f"{c}</w>" for c in letters), *("".join(pair) for pair in pairs)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    published = CLIPTokenizer(
        vocab={name: n for n, name in enumerate(names)}, merges=pairs, model_max_length=LENGTH
    )
    published.save_pretrained(folder)
    with tempfile.NamedTemporaryFile(suffix=".txt.gz") as file:
        lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
        file.write(gzip.compress("\n".join(lines).encode()))
        file.flush()
        made = SimpleTokenizer(file.name, context_length=LENGTH)
    assert made.vocab_size == len(names)
    return made


def shortest(image: np.ndarray, mean: tuple, std: tuple) -> np.ndarray:
    """What image_transform does: the shortest side to size, the centre, then normalised."""
    height, width = image.shape[:2]
    short = min(height, width)
    new = int(SIZE * height / short), int(SIZE * width / short)
    resized = Image.fromarray(image).resize(new[::-1], Image.Resampling.BICUBIC)
    top, left = round((new[0] - SIZE) / 2), round((new[1] - SIZE) / 2)
    cut = np.asarray(resized.crop((left, top, left + SIZE, top + SIZE)), np.float32)
    return ((cut / 255 - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)


def main():
    """Model, config, tokenizer, pictures, texts and answers."""
    fixtures.without_torchvision()
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from open_clip.model import CLIP

    FOLDER.mkdir(parents=True, exist_ok=True)
    words = tokenizers_of(FOLDER)
    model_cfg = {
        "embed_dim": 12,
        "vision_cfg": {
            "image_size": SIZE,
            "layers": 1,
            "width": 16,
            "head_width": 8,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": LENGTH,
            "vocab_size": words.vocab_size,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }
    preprocess_cfg = {
        "size": [SIZE, SIZE],
        "mode": "RGB",
        "mean": list(OPENAI_DATASET_MEAN),
        "std": list(OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    torch.manual_seed(0)
    model = fixtures.shake(CLIP(**model_cfg))
    state = {name: array.clone().contiguous() for name, array in model.state_dict().items()}
    save_file(state, FOLDER / "open_clip_model.safetensors", {"format": "pt"})
    told = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (FOLDER / "open_clip_config.json").write_text(json.dumps(told, indent=1) + "\n")
    rng = np.random.default_rng(0)
    sizes = ((40, 31), (24, 24), (9, 50), (61, 60), (24, 27))  # the last: an odd cut
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    mean, std = OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    pixel_values = np.stack([shortest(image, mean, std) for image in images])
    input_ids = words(list(AWKWARD))
    with torch.no_grad():
        image_embeds = model.encode_image(torch.tensor(pixel_values), normalize=True).numpy()
        text_embeds = model.encode_text(input_ids, normalize=True).numpy()
    (FOLDER.parent / "open_clip_texts.json").write_text(json.dumps(AWKWARD, indent=1) + "\n")
    np.savez_compressed(
        FOLDER.parent / "open_clip.npz",
        **{f"image{n}": image for n, image in enumerate(images)},
        pixel_values=pixel_values,
        input_ids=input_ids.numpy(),
        image_embeds=image_embeds,
        text_embeds=text_embeds,
    )


if __name__ == "__main__":
    main()
