"""A config that takes its model, preprocessing and tokenizer from the weights it begins with.

Nobody copies fields by hand: what the source says of itself is written into the config before any
other override, and so it stands in the saved config like everything else.
"""

import dataclasses
import pathlib
import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from mmjax.config import ConfigError, nearest, override, spec
from mmjax.data.sources.patterns import is_address
from mmjax.data.transforms.naflex import PATCHES
from mmjax.interop import hub
from mmjax.interop.reading import model_of
from mmjax.interop.sources import Source, contract_of, is_published, open_source
from mmjax.interop.tensors import WeightsError
from mmjax.models.dual.naflex import NaFlexTwoTower
from mmjax.models.dual.two_tower import TwoTower
from mmjax.objectives.contrastive import Contrastive
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.preprocess import Contract
from mmjax.run.console import say
from mmjax.run.reading_pictures import Reading, read_so
from mmjax.run.told import told_tokenizer
from mmjax.run.tuning import tune
from mmjax.run.written import fill_contract, fill_tokenizer, written

__all__ = ["adopt"]

# Options that only say how a model is adopted.
ADOPTED = ("layer_rate", "head_rate", "num_regions", "several")
BROUGHT = ("max_patches",)  # keys that a config has of some sources alone


def adopt(config: ConfigDict, overrides: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    """Fills in what the source of the first weights says; a config without `adopt` stays as it is.

    `adopt` is True for two published towers, or the name of a task (`mmjax.run.tuning`). What is
    filled in is the config's own from then on, and `adopt` is empty. A name that can come to mean
    something else, such as a branch on the hub, is replaced by what it means now, so the saved
    config tells which weights those were.

    Args:
      config: changed in place.
      overrides: (path, text) of the command line, not yet applied; adopt, init_from and what the
        model is made by are looked for.

    Returns:
      The overrides that are still to be applied, with init_from as it was found.

    Raises:
      ConfigError: no source is given, or it is none that this config can begin with.
    """
    if "adopt" not in config:
        return overrides
    for path, text in overrides:  # before a source is missed: its key may be there, misspelt
        key = re.split(r"[.\[]", path)[0]
        if config.adopt and key not in (*config, *BROUGHT):
            near = nearest(key, sorted(config))
            raise ConfigError(f"--config.{path}={text}: no key {key!r} in config.{near}")
        if path == "adopt":
            override(config, path, text)
    overrides = [(path, text) for path, text in overrides if path != "adopt"]
    if not config.adopt:
        for path, text in overrides:
            if path in ADOPTED and path in config:
                raise ConfigError(
                    f"--config.{path}={text} takes effect where a model is adopted, and this run "
                    "adopts none; change the optimizer's and the data's own options."
                )
        return overrides
    name = dict(overrides).get("init_from", config.init_from)
    if not name:
        raise ConfigError(
            "this config takes its model from the weights it begins with: give "
            "--config.init_from=FOLDER or hf://owner/name."
        )
    if not is_address(name) and not pathlib.Path(name).exists():
        raise ConfigError(f"init_from={name!r}: no such file or folder.{hub.meant(name)}")
    if isinstance(config.adopt, str):
        found = tune(config, name, overrides)
    else:
        found = _two_towers(config, name, [path for path, _ in overrides])
    return [(path, found if path == "init_from" else text) for path, text in overrides]


def _two_towers(config: ConfigDict, name: str, typed: Sequence[str]) -> str:
    """Fills in what two published towers say; gives their name as it was found.

    Args:
      config: changed in place.
      name: of the source.
      typed: paths of the command line.

    Raises:
      ConfigError: the source is none of two towers, or a size is typed that its pictures lack.
    """
    if not is_published(name):
        raise ConfigError(
            f"init_from={name}: no published weights. A run of ours goes on under its own config: "
            f"--config={name}/config.json --config.init_from={name} --workdir=ANOTHER, with its "
            f"own tokenizer where it has one: --config.tokenizer.path={name}/tokenizer.json."
        )
    try:
        source = open_source(name)
        model, _ = model_of(source.family, source.config, source.tensors)
        if not isinstance(model, TwoTower):
            raise WeightsError(
                f"{name} is one tower; this config fine-tunes two. configs/lit_b16.py takes a "
                "picture tower with --config.init_rules=\"(('(.*)', r'image/\\1'),)\"."
            )
        contract = contract_of(source, model)
    except WeightsError as error:
        raise ConfigError(f"init_from: {error}") from None
    for kind in ("image", "text"):
        if kind in source.missing:
            lacks = f"{source.name} has no {source.missing[kind]}"
            say(f"{lacks}; give what it would say in the config.")
    if isinstance(model, NaFlexTwoTower):
        contract = _of_patches(contract, model, source, typed)
    with config.unlocked():
        config.init_from = source.name
        _fill(config, model, contract)
        if source.words is not None:
            fill_tokenizer(config, *told_tokenizer(source))
        config.adopt = False
    return source.name


def _of_patches(
    contract: Contract, model: NaFlexTwoTower, source: Source, typed: Sequence[str]
) -> Contract:
    """The contract of pictures in their own shape, also where no file says how many patches.

    Raises:
      ConfigError: a side of squares is typed.
    """
    for path in typed:
        if path in ("image_size", "preprocess.image_size"):
            raise ConfigError(
                f"--config.{path}: {source.name} takes pictures in their own shape; give the "
                "number of patches that they are cut into at most, --config.max_patches=N."
            )
    if "image" not in source.missing:
        return contract
    sizes = {"patch_size": model.image.patch_size, "max_patches": model.image.positions}
    return dataclasses.replace(contract, resize="naflex", interpolation="bilinear", **sizes)


def _fill(config: ConfigDict, model: TwoTower, contract: Contract) -> None:
    patches = isinstance(model, NaFlexTwoTower)
    if patches:  # of no size: who types one is told so
        del config["image_size"], config.preprocess["image_size"]
        config.preprocess.image_size = contract.image_size
        config.max_patches = contract.max_patches
        config.preprocess.max_patches = config.get_ref("max_patches")
    else:
        config.image_size = contract.image_size
    config.sequence_length = contract.sequence_length
    shared = ("dtype", "remat", "image_size")
    how = {name: config.get_ref(name) for name in shared if name in config}
    config.model = written(model, {**how, "length": config.get_ref("sequence_length")})
    fill_contract(config, contract)
    if model.learned_scale != "log_scale":  # the recipe's bound is on the logarithm
        config.optimizer.clamps = ()
    objective = Contrastive if model.bias_init is None else Sigmoid
    for goal in config.goals.values():
        with goal.unlocked():
            goal.objective = spec(objective)
    if patches:
        read_so(config, Reading("patches", (*PATCHES, "row")))
