"""Where published weights lie: which family a folder or file is of, and what travels with it."""

import contextlib
import dataclasses
import importlib
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from mmjax.interop import hub, processing, tokenizing
from mmjax.interop.errors import line
from mmjax.interop.families import big_vision
from mmjax.interop.family import Family
from mmjax.interop.tensors import (
    PICKLES,
    Npz,
    Tensors,
    WeightsError,
    open_safetensors,
    refuse_pickles,
)
from mmjax.preprocess import Contract

__all__ = ["MODEL_TYPES", "Source", "contract_of", "family_named", "is_published", "open_source"]

# {model_type of a config.json: module below mmjax.interop.families}
MODEL_TYPES = {name: name for name in ("align", "bert", "chinese_clip", "clip", "vit")}
MODEL_TYPES |= {name: name for name in ("lxmert", "siglip", "siglip2", "vilbert")}
MODEL_TYPES |= {"vilt": "vilt", "visual_bert": "visualbert"}
TIMM = "resnet"  # the family of a config.json as timm writes it, with the key
TIMM_FILE = "architecture"
OPEN_CLIP = "open_clip_config.json"
HF_WEIGHTS = ("model.safetensors",)
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
)
WEIGHTS = (".safetensors", *PICKLES)  # endings of weights in a folder of somebody else's
MOST = 1 << 13  # pixels of a side
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
# {model_type: class of its tokenizer, where no file names one}
TOKENIZERS = {
    "align": "BertTokenizer",
    "bert": "BertTokenizer",
    "chinese_clip": "BertTokenizer",
    "clip": "CLIPTokenizer",
    "siglip": "SiglipTokenizer",
    "siglip2": "Siglip2Tokenizer",
}


@dataclasses.dataclass(frozen=True)
class Source:
    """A published model, its arrays not yet read.

    Attributes:
      name: as it was given, an hf:// address with its commit.
      folder: where its files lie here; of a single file the folder it lies in.
      family: what kind of model it is.
      config: theirs.
      tensors: the arrays.
      image: fields of the contract that its files say of pictures, {} where no file does.
      words: its tokenizer, or None.
      missing: {'image' or 'text': the file without which such a call cannot be made}.
    """

    name: str
    folder: pathlib.Path
    family: Family
    config: Mapping[str, Any]
    tensors: Tensors
    image: Mapping[str, Any]
    words: tokenizing.Words | None
    missing: Mapping[str, str]


def is_published(source: str | os.PathLike[str]) -> bool:
    """Whether a source is somebody else's, not a workdir or checkpoint of ours."""
    name = os.fspath(source)
    if name.startswith(hub.SCHEME):
        return True
    path = pathlib.Path(name)
    if path.is_file():
        return True
    if (path / OPEN_CLIP).is_file() or _model_type(path) is not None:
        return True
    if not path.is_dir() or (path / "checkpoints").is_dir() or (path / "manifest.json").exists():
        return False
    # A damaged config.json beside weights, or weights without one.
    return any(file.suffix in WEIGHTS for file in path.iterdir())


def open_source(source: str | os.PathLike[str]) -> Source:
    """Opens published weights; their arrays are read later, one by one.

    Args:
      source: a folder in Hugging Face or open_clip layout, a big_vision .npz, or hf://owner/name.

    Raises:
      WeightsError: there is none, or it is of a kind that is not built.
    """
    name = os.fspath(source)
    if name.startswith(hub.SCHEME):
        folder, name = hub.download(name)
    else:
        folder = pathlib.Path(name)
    with _understood(name):
        if folder.is_file():
            return _from_file(name, folder)
        if folder.is_dir():
            return _from_folder(name, folder)
    raise WeightsError(f"{name!r}: no such file or folder.")


@contextlib.contextmanager
def _understood(name: str) -> Iterator[None]:
    """Whatever a stranger's files make of our code is one error that names them."""
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:  # of any type in any place of a JSON
        told = f"{type(error).__name__}: {line(error)}"
        raise WeightsError(f"{name}: its files are not understood: {told}.") from None


def _from_folder(name: str, folder: pathlib.Path) -> Source:
    model_type = _model_type(folder)
    # A repository that serves both libraries holds timm's config of the picture tower alone.
    of_open_clip = model_type == TIMM or not _has_hf_weights(folder)
    if model_type is not None and not ((folder / OPEN_CLIP).is_file() and of_open_clip):
        return _from_hf(name, folder, model_type)
    if (folder / OPEN_CLIP).is_file():
        return _from_open_clip(name, folder)
    refuse_pickles(folder)
    if (folder / "config.json").is_file():
        _json(folder / "config.json")
    raise WeightsError(
        f"{name}: neither a config.json with a model_type (Hugging Face) nor {OPEN_CLIP}."
    )


def contract_of(source: Source, model: Any) -> Contract:
    """The contract of a published model: what its files say, and its own sizes.

    Args:
      source: the model's.
      model: ours.

    Raises:
      WeightsError: the files' picture or patch size is not the model's.
    """
    with _understood(source.name):
        return _contract(source, model)


