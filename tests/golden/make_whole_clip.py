"""Writes whole/clip_hf: a tiny CLIP as transformers saves it, with processor and tokenizer.

Beside it stand pictures, texts and what the reference makes of them. Run by hand where torch and
transformers are installed: python tests/golden/make_whole_clip.py
"""

import json
import pathlib

import fixtures
import numpy as np
import tokenizers
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.models.clip import CLIPImageProcessorPil

FOLDER = pathlib.Path(__file__).parent / "whole" / "clip_hf"
SIZE = 24
LENGTH = 16
WORDS = ("a", "photo", "of", "the", "red", "green", "blue", "cat", "dog", "house", "tree")
WORDS += ("naïve", "café", "猫", "two", "big", "small", "&amp;")
TEXTS = (
    "a photo of a cat",
    "",
    "   A  PHOTO\tof\nthe   DOG  ",
    "naïve café, 猫 and \U0001f600!",
    "fish &amp; chips &lt;b&gt;",
    "it's 12.5% of $30 -- isn't it?",
    "cafe\u0301 \u00a0 \u3000 x",
    "word " * 60,
)


def tokenizer() -> CLIPTokenizer:
    """CLIP's kind of byte-pair encoding, trained on a handful of words."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700, end_of_word_suffix="</w>", initial_alphabet=sorted(alphabet)
    )
    library.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    model = json.loads(library.to_str())["model"]
    vocabulary = sorted(model["vocab"], key=model["vocab"].get)
    vocabulary += [f"{c}</w>" for c in sorted(alphabet) if f"{c}</w>" not in model["vocab"]]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split()) for m in model["merges"]]
    return CLIPTokenizer(
        vocab={token: n for n, token in enumerate(vocabulary)},
        merges=merges,
        model_max_length=LENGTH,
    )


def main():
    """Model, processor, pictures, texts and answers."""
    words = tokenizer()
    eos = words.convert_tokens_to_ids("<|endoftext|>")
    config = CLIPConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": LENGTH,
            "eos_token_id": eos,
            "bos_token_id": eos - 1,
            "pad_token_id": eos,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": SIZE,
            "patch_size": 8,
        },
        projection_dim=12,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = fixtures.shake(CLIPModel(config))
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=SIZE)
    processor = CLIPProcessor(image_processor=pictures, tokenizer=words)
    model.save_pretrained(FOLDER)
    processor.save_pretrained(FOLDER)
    rng = np.random.default_rng(0)
    sizes = ((40, 31), (24, 24), (9, 50), (61, 60), (24, 27))  # the last: an odd cut
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    inputs = processor(
        text=list(TEXTS),
        images=[Image.fromarray(image) for image in images],
        padding="max_length",
        truncation=True,
        max_length=LENGTH,
        return_tensors="pt",
    )
    with torch.no_grad():
        out = model(**inputs)
    (FOLDER.parent / "clip_hf_texts.json").write_text(json.dumps(TEXTS, indent=1) + "\n")
    np.savez_compressed(
        FOLDER.parent / "clip_hf.npz",
        **{f"image{n}": image for n, image in enumerate(images)},
        pixel_values=inputs["pixel_values"].numpy(),
        input_ids=inputs["input_ids"].numpy(),
        attention_mask=inputs["attention_mask"].numpy(),
        image_embeds=out.image_embeds.numpy(),
        text_embeds=out.text_embeds.numpy(),
        logits_per_image=out.logits_per_image.numpy(),
    )


if __name__ == "__main__":
    main()
