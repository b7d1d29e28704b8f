"""A model of ours as a folder that Hugging Face, open_clip or big_vision load."""

import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tokenizers

from mmjax import paths
from mmjax.data.tokenizers.huggingface import HuggingFaceTokenizer
from mmjax.interop import processing
from mmjax.interop.family import Family
from mmjax.interop.loaded import Loaded
from mmjax.interop.rows import write
from mmjax.interop.sources import MODEL_TYPES, OPEN_CLIP, family_named
from mmjax.interop.tensors import Arrays, WeightsError, save_safetensors

__all__ = ["FORMATS", "export_weights", "published"]

# {model_type: name of the processor for pictures}
PROCESSORS = {
    "clip": "CLIPImageProcessor",
    "siglip": "SiglipImageProcessor",
    "siglip2": "Siglip2ImageProcessor",
    "chinese_clip": "ChineseCLIPImageProcessor",
    "align": "EfficientNetImageProcessor",
    "vit": "ViTImageProcessor",
}
PROCESSOR_CLASSES = {
    "clip": "CLIPProcessor",
    "siglip": "SiglipProcessor",
    "siglip2": "Siglip2Processor",
    "chinese_clip": "ChineseCLIPProcessor",
    "align": "AlignProcessor",
}


def export_weights(
    loaded: Loaded, out: str | os.PathLike[str], form: str, overwrite: bool = False
) -> list[str]:
    """Writes a folder (or for big_vision a .npz) that the format's own library loads.

    Args:
      loaded: of `mmjax.load`.
      out: a folder that is not there yet, or is empty; for 'big_vision' a file.
      form: 'hf', 'open_clip' or 'big_vision'.
      overwrite: replace what is there.

    Returns:
      The names of the files.

    Raises:
      WeightsError: the format cannot express the model, its preprocessing or its tokenizer; the
        fields are listed, and nothing is written.
    """
    if form not in FORMATS:
        raise WeightsError(f"--format={form!r} is none of {', '.join(FORMATS)}.")
    out = pathlib.Path(out)
    there = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if there and not overwrite:
        raise WeightsError(f"{out} is there already; give another place, or --overwrite.")
    made = FORMATS[form](loaded, out)  # whatever cannot be expressed is found before writing
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        for name, save in made.items():
            save(part / name)
        if there and out.is_dir():
            shutil.rmtree(out)
        if form == "big_vision":
            out.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part / next(iter(made)), out)
        else:
            if out.exists():
                out.rmdir()
            os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return list(made)


Save = Callable[[pathlib.Path], None]


def _text(value: Mapping[str, Any]) -> Save:
    """Saves an object as JSON."""
    content = json.dumps(value, indent=2, sort_keys=True) + "\n"
    return lambda path: path.write_text(content, encoding="utf-8") and None


def _arrays(loaded: Loaded, family: Family) -> dict[str, np.ndarray]:
    """{their name: array} of a model, with what was set aside on reading."""
    flat = {path: np.asarray(x) for path, x in paths.flatten(loaded.variables).items()}
    same = loaded.origin.family == family.name
    return write(family.table(loaded.model), flat, loaded.origin.aside if same else None)


def published(loaded: Loaded, family: Family) -> Arrays:
    """A model's arrays under a family's names."""
    return Arrays(_arrays(loaded, family), loaded.origin.source)


def _hf(loaded: Loaded, out: pathlib.Path) -> dict[str, Save]:
    del out
    model_type, family, config = _hf_family(loaded)
    if loaded.origin.family == family.name:  # what their config says besides
        config = _under(loaded.origin.config, config)
    arrays = _arrays(loaded, family)
    made = {
        "config.json": _text(config),
        "model.safetensors": lambda path: save_safetensors(path, arrays),
    }
    if "image" not in loaded.missing and model_type in PROCESSORS:
        picture = processing.to_hf(loaded.contract, PROCESSORS[model_type])
        if model_type in PROCESSOR_CLASSES:
            picture["processor_class"] = PROCESSOR_CLASSES[model_type]
        made["preprocessor_config.json"] = _text(picture)
    return {**made, **_tokenizer(loaded, PROCESSOR_CLASSES.get(model_type))}


