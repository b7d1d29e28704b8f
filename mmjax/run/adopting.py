"""A config that takes its model, preprocessing and tokenizer from the weights it begins with.

Nobody copies fields by hand: what the source says of itself is written into the config before any
other override, and so it stands in the saved config like everything else.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from mmjax.config import ConfigError, nearest, spec
from mmjax.data.sources.patterns import is_address
from mmjax.interop.reading import model_of
from mmjax.interop.sources import contract_of, is_published, open_source
from mmjax.interop.tensors import WeightsError
from mmjax.models.dual.naflex import NaFlexTwoTower
from mmjax.models.dual.two_tower import TwoTower
from mmjax.objectives.contrastive import Contrastive
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.preprocess import Contract
from mmjax.run.console import say

__all__ = ["adopt"]


def adopt(config: ConfigDict, overrides: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    """Fills in what the source of the first weights says; a config without `adopt` stays as it is.

    A name that can come to mean something else, such as a branch on the hub, is replaced by what it
    means now, so the saved config tells which weights those were.

    Args:
      config: changed in place.
      overrides: (path, text) of the command line, not yet applied; init_from is looked for.

    Returns:
      The overrides, with init_from as it was found.

    Raises:
      ConfigError: no source is given, or it is not two published towers.
    """
    if not config.get("adopt"):
        return overrides
    for path, text in overrides:  # before a source is missed: its key may be there, misspelt
        key = re.split(r"[.\[]", path)[0]
        if key not in config:
            near = nearest(key, sorted(config))
            raise ConfigError(f"--config.{path}={text}: no key {key!r} in config.{near}")
    name = dict(overrides).get("init_from", config.init_from)
    if not name:
        raise ConfigError(
            "this config takes its model from the weights it begins with: give "
            "--config.init_from=FOLDER or hf://owner/name."
        )
    if not is_address(name) and not pathlib.Path(name).exists():
        raise ConfigError(f"init_from={name!r}: no such file or folder.")
    if not is_published(name):
        raise ConfigError(
            f"init_from={name}: no published weights. A run of ours goes on under its own config: "
            f"--config={name}/config.json --config.init_from={name}."
        )
    try:
        source = open_source(name)
        model, _ = model_of(source.family, source.config, source.tensors)
        if not isinstance(model, TwoTower):
            raise WeightsError(
                f"{name} is one tower; this config fine-tunes two. configs/lit_b16.py takes a "
                "picture tower with --config.init_rules=\"(('(.*)', r'image/\\1'),)\"."
            )
        if isinstance(model, NaFlexTwoTower):
            raise WeightsError(
                f"{name} takes pictures as patches; this config's data makes squares of them."
            )
        contract = contract_of(source, model)
    except WeightsError as error:
        raise ConfigError(f"init_from: {error}") from None
    for kind in ("image", "text"):
        if kind in source.missing:
            lacks = f"{source.name} has no {source.missing[kind]}"
            say(f"{lacks}; give what it would say in the config.")
    with config.unlocked():
        config.init_from = source.name
        _fill(config, model, contract)
        if source.words is not None:
            path = pathlib.Path(source.folder) / source.words.file
            config.tokenizer.path = str(path)
            for role, number in _special(source.words.tokenizer).items():
                config.tokenizer[role] = number
    return [(path, source.name if path == "init_from" else text) for path, text in overrides]


def _special(tokenizer: Any) -> dict[str, str]:
    """{'eos_token': its name ...} of a tokenizer's special tokens."""
    names = {number: name for name, number in tokenizer.special_tokens().items()}
    roles = {f"{role}_token": getattr(tokenizer, f"{role}_id") for role in ("bos", "eos", "pad")}
    return {role: names[number] for role, number in roles.items() if number in names}


def _fill(config: ConfigDict, model: TwoTower, contract: Contract) -> None:
    config.image_size = contract.image_size
    config.sequence_length = contract.sequence_length
    how = {"dtype": config.get_ref("dtype"), "remat": config.get_ref("remat")}
    size, length = config.get_ref("image_size"), config.get_ref("sequence_length")
    config.model = spec(
        TwoTower,
        image=_spec(model.image, image_size=size, **how),
        text=_spec(model.text, length=length, **how),
        **{name: value for name, value in _fields(model) if name not in ("image", "text")},
    )
    for name, value in dataclasses.asdict(contract).items():
        if name not in ("image_size", "sequence_length", "tokenizer"):
            config.preprocess[name] = value
    words = {"bos": contract.bos, "eos": contract.eos, "cleaning": contract.text_cleaning}
    words["pad_id"] = contract.pad_id
    pictures = {"form": contract.resize, "interpolation": contract.interpolation}
    pictures |= {name: getattr(contract, name) for name in ("resize_size", "crop_rounding")}
    for node in _specs((config.data, config.eval_data)):
        kind = node.target.rpartition(":")[2]
        changes = {"Tokenize": words, "Resize": pictures}.get(kind, {})
        with node.unlocked():
            for name, value in changes.items():
                node[name] = value
    if model.learned_scale != "log_scale":  # the recipe's bound is on the logarithm
        config.optimizer.clamps = ()
    objective = Contrastive if model.bias_init is None else Sigmoid
    for goal in config.goals.values():
        with goal.unlocked():
            goal.objective = spec(objective)


def _fields(module: Any) -> list[tuple[str, Any]]:
    """(name, value) of a flax module's own fields that are set."""
    return [
        (field.name, getattr(module, field.name))
        for field in dataclasses.fields(module)
        if field.name not in ("parent", "name") and getattr(module, field.name) is not None
    ]


def _spec(module: Any, **changes: Any) -> ConfigDict:
    """The spec of a tower, with those of some fields that it has by reference."""
    fields = dict(_fields(module))
    names = {field.name for field in dataclasses.fields(module)}
    return spec(type(module), **fields | {k: v for k, v in changes.items() if k in names})


def _specs(value: Any) -> Iterator[ConfigDict]:
    """Every spec below a value."""
    if isinstance(value, ConfigDict):
        if "target" in value:
            yield value
        for name in value:
            yield from _specs(value[name])
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _specs(one)
