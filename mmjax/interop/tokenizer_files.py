"""A tokenizer of ours as the files that Hugging Face's classes read."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import tokenizers
from tokenizers import normalizers

from mmjax.data.tokenizers.huggingface import HuggingFaceTokenizer
from mmjax.interop.errors import WeightsError
from mmjax.interop.loaded import Loaded

__all__ = ["Save", "json_file", "tokenizer_files"]

Save = Callable[[pathlib.Path], None]


def json_file(value: Mapping[str, Any]) -> Save:
    """Saves an object as JSON."""
    content = json.dumps(value, indent=2, sort_keys=True) + "\n"
    return lambda path: path.write_text(content, encoding="utf-8") and None


def tokenizer_files(
    loaded: Loaded, processor: str | None, own_padding: bool = False
) -> dict[str, Save]:
    """{name: what saves it} of a model's tokenizer, with the tokens that stand round a text in it.

    Args:
      loaded: the model.
      processor: class that its folder names for pictures and texts together, or None.
      own_padding: whether who reads it fills texts up without asking the tokenizer.

    Raises:
      WeightsError: the model sees the token that fills texts up, which is no special one.
    """
    tokenizer, contract = loaded.tokenizer, loaded.contract
    if tokenizer is None:
        return {}
    cleaning = contract.text_cleaning
    names = {number: name for name, number in tokenizer.special_tokens().items()}
    wanted = {"pad_token": contract.pad_id}
    if contract.bos or tokenizer.bos_id is not None:
        wanted["bos_token"] = tokenizer.bos_id
    if contract.eos or tokenizer.eos_id is not None:
        wanted["eos_token"] = tokenizer.eos_id
    settings: dict[str, Any] = {
        role: names[number] for role, number in wanted.items() if number in names
    }
    text = getattr(loaded.model, "text", loaded.model)
    seen = getattr(text, "sees_padding", False)
    if "pad_token" not in settings and tokenizer.eos_id in names and not seen:
        settings["pad_token"] = names[tokenizer.eos_id]  # any will do, and a letter would not
    if "pad_token" not in settings and seen and not own_padding:
        raise WeightsError(
            f"the format cannot express preprocess.pad_id={contract.pad_id}: it is none of the "
            f"tokenizer's special tokens {', '.join(names.values()) or '(it has none)'}."
        )
    settings |= {"model_max_length": contract.sequence_length, "padding_side": "right"}
    if seen:  # a processor that made a mask would have padding left out
        settings["model_input_names"] = ["input_ids"]
    if processor:
        settings["processor_class"] = processor
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        settings["tokenizer_class"] = "SiglipTokenizer" if cleaning == "siglip" else "T5Tokenizer"
        return {"tokenizer_config.json": json_file(settings), "spiece.model": tokenizer.save}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings |= _letters(tokenizer)
    content = _framed(tokenizer, contract.bos, contract.eos, cleaning in ("lower", "clip"))
    return {
        "tokenizer_config.json": json_file(settings),
        "tokenizer.json": lambda path: path.write_text(content, encoding="utf-8") and None,
    }


def _letters(tokenizer: HuggingFaceTokenizer) -> dict[str, bool | None]:
    """What BERT's own class asks for of the treatment of letters, though the file says it too."""
    told = json.loads(tokenizer.content()).get("normalizer") or {}
    if told.get("type") != "BertNormalizer":
        return {}
    return {
        "do_lower_case": told["lowercase"],
        "strip_accents": told["strip_accents"],
        "tokenize_chinese_chars": told["handle_chinese_chars"],
    }


def _framed(tokenizer: HuggingFaceTokenizer, bos: bool, eos: bool, lower: bool) -> str:
    """The tokenizer.json, whose own template puts the special tokens round a text.

    Where texts are cleaned to small letters before and the file leaves them as they are, it makes
    them small too, for who reads it and cleans nothing.
    """
    library = tokenizers.Tokenizer.from_buffer(tokenizer.content())
    if lower and library.normalizer is None:
        space = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
        parts = [space, normalizers.Strip(), normalizers.Lowercase()]
        library.normalizer = normalizers.Sequence(parts)
        return _with_template(library, tokenizer, bos, eos)
    bare = library.encode("a", add_special_tokens=False).ids
    framed = library.encode("a", add_special_tokens=True).ids
    first = [tokenizer.need("bos")] if bos else []
    last = [tokenizer.need("eos")] if eos else []
    if framed == first + bare + last:  # as it came
        return tokenizer.content().decode()
    return _with_template(library, tokenizer, bos, eos)


def _with_template(
    library: tokenizers.Tokenizer, tokenizer: HuggingFaceTokenizer, bos: bool, eos: bool
) -> str:
    """The file with a template that puts the special tokens round a text."""
    first = [tokenizer.need("bos")] if bos else []
    last = [tokenizer.need("eos")] if eos else []
    names = {number: name for name, number in tokenizer.special_tokens().items()}
    parts = [names[n] for n in first] + ["$A"] + [names[n] for n in last]
    special = [(names[number], number) for number in first + last]
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single=" ".join(parts), special_tokens=special
    )
    return library.to_str(pretty=True)
