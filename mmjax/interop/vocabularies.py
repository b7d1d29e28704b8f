"""Tokenizers whose folder holds a bare vocabulary, as those published before tokenizer.json do.

Source: transformers, models/bert/tokenization_bert.py and models/clip/tokenization_clip.py.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from mmjax.data.tokenizers.base import read_whole

__all__ = ["VOCABULARIES", "made_of"]

CLIP_WORD = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


def made_of(
    file: pathlib.Path, names: Mapping[str, str | None], settings: Mapping[str, Any]
) -> bytes:
    """The tokenizer.json that a vocabulary stands for.

    Args:
      file: 'vocab.txt' of BERT's word pieces, or 'vocab.json' of CLIP's pairs with a merges.txt
        beside it.
      names: {'unk': name of the special token, or None for the usual one, ...}.
      settings: what tokenizer_config.json says.

    Raises:
      ValueError: the vocabulary is malformed, or lacks a special token.
    """
    library = VOCABULARIES[file.name](file, names, settings)
    return library.to_str().encode()


def _word_pieces(
    file: pathlib.Path, names: Mapping[str, str | None], settings: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    """BERT's: lower case by default, accents dropped where it is."""
    lines = read_whole(file).decode("utf-8").split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    vocabulary = {line.rstrip("\r"): number for number, line in enumerate(lines)}
    unknown = names.get("unk") or "[UNK]"
    start, end = names.get("cls") or "[CLS]", names.get("sep") or "[SEP]"
    others = (names.get("pad") or "[PAD]", names.get("mask") or "[MASK]")
    _need(file, vocabulary, unknown, start, end)
    library = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    library.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
        strip_accents=settings.get("strip_accents"),
        lowercase=bool(settings.get("do_lower_case", True)),
    )
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.add_special_tokens(
        [n for n in (others[0], unknown, start, end, others[1]) if n in vocabulary]
    )
    library.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(start, vocabulary[start]), (end, vocabulary[end])],
    )
    return library


def _clip_pairs(
    file: pathlib.Path, names: Mapping[str, str | None], settings: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    """CLIP's: byte-level pairs of letters in lower case."""
    del settings
    vocabulary = json.loads(read_whole(file).decode("utf-8"))
    lines = read_whole(file.with_name("merges.txt")).decode("utf-8").split("\n")
    merges = [
        tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")
    ]
    unknown = names.get("unk") or "<|endoftext|>"
    start, end = names.get("bos") or "<|startoftext|>", names.get("eos") or "<|endoftext|>"
    _need(file, vocabulary, unknown, start, end)
    library = tokenizers.Tokenizer(
        models.BPE(
            vocabulary,
            merges,
            unk_token=unknown,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
        )
    )
    space = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    library.normalizer = normalizers.Sequence([normalizers.NFC(), space, normalizers.Lowercase()])
    word = pre_tokenizers.Split(tokenizers.Regex(CLIP_WORD), behavior="removed", invert=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([word, level])
    pad = names.get("pad")
    library.add_special_tokens([n for n in (start, end, unknown, pad) if n in vocabulary])
    library.post_processor = processors.RobertaProcessing(
        (end, vocabulary[end]), (start, vocabulary[start]), False, False
    )
    return library


VOCABULARIES: dict[str, Callable[..., tokenizers.Tokenizer]] = {
    "vocab.txt": _word_pieces,
    "vocab.json": _clip_pairs,
}


def _need(file: pathlib.Path, vocabulary: Mapping[str, int], *names: str) -> None:
    """Raises ValueError where a special token is no token."""
    lacking = [name for name in dict.fromkeys(names) if name not in vocabulary]
    if lacking:
        raise ValueError(f"{file} lacks {', '.join(lacking)}.")
