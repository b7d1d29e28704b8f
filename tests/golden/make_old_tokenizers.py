"""Writes old_tokenizers.npz: what transformers makes of folders that hold a bare vocabulary.

The vocabularies are those of whole/align_hf and whole/clip_hf, the texts those of whole/siglip_hf.
Run by hand where transformers is installed: python tests/golden/make_old_tokenizers.py
"""

import json
import pathlib
import tempfile

import numpy as np
from transformers import BertTokenizer, CLIPTokenizer

GOLDEN = pathlib.Path(__file__).parent
LENGTH = 16
BERT = {"lower": {}, "cased": {"do_lower_case": False}, "accents": {"strip_accents": False}}


def split(whole: str, folder: pathlib.Path) -> None:
    """The vocabulary of a whole folder as the files of old."""
    file = GOLDEN / "whole" / whole / "tokenizer.json"
    model = json.loads(file.read_text(encoding="utf-8"))["model"]
    if "merges" not in model:
        words = sorted(model["vocab"], key=model["vocab"].get)
        (folder / "vocab.txt").write_text("".join(f"{w}\n" for w in words), encoding="utf-8")
        return
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main():
    """Numbers of every text by every tokenizer."""
    texts = json.loads((GOLDEN / "whole" / "siglip_hf_texts.json").read_text(encoding="utf-8"))
    wanted = {"padding": "max_length", "truncation": True, "max_length": LENGTH}
    made = {}
    with tempfile.TemporaryDirectory() as name:
        split("align_hf", pathlib.Path(name))
        for kind, settings in BERT.items():
            words = BertTokenizer.from_pretrained(name, **settings)
            made[f"bert_{kind}"] = np.array(words(texts, **wanted)["input_ids"])
    with tempfile.TemporaryDirectory() as name:
        split("clip_hf", pathlib.Path(name))
        words = CLIPTokenizer.from_pretrained(name)
        made["clip"] = np.array(words(texts, **wanted)["input_ids"])
    np.savez_compressed(GOLDEN / "old_tokenizers.npz", **made)


if __name__ == "__main__":
    main()
