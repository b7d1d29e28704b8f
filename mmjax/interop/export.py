"""A model of ours as a folder that Hugging Face, open_clip or big_vision load."""

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmjax import paths
from mmjax.data.tokenizers.huggingface import HuggingFaceTokenizer
from mmjax.interop import processing
from mmjax.interop.family import POOLER, Family, compare
from mmjax.interop.loaded import Loaded
from mmjax.interop.lost import ALLOWED, check_preprocessing
from mmjax.interop.rows import write
from mmjax.interop.sources import MODEL_TYPES, OPEN_CLIP, TIMM, family_named
from mmjax.interop.tensors import Arrays, WeightsError, save_safetensors
from mmjax.interop.tokenizer_files import Save, json_file, tokenizer_files

__all__ = ["ALLOWED", "FORMATS", "export_weights", "published"]

LABELS = ("id2label", "label2id")  # names, which our model does not know
# Endings of what a config says of training alone, which our model does not know.
TRAINING = ("dropout", "dropout_prob", "logit_scale_init_value")
# Names of every file that an export writes into a folder.
WRITTEN = (
    "config.json",
    "model.safetensors",
    OPEN_CLIP,
    "open_clip_model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "spiece.model",
)

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
    loaded: Loaded,
    out: str | os.PathLike[str],
    form: str,
    overwrite: bool = False,
    allow: tuple[str, ...] = (),
) -> list[str]:
    """Writes a folder (or for big_vision a .npz) that the format's own library loads.

    Args:
      loaded: of `mmjax.load`.
      out: a folder that is not there yet, or is empty; for 'big_vision' a file.
      form: 'hf', 'open_clip', 'big_vision' or, of a ResNet, 'timm'.
      overwrite: replace what an export wrote there before.
      allow: what may be lost: 'text_cleaning', where the other library cleans texts otherwise. Then
        texts with HTML entities or wrongly decoded letters get other tokens there. 'crop_rounding',
        where it cuts out a picture's centre a pixel beside ours.

    Returns:
      The names of the files.

    Raises:
      WeightsError: the format cannot express the model, its preprocessing or its tokenizer; the
        fields are listed, and nothing is written.
    """
    if form not in FORMATS:
        raise WeightsError(f"--format={form!r} is none of {', '.join(FORMATS)}.")
    unknown = sorted(set(allow) - set(ALLOWED))
    if unknown:
        raise WeightsError(f"--allow={unknown[0]}: {', '.join(ALLOWED)} may be left out.")
    out = pathlib.Path(out)
    there = _replaced(out, form, overwrite)
    made = FORMATS[form](loaded, out, allow)  # what cannot be expressed is found before writing
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
            if out.is_dir():  # empty
                out.rmdir()
            else:
                out.unlink(missing_ok=True)
            os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return list(made)


def _replaced(out: pathlib.Path, form: str, overwrite: bool) -> bool:
    """Whether something is there, which may be replaced.

    Raises:
      WeightsError: it may not.
    """
    if form == "big_vision" and out.suffix != ".npz":
        raise WeightsError(f"{out}: big_vision keeps weights in one file; give OUT.npz.")
    there = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if there and not overwrite:
        raise WeightsError(f"{out} is there already; give another place, or --overwrite.")
    if out.is_dir():
        others = sorted(one.name for one in out.iterdir() if one.name not in WRITTEN)
        if others or form == "big_vision":
            raise WeightsError(
                f"{out} is a folder that no export wrote; it holds {', '.join(others[:3])}. Give "
                "another place."
            )
    return there


def _arrays(loaded: Loaded, family: Family) -> dict[str, np.ndarray]:
    """{their name: array} of a model, with what was set aside on reading."""
    flat = {path: np.asarray(x) for path, x in paths.flatten(loaded.variables).items()}
    return write(family.table(loaded.model), flat, _aside(loaded, family))


def _aside(loaded: Loaded, family: Family) -> Mapping[str, np.ndarray]:
    """What was set aside on reading, where the model still has the sizes that it had there."""
    origin = loaded.origin
    if origin.family != family.name or not origin.aside:
        return {}
    try:
        return {} if compare(loaded.model, family.model(origin.config)) else origin.aside
    except WeightsError:
        return {}


def published(loaded: Loaded, family: Family) -> Arrays:
    """A model's arrays under a family's names.

    Raises:
      WeightsError: the family has no place for such a model.
    """
    try:
        return Arrays(_arrays(loaded, family), loaded.origin.source)
    except OTHER_KIND:
        raise WeightsError(f"{family.name} has no place for a {_told(loaded.model)}.") from None


def _hf(loaded: Loaded, out: pathlib.Path, allow: tuple[str, ...]) -> dict[str, Save]:
    del out
    model_type, family, config = _hf_family(loaded)
    if loaded.origin.family == family.name:  # what their config says besides
        config = _under(loaded.origin.config, config)
    arrays = _arrays(loaded, family)
    config = _of_type(config, arrays)
    config.pop(POOLER, None)  # their classes take it from there, over what they are told
    made = {
        "config.json": json_file(config),
        "model.safetensors": lambda path: save_safetensors(path, arrays),
    }
    pictures = None
    if "image" not in loaded.missing and model_type in PROCESSORS:
        picture = processing.to_hf(loaded.contract, PROCESSORS[model_type])
        pictures = processing.from_hf(picture, "the export", model_type)
        if model_type in PROCESSOR_CLASSES:
            picture["processor_class"] = PROCESSOR_CLASSES[model_type]
        made["preprocessor_config.json"] = json_file(picture)
    check_preprocessing(loaded, pictures, ("none", "siglip"), allow)
    return {**made, **tokenizer_files(loaded, PROCESSOR_CLASSES.get(model_type))}


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
        except OTHER_KIND:
            continue
    if not reasons:
        raise _other_kind(loaded, "hf")
    raise WeightsError(min(reasons, key=lambda reason: (reason.count(";"), len(reason))))


