"""Preprocessing as published files say it, to our contract and back."""

import math
from collections.abc import Mapping
from typing import Any

from mmjax.interop.tensors import WeightsError
from mmjax.preprocess import CLIP_MEAN, CLIP_STD, Contract

__all__ = ["from_hf", "from_open_clip", "from_timm", "to_hf", "to_open_clip", "to_timm"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Pillow's numbers of its filters, which preprocessor_config.json holds.
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
# Processors to which a plain number for the size means the shortest edge; to others it is both.
NAFLEX = "Siglip2"
PADDING = "Vilt"  # pictures on a canvas, see the `Padded` transform; a contract does not say so yet
BY_SHORTEST = ("CLIP", "ChineseCLIP", "OwlViT", "Siglip")
BY_SHORTEST_TYPES = ("clip", "chinese_clip", "siglip")
# What the processor of a model_type does where its file does not say.
_CLIP = {
    "size": {"shortest_edge": 224},
    "crop_size": 224,
    "do_center_crop": True,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
}
_HALF = {"image_mean": (0.5,) * 3, "image_std": (0.5,) * 3}
DEFAULTS = {
    "clip": _CLIP,
    "chinese_clip": _CLIP,
    "siglip": {"size": {"height": 224, "width": 224}, **_HALF},
    "vit": {"size": {"height": 224, "width": 224}, "resample": 2, **_HALF},
    "align": {
        "size": {"height": 346, "width": 346},
        "crop_size": 289,
        "include_top": True,
        **_HALF,
    },
}


def from_hf(processor: Mapping[str, Any], where: str, model_type: str = "") -> dict[str, Any]:
    """The contract's fields of pictures, of a preprocessor_config.json or processor_config.json.

    None for ViLT's, so that its weights are loaded and its pictures are not treated otherwise.

    Args:
      processor: the file's content; one for a whole processor holds the picture's as a part.
      where: what to call the file in errors.
      model_type: of the config beside it, whose processor says what the file leaves out.

    Raises:
      WeightsError: it asks for what is not built.
    """
    given = processor.get("image_processor", processor)
    if not isinstance(given, Mapping):
        raise WeightsError(f"{where}: image_processor is no object.")
    given = {**DEFAULTS.get(model_type, {}), **given}
    if not given.get("do_resize", True):
        raise WeightsError(f"{where}: do_resize=False is not built; every picture has one size.")
    kind = str(given.get("image_processor_type") or given.get("feature_extractor_type") or "")
    if kind.startswith(PADDING):
        return {}
    patches = kind.startswith(NAFLEX)
    resample = given.get("resample", 2 if patches else 3)
    if resample not in RESAMPLE:
        raise WeightsError(f"{where}: resample={resample} is not built; {RESAMPLE} are.")
    if patches:
        half = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
        mean, std = _scaling({**half, **given})
        return {
            "resize": "naflex",
            "patch_size": given.get("patch_size", 16),
            "max_patches": given.get("max_num_patches", 256),
            "interpolation": RESAMPLE[resample],
            "mean": mean,
            "std": std,
        }
    by_shortest = kind.startswith(BY_SHORTEST) or (not kind and model_type in BY_SHORTEST_TYPES)
    form, size = _size(given.get("size", 224), by_shortest, where)
    image_size = size
    if given.get("do_center_crop", False) and given.get("crop_size") is not None:
        _, image_size = _size(given["crop_size"], False, where)
    elif form == "shortest":
        raise WeightsError(f"{where}: the shortest edge is {size} and nothing is cut to a square.")
    if image_size > size:
        raise WeightsError(
            f"{where}: crop_size={image_size} of pictures resized to {size} is not built: they "
            "would be padded."
        )
    cut = form == "shortest" or image_size != size
    mean, std = _scaling(given, model_type)
    return {
        "image_size": image_size,
        "resize": form,
        "resize_size": 0 if image_size == size else size,
        "crop_rounding": "down" if cut else "even",
        "interpolation": RESAMPLE[resample],
        "mean": mean,
        "std": std,
    }


def _size(size: Any, by_shortest: bool, where: str) -> tuple[str, int]:
    """(form, side) of a published size."""
    if isinstance(size, int):
        return ("shortest" if by_shortest else "squash"), size
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return "shortest", int(size["shortest_edge"])
    if isinstance(size, Mapping) and size.get("height") and size.get("height") == size.get("width"):
        return "squash", int(size["height"])
    raise WeightsError(f"{where}: a size of {size} is not built; squares and shortest edges are.")


def _scaling(
    given: Mapping[str, Any], model_type: str = ""
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of values in 0...1, with another scale or offset folded in."""
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if given.get("do_normalize", True):
        mean = _three(given.get("image_mean"), CLIP_MEAN)
        std = _three(given.get("image_std"), CLIP_STD)
    factor = given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 1.0
    factor = 255 * factor
    offset = 1.0 if given.get("rescale_offset", False) else 0.0
    if abs(factor - 1) > 1e-9 or offset:  # f · x - offset, then (… - mean) ÷ std
        mean = tuple((m + offset) / factor for m in mean)
        std = tuple(s / factor for s in std)
    named = str(given.get("image_processor_type", ""))
    twice = named.startswith("EfficientNet") or (not named and model_type == "align")
    if given.get("include_top", False) and twice:  # divided by std once more, about a mean of 0
        divisor = _three(given.get("image_std"), CLIP_STD)
        std = tuple(s * d for s, d in zip(std, divisor, strict=True))
    return mean, std


def _three(given: Any, default: tuple[float, ...]) -> tuple[float, ...]:
    """One number a channel; a single one is for all of them."""
    if isinstance(given, int | float) and 0 <= given <= 1:
        return (float(given),) * 3
    return tuple(given or default)


def to_hf(contract: Contract, kind: str) -> dict[str, Any]:
    """A preprocessor_config.json of our contract.

    Args:
      contract: ours.
      kind: name of the processor's class, e.g. 'CLIPImageProcessor'. What it cuts begins by its
        own rounding, crop_rounding='down'.

    Raises:
      WeightsError: the format cannot express it.
    """
    if contract.resize == "longest":
        raise WeightsError("resize='longest' has no counterpart in a preprocessor_config.")
    size = contract.resize_size or contract.image_size
    square = {"height": size, "width": size}
    cut = contract.resize == "shortest" or bool(contract.resize_size)
    made = {
        "image_processor_type": kind,
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": next(n for n, name in RESAMPLE.items() if name == contract.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(contract.mean),
        "image_std": list(contract.std),
    }
    if contract.resize == "naflex":
        sizes = {"patch_size": contract.patch_size, "max_num_patches": contract.max_patches}
        return {**made, **sizes}
    made["size"] = {"shortest_edge": size} if contract.resize == "shortest" else square
    made["do_center_crop"] = cut
    if kind.startswith("EfficientNet"):  # whose default is to divide once more
        made |= {"rescale_offset": False, "include_top": False}
    if cut:
        made["crop_size"] = {"height": contract.image_size, "width": contract.image_size}
    return made


def from_open_clip(config: Mapping[str, Any], image_size: int, where: str) -> dict[str, Any]:
    """The contract's fields of pictures, of an open_clip_config.json.

    Args:
      config: its 'preprocess_cfg'; what it leaves out stands at open_clip's own defaults.
      image_size: of the model.
      where: what to call the file in errors.

    Raises:
      WeightsError: it asks for what is not built.
    """
    form = config.get("resize_mode", "shortest")
    interpolation = config.get("interpolation", "bicubic")
    fills = _list(config.get("fill_color", 0))
    if form not in ("shortest", "longest", "squash") or interpolation not in RESAMPLE.values():
        raise WeightsError(
            f"{where}: resize_mode={form!r} with interpolation={interpolation!r} is not built."
        )
    sizes = _list(config.get("size", image_size))
    for field, values in (("fill_color", fills), ("size", sizes[-2:])):
        if len(set(values)) != 1:
            raise WeightsError(f"{where}: {field}={config[field]!r} is not built; one number is.")
    if config.get("mode", "RGB") != "RGB":
        raise WeightsError(f"{where}: mode={config['mode']!r} is not built; 'RGB' is.")
    return {
        "image_size": sizes[-1],
        "resize": form,
        "interpolation": interpolation,
        "mean": _three(config.get("mean"), CLIP_MEAN),
        "std": _three(config.get("std"), CLIP_STD),
        "pad_value": fills[0],
    }


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def from_timm(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The contract's fields of pictures, of the 'pretrained_cfg' in timm's config.json.

    Args:
      config: what it leaves out stands at timm's own defaults.
      where: what to call the file in errors.

    Raises:
      WeightsError: it asks for what is not built.
    """
    sizes = tuple(config.get("input_size") or (3, 224, 224))
    size = int(sizes[-1])
    built = {
        "input_size": len(sizes) == 3 and sizes[0] == 3 and sizes[1] == size,
        "crop_mode": config.get("crop_mode", "center") in ("center", "squash"),
        "interpolation": config.get("interpolation", "bilinear") in RESAMPLE.values(),
    }
    for field, known in built.items():
        if not known:
            raise WeightsError(f"{where}: {field}={config[field]!r} is not built.")
    wanted = math.floor(size / config.get("crop_pct", 0.875))
    return {
        "image_size": size,
        "resize": "squash" if config.get("crop_mode") == "squash" else "shortest",
        "resize_size": 0 if wanted == size else wanted,
        "interpolation": config.get("interpolation", "bilinear"),
        "mean": _three(config.get("mean"), IMAGENET_MEAN),
        "std": _three(config.get("std"), IMAGENET_STD),
    }


def to_timm(contract: Contract) -> dict[str, Any]:
    """The picture's part of a 'pretrained_cfg' of our contract.

    Raises:
      WeightsError: the format cannot express it.
    """
    if contract.resize not in ("shortest", "squash"):
        raise WeightsError(f"resize={contract.resize!r} has no counterpart in a pretrained_cfg.")
    size = contract.image_size
    wanted = contract.resize_size or size
    share = size / wanted
    if math.floor(size / share) != wanted:  # as timm reads it back
        share = size / (wanted + 0.5)
    return {
        "input_size": [3, size, size],
        "fixed_input_size": False,
        "interpolation": contract.interpolation,
        "crop_pct": share,
        "crop_mode": "center" if contract.resize == "shortest" else "squash",
        "mean": list(contract.mean),
        "std": list(contract.std),
    }


def to_open_clip(contract: Contract) -> dict[str, Any]:
    """The 'preprocess_cfg' of our contract.

    Raises:
      WeightsError: the format cannot express it.
    """
    if contract.resize == "naflex":
        raise WeightsError("resize='naflex' has no counterpart in a preprocess_cfg.")
    if contract.resize_size:
        raise WeightsError("preprocess.resize_size has no counterpart in a preprocess_cfg.")
    return {
        "size": contract.image_size,
        "mode": "RGB",
        "mean": list(contract.mean),
        "std": list(contract.std),
        "interpolation": contract.interpolation,
        "resize_mode": contract.resize,
        "fill_color": contract.pad_value,
    }
