"""Writes whole/siglip_hf: a tiny SigLIP as transformers saves it, with processor and word pieces.

Beside it stand pictures, texts and what the reference makes of them. Run by hand where torch,
transformers and sentencepiece are installed: python tests/golden/make_whole_siglip.py
"""

import io
import json
import pathlib
import tempfile

import fixtures
import numpy as np
import sentencepiece
import torch
from make_whole_clip import WORDS
from make_whole_open_clip import AWKWARD
from PIL import Image
from transformers import SiglipConfig, SiglipModel, SiglipProcessor, SiglipTokenizer
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

FOLDER = pathlib.Path(__file__).parent / "whole" / "siglip_hf"
SIZE = 24
LENGTH = 16
TEXTS = (
    *AWKWARD,
    "snake_case __init__ well-known",
    "___",
    "A PHOTO OF A CAT.",
    "\u2581a\u2581 photo \u2581",
    " leading and trailing ",
)


def pieces(rules: pathlib.Path) -> bytes:
    """A SentencePiece model with the special pieces of SigLIP's.

    SigLIP's own rules that make letters alike take 240 kB; a few of them are enough.
    """
    same = [(chr(0xFF21 + n), chr(0x41 + n)) for n in range(26)]
    same += [("\t", " "), ("\n", " "), ("\u00a0", " "), ("\u3000", " "), ("\ufb01", "fi")]
    same += [("e\u0301", "\u00e9"), ("\u2026", "..."), ("\u200b", ""), ("\u2581", " ")]
    lines = ["\t".join(" ".join(f"{ord(c):x}" for c in side) for side in pair) for pair in same]
    rules.write_text("\n".join(lines) + "\n")
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS), "no problems word x isnt its 125 of 30"] * 20),
        model_writer=made,
        model_type="unigram",
        normalization_rule_tsv=str(rules),
        vocab_size=90,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return made.getvalue()


def main():
    """Model, processor, pictures, texts and answers."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "spiece.model"
        path.write_bytes(pieces(path.with_name("rules.tsv")))
        words = SiglipTokenizer(str(path), model_max_length=LENGTH)
        write(words)


def write(words: SiglipTokenizer) -> None:
    """The folder and what lies beside it."""
    shared = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = SiglipConfig(
        text_config={
            **shared,
            "vocab_size": words.vocab_size,
            "max_position_embeddings": LENGTH,
            "projection_size": 16,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
        vision_config={**shared, "image_size": SIZE, "patch_size": 8},
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = fixtures.shake(SiglipModel(config))
    pictures = SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    processor = SiglipProcessor(image_processor=pictures, tokenizer=words)
    model.save_pretrained(FOLDER)
    processor.save_pretrained(FOLDER)
    rng = np.random.default_rng(0)
    sizes = ((40, 31), (24, 24), (9, 50), (61, 60))
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
        out = model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"])
    (FOLDER.parent / "siglip_hf_texts.json").write_text(json.dumps(TEXTS, indent=1) + "\n")
    np.savez_compressed(
        FOLDER.parent / "siglip_hf.npz",
        **{f"image{n}": image for n, image in enumerate(images)},
        pixel_values=inputs["pixel_values"].numpy(),
        input_ids=inputs["input_ids"].numpy(),
        image_embeds=out.image_embeds.numpy(),
        text_embeds=out.text_embeds.numpy(),
        logits_per_image=out.logits_per_image.numpy(),
    )


if __name__ == "__main__":
    main()
