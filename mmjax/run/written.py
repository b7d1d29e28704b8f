"""What a source says of itself, written down: its model, its contract, its tokenizer."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.preprocess import Contract

__all__ = ["fields_of", "fill_contract", "fill_tokenizer", "specs", "written"]

SIZES = ("image_size", "sequence_length", "tokenizer")  # that a config holds elsewhere


def fields_of(module: Any) -> dict[str, Any]:
    """{name: value} of a flax module's own fields that are set."""
    return {
        field.name: getattr(module, field.name)
        for field in dataclasses.fields(module)
        if field.name not in ("parent", "name") and getattr(module, field.name) is not None
    }


def written(module: Any, how: Mapping[str, Any]) -> ConfigDict:
    """The spec of a module and of all modules in it.

    Args:
      module: a flax module.
      how: {field: value} for whichever of the modules have such a field, references for instance.
    """
    fields = {
        name: written(value, how) if dataclasses.is_dataclass(value) else value
        for name, value in fields_of(module).items()
    }
    names = {field.name for field in dataclasses.fields(module)}
    return spec(type(module), **fields | {k: v for k, v in how.items() if k in names})


def specs(value: Any) -> Iterator[ConfigDict]:
    """Every spec below a value."""
    if isinstance(value, ConfigDict):
        if "target" in value:
            yield value
        for name in value:
            yield from specs(value[name])
    elif isinstance(value, tuple | list):
        for one in value:
            yield from specs(one)


def kind(node: ConfigDict) -> str:
    """The name of the class that a spec is of."""
    return node.target.rpartition(":")[2]


def fill_contract(config: ConfigDict, contract: Contract, unsaid: tuple[str, ...] = ()) -> None:
    """Writes how pictures and texts must look into `preprocess`, `Resize` and `Tokenize`.

    Sizes are left alone; one that a picture gets before it is cut follows that of the cut.

    Args:
      config: unlocked; changed in place.
      contract: of the source.
      unsaid: of 'image' and 'text' what the source says nothing of, which stays as it is.
    """
    words = {name: getattr(contract, name) for name in ("bos", "eos", "pad_id")}
    words["cleaning"] = contract.text_cleaning
    pictures = {"form": contract.resize, "interpolation": contract.interpolation}
    size = contract.resize_size
    if size and "image_size" in config:  # follows the size of what is cut out of it
        size = config.get_ref("image_size") * size // contract.image_size
    pictures |= {"resize_size": size, "crop_rounding": contract.crop_rounding}
    of_text = ("bos", "eos", "pad_id", "text_cleaning")
    for name, value in dataclasses.asdict(contract).items():
        if name not in SIZES and ("text" if name in of_text else "image") not in unsaid:
            config.preprocess[name] = size if name == "resize_size" else value
    told = {
        "Tokenize": {} if "text" in unsaid else words,
        "Resize": {} if "image" in unsaid else pictures,
    }
    for node in specs((config.data, config.eval_data)):
        with node.unlocked():
            for name, value in told.get(kind(node), {}).items():
                node[name] = value


def fill_tokenizer(config: ConfigDict, path: str, names: Mapping[str, str]) -> None:
    """Writes where the tokenizer lies and what its special tokens are called.

    Args:
      config: unlocked; changed in place.
      path: of its file.
      names: {'bos_token' and so on: its name}.
    """
    config.tokenizer.path = path
    for role, name in names.items():
        config.tokenizer[role] = name