def _contract(source: Source, model: Any) -> Contract:
    model = getattr(model, "stream", model)  # over pictures and texts together
    image, text = getattr(model, "image", model), getattr(model, "text", model)
    fields = dict(source.image)
    size = getattr(image, "image_size", None)
    if size is not None and fields.setdefault("image_size", size) != size:
        raise WeightsError(
            f"{source.name}: its processor makes pictures of {fields['image_size']} pixels and its "
            f"model takes {size}."
        )
    side = getattr(image, "patch_size", None)
    if fields.get("resize") == "naflex" and fields["patch_size"] != side:
        raise WeightsError(
            f"{source.name}: its processor makes patches of {fields['patch_size']} pixels and its "
            f"model takes {side}."
        )
    if hasattr(text, "length"):
        fields["sequence_length"] = text.length
    words = source.words
    if words is not None:
        most = getattr(text, "vocab_size", None)
        if most is not None and words.tokenizer.vocab_size > most:
            raise WeightsError(
                f"{source.name}: its {words.file} has token numbers up to "
                f"{words.tokenizer.vocab_size - 1} and its model's table {most} rows."
            )
        pad = words.tokenizer.pad_id
        fields |= {
            "tokenizer": words.tokenizer.fingerprint(),
            "bos": words.bos,
            "eos": words.eos,
            "text_cleaning": words.cleaning,
            "pad_id": 0 if pad is None else pad,
        }
    if source.family.name == "open_clip":  # its tokenizer cleans and fills up by its own rule
        fields |= {"pad_id": 0, "text_cleaning": "clip"}
    _check_pictures(source.name, fields)
    return Contract(**fields)


def _check_pictures(name: str, fields: Mapping[str, Any]) -> None:
    """Raises WeightsError where what is said of pictures cannot be meant."""
    for field in ("mean", "std"):
        value = fields.get(field, (0.5,) * 3)
        if len(value) != 3 or not all(math.isfinite(one) for one in value):
            raise WeightsError(f"{name}: {field}={str(value)[:80]} is not three numbers.")
    for field, most in (("image_size", MOST), ("resize_size", MOST), ("pad_value", 255)):
        value = fields.get(field, 0)
        if type(value) is not int or not 0 <= value <= most:
            raise WeightsError(f"{name}: {field}={str(value)[:80]} is no number of 0 to {most}.")


def _json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a file.

    Raises:
      WeightsError: it is none.
    """
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read: {line(error)}.") from None
    if not isinstance(made, dict):
        raise WeightsError(f"{path} holds no object.")
    return made


def _model_type(folder: pathlib.Path) -> str | None:
    """What a config.json says that the model is, or None."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    if "v_biattention_id" in found:  # neither of ViLBERT's releases says what it is
        return "vilbert"
    named = found.get("model_type") or (TIMM if TIMM_FILE in found else None)
    return named if named is None else str(named)


def _has_hf_weights(folder: pathlib.Path) -> bool:
    return any((folder / name).is_file() for name in ("model.safetensors",)) or any(
        folder.glob("*.safetensors.index.json")
    )


def family_named(module: str) -> Family:
    """The family in a module below mmjax.interop.families."""
    return importlib.import_module(f"mmjax.interop.families.{module}").FAMILY


def _missing(image: Mapping[str, Any], words: tokenizing.Words | None) -> dict[str, str]:
    """The file that each kind of call lacks."""
    made = {} if image else {"image": " or ".join(PROCESSORS)}
    return made if words is not None else {**made, "text": " or ".join(tokenizing.FILES)}


def _from_hf(name: str, folder: pathlib.Path, model_type: str) -> Source:
    theirs = TIMM_FILE in _json(folder / "config.json")
    if model_type not in MODEL_TYPES and not (model_type == TIMM and theirs):
        built = ", ".join(sorted(MODEL_TYPES))
        raise WeightsError(f"{name}: model_type {model_type!r} is not built; {built} are.")
    tensors = open_safetensors(folder, HF_WEIGHTS)
    image: dict[str, Any] = {}
    for file in PROCESSORS:
        if (folder / file).is_file():
            found = _json(folder / file)
            if file == PROCESSORS[0] and "image_processor" not in found:
                continue
            image = processing.from_hf(found, str(folder / file), model_type)
            break
    words = tokenizing.find(folder, TOKENIZERS.get(model_type, ""))
    config = _json(folder / "config.json")
    if model_type == TIMM:
        image = processing.from_timm(config.get("pretrained_cfg") or {}, name)
    family = family_named(MODEL_TYPES.get(model_type, model_type))
    return Source(name, folder, family, config, tensors, image, words, _missing(image, words))


def _from_open_clip(name: str, folder: pathlib.Path) -> Source:
    config = _json(folder / OPEN_CLIP)
    if not isinstance(config.get("model_cfg"), dict):
        raise WeightsError(f"{folder / OPEN_CLIP} holds no model_cfg.")
    # Beside timm's config a model.safetensors is timm's too.
    shared = _model_type(folder) == TIMM
    tensors = open_safetensors(folder, OPEN_CLIP_WEIGHTS[:-1] if shared else OPEN_CLIP_WEIGHTS)
    family = family_named("open_clip")
    size = config["model_cfg"].get("vision_cfg", {}).get("image_size", 224)
    size = size if isinstance(size, int) else size[0]
    image = processing.from_open_clip(config.get("preprocess_cfg") or {}, size, name)
    words = tokenizing.find(folder, TOKENIZERS["clip"])
    return Source(name, folder, family, config, tensors, image, words, _missing(image, words))


def _from_file(name: str, path: pathlib.Path) -> Source:
    refuse_pickles(path)
    if path.suffix == ".npz":
        tensors = Npz(path)
        family, config = big_vision.family_of(tensors), big_vision.config_of(tensors)
        image: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize": "squash"}
        if "positions" in config["image"]:
            side, most = config["image"]["patch_size"], config["image"]["positions"]
            image |= {"resize": "naflex", "interpolation": "bilinear"}
            image |= {"patch_size": side, "max_patches": most}
        words = tokenizing.find(path.parent, "SiglipTokenizer")
        return Source(
            name, path.parent, family, config, tensors, image, words, _missing(image, words)
        )
    if path.suffix == ".safetensors":
        raise WeightsError(
            f"{name}: arrays without a config; give the folder with its config.json or {OPEN_CLIP}."
        )
    raise WeightsError(f"{name}: no published model; a folder or a .npz of big_vision is one.")
