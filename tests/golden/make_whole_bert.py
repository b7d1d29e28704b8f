"""Writes whole/chinese_clip_hf and whole/align_hf: tiny models as transformers saves them.

Beside each stand pictures, texts and what the reference makes of them. Run by hand where torch and
transformers are installed: python tests/golden/make_whole_bert.py
"""

import json

import fixtures
import numpy as np
import torch
from make_efficientnet import CONFIG as EFFICIENTNET
from make_efficientnet import spread
from make_whole_clip import FOLDER, TEXTS, WORDS
from PIL import Image
from transformers import (
    AlignConfig,
    AlignModel,
    AlignProcessor,
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    ChineseCLIPProcessor,
)
from transformers.models.chinese_clip.image_processing_pil_chinese_clip import (
    ChineseCLIPImageProcessorPil,
)
from transformers.models.efficientnet.image_processing_pil_efficientnet import (
    EfficientNetImageProcessorPil,
)

LENGTH = 16
PIECES = ("##s", "##ing", "fish", "is", "##n", "it", "word", "cafe", "naive", "x", "和", "##5")


def tokenizer() -> BertTokenizer:
    """BERT's kind of word pieces, of a handful of words."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(n) for n in range(33, 127) if not chr(n).isupper()]
    words = dict.fromkeys([*special, *letters, *WORDS, *PIECES])
    return BertTokenizer(vocab={word: n for n, word in enumerate(words)}, model_max_length=LENGTH)


def text_config(words: BertTokenizer) -> dict:
    """A tower of one block."""
    return {
        "vocab_size": len(words),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": LENGTH,
    }


def chinese_clip(words: BertTokenizer) -> tuple:
    """(model, processor) of a Chinese-CLIP at 24 pixels."""
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 24,
        "patch_size": 8,
    }
    config = ChineseCLIPConfig(
        text_config=text_config(words), vision_config=vision, projection_dim=12
    )
    pictures = ChineseCLIPImageProcessorPil(size={"height": 24, "width": 24}, do_center_crop=False)
    model = fixtures.shake(ChineseCLIPModel(config))
    return model, ChineseCLIPProcessor(image_processor=pictures, tokenizer=words)


def align(words: BertTokenizer) -> tuple:
    """(model, processor) of an ALIGN that cuts 27 pixels out of 32, as the published one does."""
    config = AlignConfig(
        text_config=text_config(words), vision_config=EFFICIENTNET.to_dict(), projection_dim=16
    )
    pictures = EfficientNetImageProcessorPil(
        size={"height": 32, "width": 32},
        crop_size={"height": 27, "width": 27},
        do_center_crop=True,
        resample=2,
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        do_normalize=False,
        include_top=False,
    )
    model = fixtures.shake(AlignModel(config))
    spread(model.vision_model)
    return model, AlignProcessor(image_processor=pictures, tokenizer=words)


def main():
    """Models, processors, pictures, texts and answers."""
    rng = np.random.default_rng(0)
    sizes = ((40, 31), (27, 27), (9, 50), (61, 60))
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    for make in (chinese_clip, align):
        torch.manual_seed(0)
        model, processor = make(tokenizer())
        folder = FOLDER.with_name(f"{make.__name__}_hf")
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
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
        told = folder.with_name(f"{folder.name}_texts.json")
        told.write_text(json.dumps(TEXTS, indent=1) + "\n")
        np.savez_compressed(
            folder.with_name(f"{folder.name}.npz"),
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
