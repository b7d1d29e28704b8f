"""Tokenizers that lie beside published weights, with the tokens that they put round a text."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import normalizers

from mmjax.data.tokenizers.base import Tokenizer, read_whole
from mmjax.data.tokenizers.huggingface import HuggingFaceTokenizer, guarded
from mmjax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from mmjax.interop.errors import WeightsError, line
from mmjax.interop.vocabularies import VOCABULARIES, made_of

__all__ = ["FILES", "Words", "find", "open_file"]

PIECES = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
FILES = ("tokenizer.json", *PIECES)
LEFT = ("Gemma", "Siglip2")  # classes that fill up on the left where their settings do not say


@dataclasses.dataclass(frozen=True)
class Words:
    """A tokenizer and how it is used.

    Attributes:
      tokenizer: text to numbers.
      file: name of the file it was read from.
      bos: whether a text begins with a special token.
      eos: whether it ends with one.
      cleaning: rule applied to a text before.
    """

    tokenizer: Tokenizer
    file: str
    bos: bool
    eos: bool
    cleaning: str


def find(folder: pathlib.Path, kind: str = "") -> Words | None:
    """The tokenizer of a folder, or None where there is none.

    Args:
      folder: where it is looked for.
      kind: the tokenizer's class where no file there names it.

    Raises:
      WeightsError: its files are damaged, or ask for what is not built.
    """
    settings = _settings(folder)
    # A model of type siglip2 gets its own class whatever class its folder names.
    siglip2 = any(str(one).startswith("Siglip2") for one in (settings.get("tokenizer_class"), kind))
    kind = "Siglip2Tokenizer" if siglip2 else str(settings.get("tokenizer_class") or kind)
    # SigLIP's own class reads the pieces; the tokenizer.json beside them leaves its cleaning out.
    siglip = kind.startswith("Siglip") and not siglip2
    pieces = next((name for name in PIECES if (folder / name).is_file()), None)
    try:
        if (folder / "tokenizer.json").is_file() and not (siglip and pieces):
            _check_side(folder, settings, kind)
            return _from_json(folder / "tokenizer.json", settings, siglip2)
        if pieces:
            return _from_pieces(folder / pieces, settings, siglip)
        name = next((name for name in VOCABULARIES if (folder / name).is_file()), None)
        if name is not None:
            return _from_vocabulary(folder / name, settings, kind)
    except ValueError as error:
        raise WeightsError(str(error)) from None
    return None


def open_file(path: pathlib.Path, settings: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer in one file, as a run of ours keeps it.

    Args:
      path: one of `FILES`.
      settings: may name 'bos_token', 'eos_token' and 'pad_token'.

    Raises:
      WeightsError: it is none.
    """
    kind = HuggingFaceTokenizer if path.suffix == ".json" else SentencePieceTokenizer
    named = [_token(settings, f"{role}_token") for role in ("bos", "eos", "pad")]
    try:
        return kind(path, *named)
    except ValueError as error:
        raise WeightsError(str(error)) from None


def _settings(folder: pathlib.Path) -> dict[str, Any]:
    """What tokenizer_config.json and special_tokens_map.json say, the former first."""
    made: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            made |= json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise WeightsError(f"{path} cannot be read: {line(error)}.") from None
    return made


def _token(settings: Mapping[str, Any], *roles: str) -> str | None:
    """The name of the first of these special tokens that is set."""
    for role in roles:
        value = settings.get(role)
        value = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(value, str) and value:
            return value
    return None


def _check_side(folder: pathlib.Path, settings: Mapping[str, Any], kind: str) -> None:
    """Raises ValueError where texts would be filled up on the left."""
    left = kind.startswith(LEFT) and (folder / "tokenizer_config.json").is_file()
    side = settings.get("padding_side", "left" if left else "right")
    if side != "right":
        raise ValueError(
            f"{folder / 'tokenizer_config.json'}: padding_side={side!r}"
            f"{'' if 'padding_side' in settings else f', as {kind} has it where nothing is said,'} "
            "is not built; say 'right' there if the model was trained so."
        )