# What a family's own code makes of a model that has other parts than it asks for.
OTHER_KIND = (AttributeError, TypeError, StopIteration, KeyError)


def _other_kind(loaded: Loaded, form: str) -> WeightsError:
    """The error that names the model's parts and the formats that have a place for them."""
    others = [name for name in FORMATS if name != form and _has_place(loaded, name)]
    instead = f"; --format={' or '.join(others)} can" if others else ""
    return WeightsError(f"the format {form} cannot express a {_told(loaded.model)}{instead}.")


def _told(model: Any) -> str:
    """A model's class and those of its towers."""
    towers = ((name, getattr(model, name, None)) for name in ("image", "text"))
    parts = [
        f"{name}={type(one).__name__}" for name, one in towers if dataclasses.is_dataclass(one)
    ]
    return type(model).__name__ + (f"({', '.join(parts)})" if parts else "")


def _has_place(loaded: Loaded, form: str) -> bool:
    kinds = {"hf": tuple(MODEL_TYPES.values()), "timm": (TIMM,)}.get(form, (form,))
    for kind in kinds:
        try:
            family_named(kind).expressed(loaded.model)
        except (WeightsError, *OTHER_KIND):
            continue
        return True
    return False


def _timm(loaded: Loaded, out: pathlib.Path, allow: tuple[str, ...]) -> dict[str, Save]:
    del out
    family = family_named(TIMM)
    try:
        config = family.expressed(loaded.model)
    except OTHER_KIND:
        raise _other_kind(loaded, "timm") from None
    if "image" not in loaded.missing:
        known = {"num_classes": config["num_classes"], "first_conv": "conv1", "classifier": "fc"}
        made = {**known, **processing.to_timm(loaded.contract)}
        pictures = processing.from_timm(made, "the export")
        check_preprocessing(loaded, pictures, (loaded.contract.text_cleaning,), allow)
        theirs = loaded.origin.config.get("pretrained_cfg") or {}
        # Several shares of a picture mean the same at one size; theirs stays.
        same = theirs and processing.from_timm(theirs, "the source") == pictures
        config["pretrained_cfg"] = {**made, **theirs} if same else made
    if loaded.origin.family == family.name:
        config = _under(loaded.origin.config, config)
    arrays = _arrays(loaded, family)
    return {
        "config.json": json_file(config),
        "model.safetensors": lambda path: save_safetensors(path, arrays),
    }


def _under(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Their config with our values in it, but for how they train."""
    made = {key: value for key, value in theirs.items() if not key.endswith("_config_dict")}
    names = made.get("id2label")
    if isinstance(names, Mapping) and len(names) == len(ours.get("id2label") or ()):
        ours = {key: value for key, value in ours.items() if key not in LABELS}
    made = {key: value for key, value in made.items() if key not in LABELS or key not in ours}
    for key, value in ours.items():
        below = made.get(key)
        if key in made and key.endswith(TRAINING):
            continue
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        made[key] = _under(below, value) if both else value
    return made


def _of_type(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A config whose element types are those of the arrays that are written."""
    kinds = {array.dtype.name for array in arrays.values() if array.dtype.kind not in "biu"}
    kind = kinds.pop() if len(kinds) == 1 else "float32"

    def said(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {below: said(below, x) for below, x in value.items()}
        return kind if key in ("dtype", "torch_dtype") and value is not None else value

    return said("", config)


def _open_clip(loaded: Loaded, out: pathlib.Path, allow: tuple[str, ...]) -> dict[str, Save]:
    del out
    family = family_named("open_clip")
    try:
        config = family.expressed(loaded.model)
    except WeightsError as error:
        raise WeightsError(f"{error} Of open_clip its CLIP is built, not CustomTextCLIP.") from None
    except OTHER_KIND:
        raise _other_kind(loaded, "open_clip") from None
    if loaded.tokenizer is not None and not isinstance(loaded.tokenizer, HuggingFaceTokenizer):
        raise WeightsError(
            "the format open_clip cannot express this model: its tokenizer is of SentencePiece, "
            "not a tokenizer.json."
        )
    if loaded.origin.family == family.name:
        config = _under(loaded.origin.config, config)
    pictures = None
    if "image" not in loaded.missing:
        picture = config["preprocess_cfg"] = processing.to_open_clip(loaded.contract)
        size = loaded.contract.image_size
        pictures = processing.from_open_clip(picture, size, "the export")
    check_preprocessing(loaded, pictures, ("clip",), allow)
    arrays = _arrays(loaded, family)
    made = {
        OPEN_CLIP: json_file(config),
        "open_clip_model.safetensors": lambda path: save_safetensors(path, arrays),
    }
    return {**made, **tokenizer_files(loaded, None, own_padding=True)}


def _big_vision(loaded: Loaded, out: pathlib.Path, allow: tuple[str, ...]) -> dict[str, Save]:
    del allow
    family = family_named("big_vision")
    try:
        family.expressed(loaded.model)
    except OTHER_KIND:
        raise _other_kind(loaded, "big_vision") from None
    arrays = _arrays(loaded, family)

    def save(path: pathlib.Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **arrays)

    return {out.name: save}


FORMATS: dict[str, Callable[[Loaded, pathlib.Path, tuple[str, ...]], dict[str, Save]]] = {
    "hf": _hf,
    "open_clip": _open_clip,
    "big_vision": _big_vision,
    "timm": _timm,
}