def _hf_family(loaded: Loaded) -> tuple[str, Family, dict[str, Any]]:
    """The model_type that expresses a model, its family and their config.

    The one that it came from is tried first.
    """
    reasons = []
    order = sorted(MODEL_TYPES, key=lambda kind: loaded.origin.family != f"hf/{kind}")
    for kind in order:
        family = family_named(MODEL_TYPES[kind])
        try:
            return kind, family, family.expressed(loaded.model)
        except WeightsError as error:
            reasons.append(str(error))
        except (AttributeError, TypeError, StopIteration, KeyError):
            reasons.append(f"the format {family.name} is of another kind of model.")
    raise WeightsError(min(reasons, key=lambda reason: (reason.count(";"), len(reason))))


def _under(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Their config with our values in it."""
    made = {key: value for key, value in theirs.items() if not key.endswith("_config_dict")}
    for key, value in ours.items():
        below = made.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        made[key] = _under(below, value) if both else value
    return made


def _open_clip(loaded: Loaded, out: pathlib.Path) -> dict[str, Save]:
    del out
    family = family_named("open_clip")
    try:
        config = family.expressed(loaded.model)
    except (AttributeError, TypeError, StopIteration) as error:
        raise WeightsError(f"the format open_clip is of another kind of model: {error}") from None
    if loaded.origin.family == family.name:
        config = _under(loaded.origin.config, config)
    if "image" not in loaded.missing:
        config["preprocess_cfg"] = processing.to_open_clip(loaded.contract)
    arrays = _arrays(loaded, family)
    made = {
        OPEN_CLIP: _text(config),
        "open_clip_model.safetensors": lambda path: save_safetensors(path, arrays),
    }
    return {**made, **_tokenizer(loaded, None, cleans=True)}


def _big_vision(loaded: Loaded, out: pathlib.Path) -> dict[str, Save]:
    family = family_named("big_vision")
    try:
        family.expressed(loaded.model)
    except (AttributeError, TypeError, StopIteration) as error:
        raise WeightsError(f"the format big_vision is of another kind of model: {error}") from None
    arrays = _arrays(loaded, family)

    def save(path: pathlib.Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **arrays)

    return {out.name: save}


FORMATS: dict[str, Callable[[Loaded, pathlib.Path], dict[str, Save]]] = {
    "hf": _hf,
    "open_clip": _open_clip,
    "big_vision": _big_vision,
}


def _tokenizer(loaded: Loaded, processor: str | None, cleans: bool = False) -> dict[str, Save]:
    """The tokenizer's files, with the tokens that stand round a text in them."""
    tokenizer, contract = loaded.tokenizer, loaded.contract
    if tokenizer is None:
        return {}
    cleaning = contract.text_cleaning
    if cleaning not in (("none", "lower", "clip") if cleans else ("none", "siglip")):
        raise WeightsError(
            f"preprocess.text_cleaning={cleaning!r} has no counterpart in a tokenizer's files; "
            "train with 'none', or clean the captions before."
        )
    names = {number: name for name, number in tokenizer.special_tokens().items()}
    wanted = {"pad_token": contract.pad_id}
    if contract.bos or tokenizer.bos_id is not None:
        wanted["bos_token"] = tokenizer.bos_id
    if contract.eos or tokenizer.eos_id is not None:
        wanted["eos_token"] = tokenizer.eos_id
    settings: dict[str, Any] = {
        role: names[number] for role, number in wanted.items() if number in names
    }
    settings |= {"model_max_length": contract.sequence_length, "padding_side": "right"}
    if processor:
        settings["processor_class"] = processor
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        settings["tokenizer_class"] = "SiglipTokenizer" if cleaning == "siglip" else "T5Tokenizer"
        return {"tokenizer_config.json": _text(settings), "spiece.model": tokenizer.save}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    content = _framed(tokenizer, contract.bos, contract.eos)
    return {
        "tokenizer_config.json": _text(settings),
        "tokenizer.json": lambda path: path.write_text(content, encoding="utf-8") and None,
    }


def _framed(tokenizer: HuggingFaceTokenizer, bos: bool, eos: bool) -> str:
    """The tokenizer.json, whose own template puts the special tokens round a text."""
    library = tokenizers.Tokenizer.from_buffer(tokenizer.content())
    bare = library.encode("a", add_special_tokens=False).ids
    framed = library.encode("a", add_special_tokens=True).ids
    first = [tokenizer.need("bos")] if bos else []
    last = [tokenizer.need("eos")] if eos else []
    if framed == first + bare + last:  # as it came
        return tokenizer.content().decode()
    names = {number: name for name, number in tokenizer.special_tokens().items()}
    parts = [names[n] for n in first] + ["$A"] + [names[n] for n in last]
    special = [(names[number], number) for number in first + last]
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single=" ".join(parts), special_tokens=special
    )
    return library.to_str(pretty=True)