def _from_json(path: pathlib.Path, settings: Mapping[str, Any], small: bool) -> Words:
    """A tokenizer.json: its own template says what stands round a text.

    Args:
      path: the file.
      settings: see `_settings`.
      small: whether the class makes letters small, which older files leave to it.
    """
    content = read_whole(path)
    if small:
        content = guarded(lambda: _with_small_letters(content), f"{path} cannot be read")
    return _from_content(content, path, settings)


def _with_small_letters(content: bytes) -> bytes:
    library = tokenizers.Tokenizer.from_buffer(content)
    before = [] if library.normalizer is None else [library.normalizer]
    if not before or before[0].normalize_str("A") != "A":
        return content
    library.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
    return library.to_str().encode()


def _from_vocabulary(path: pathlib.Path, settings: Mapping[str, Any], kind: str) -> Words:
    """A bare vocabulary, as the class of its time reads it."""
    built = {"vocab.txt": "Bert", "vocab.json": "CLIP"}[path.name]
    if kind and not kind.startswith(built):
        raise ValueError(
            f"{path}: {kind} of a bare vocabulary is not built; save the folder's tokenizer.json "
            "beside it, by AutoTokenizer.from_pretrained(...).save_pretrained(...)."
        )
    roles = ("unk", "cls", "sep", "pad", "mask", "bos", "eos")
    names = {role: _token(settings, f"{role}_token") for role in roles}
    names["pad"] = names["pad"] or ("[PAD]" if built == "Bert" else "<|endoftext|>")
    content = guarded(lambda: made_of(path, names, settings), f"{path} cannot be read")
    return _from_content(content, path, {**settings, "pad_token": names["pad"]})


def _from_content(content: bytes, path: pathlib.Path, settings: Mapping[str, Any]) -> Words:
    library = guarded(lambda: tokenizers.Tokenizer.from_buffer(content), f"{path} cannot be read")
    library.no_truncation()
    library.no_padding()
    bare = guarded(lambda: library.encode("a", add_special_tokens=False).ids, str(path))
    framed = guarded(lambda: library.encode("a", add_special_tokens=True).ids, str(path))
    extra = len(framed) - len(bare)
    start = next((n for n in range(extra + 1) if framed[n : n + len(bare)] == bare), None)
    if start is None or start > 1 or extra - start > 1:
        raise WeightsError(
            f"{path}: a text becomes {framed}, its tokens alone {bare}; at most one special token "
            "before and one after is built."
        )
    bos = library.id_to_token(framed[0]) if start else None
    eos = library.id_to_token(framed[-1]) if extra - start else None
    made = HuggingFaceTokenizer.of(
        content,
        str(path),
        bos or _present(library, _token(settings, "bos_token", "cls_token")),
        eos or _present(library, _token(settings, "eos_token", "sep_token")),
        _present(library, _token(settings, "pad_token")),
    )
    return Words(made, path.name, bool(start), bool(extra - start), "none")


def _present(library: tokenizers.Tokenizer, token: str | None) -> str | None:
    """The token, or None where the vocabulary lacks it."""
    return token if token is not None and library.token_to_id(token) is not None else None


def _from_pieces(path: pathlib.Path, settings: Mapping[str, Any], siglip: bool) -> Words:
    """A SentencePiece model; its class's settings say what stands round a text."""
    if siglip and settings.get("do_lower_case") is False:
        raise ValueError(f"{path}: do_lower_case=False of SiglipTokenizer is not built.")
    made = SentencePieceTokenizer(
        path,
        pad_token=_token(settings, "pad_token") or ("</s>" if siglip else None),
    )
    bos, eos = settings.get("add_bos_token", False), settings.get("add_eos_token", True)
    return Words(made, path.name, bool(bos), bool(eos), "siglip" if siglip else "none")
