"""The weights that a new run begins with: whose they are, and whether the run treats them alike.

Wrong activations, end-of-text rules and preprocessing have no error message of their own: a model
merely gets worse. So what a source says of itself is compared with what the run is about to do.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.config import ConfigError, build, from_json
from mmjax.interop.family import compare
from mmjax.interop.origin import FILES, to_files
from mmjax.interop.reading import fill
from mmjax.interop.sources import contract_of, is_published, open_source
from mmjax.interop.tensors import WeightsError
from mmjax.preprocess import Contract
from mmjax.run.console import say
from mmjax.training.checkpoint import find_checkpoint, restore_params
from mmjax.training.home import local_source
from mmjax.training.state import State
from mmjax.training.step import Recipe
from mmjax.training.warm_start import taken, warm_start
from mmjax.typing import PyTree

__all__ = ["begin_from"]

TOWERS = ("image", "text", "stream")
_UNKNOWN = object()  # a model that is not known
# Sizes that a warm start makes fit, or refuses by the arrays' shapes.
SIZES = ("image_size", "length", "vocab_size", "depth")
CONTRACT = {
    "image": ("mean", "std", "interpolation", "resize", "resize_size", "crop_rounding"),
    "text": ("tokenizer", "text_cleaning", "bos", "eos", "pad_id"),
}
CUTTING = ("resize_size", "crop_rounding")  # what they say of pictures of which a part is cut out
CONTRACT["stream"] = CONTRACT["text"]  # over words and what is seen, see `models.fusion`
SIZES += ("max_patches", "modalities")


@dataclasses.dataclass(frozen=True)
class _Given:
    """A source's arrays and what it says of itself."""

    trees: tuple[PyTree, PyTree]
    model: Any
    contract: Contract | None
    files: Mapping[str, bytes]
    unsaid: tuple[str, ...] = ()


def begin_from(
    config: ConfigDict, recipe: Recipe, state: State
) -> tuple[tuple[PyTree, PyTree], Mapping[str, bytes]]:
    """((parameters, running statistics), {file that tells where they came from: content}).

    Args:
      config: of the run, with init_from, init_rules, init_fresh, init_ema and init_differs.
      recipe: of the run, its contract with the tokenizer's hash.
      state: as initialised.

    Raises:
      ConfigError: the source is none, arrays are left over, or the run would treat what it takes
        otherwise than the source did.
    """
    name = config.init_from
    try:
        given = _read(name, config.init_ema)
        rules, fresh = config.init_rules, config.init_fresh
        towers = {tower: _theirs(given, rules, tower) for tower in TOWERS}
        _check(name, given, recipe, towers, config.init_differs)
        trees = (state.params, state.batch_stats)
        return warm_start(*trees, given.trees, name, rules, fresh), given.files
    except WeightsError as error:
        raise ConfigError(f"init_from: {error}") from None


def _read(name: str, ema: bool) -> _Given:
    if is_published(name):
        if ema:
            raise WeightsError(f"{name}: init_ema is for runs of ours; published weights have one.")
        source = open_source(name)
        filled = fill(source.family, source.config, source.tensors)
        say(f"weights: {source.name} ({source.family.name}).")
        trees = (filled.variables["params"], filled.variables.get("batch_stats", {}))
        files = to_files(source.name, source.family.name, filled.config, filled.read.aside)
        contract = contract_of(source, filled.model)
        return _Given(trees, filled.model, contract, files, tuple(source.missing))
    with local_source(name) as local:
        folder = find_checkpoint(local)
        trees = restore_params(folder, "ema" if ema else "params")
        try:
            model = build(plain_config(folder).model)
        except (ConfigError, OSError, AttributeError):  # of a package that is not allowed here
            model = None
        file = folder / "preprocess.json"
        contract = Contract.from_json(file.read_text(encoding="utf-8")) if file.exists() else None
        kept = {one: (folder / one).read_bytes() for one in FILES if (folder / one).exists()}
    return _Given(trees, model, contract, kept)


def plain_config(folder: pathlib.Path) -> ConfigDict:
    """The config that a checkpoint holds."""
    return from_json((folder / "config.json").read_text(encoding="utf-8"))


def _theirs(given: _Given, rules: Any, tower: str) -> Any:
    """The source's tower of which arrays go to ours, or None where none do."""
    if taken(given.trees[0], rules, tower, tower):
        return getattr(given.model, tower, _UNKNOWN)
    if tower == "stream":  # begins with a tower that is none itself
        return None
    if taken(given.trees[0], rules, "", tower):  # a tower of its own
        return _UNKNOWN if given.model is None else given.model
    return None


def _cut_alike(*contracts: Contract) -> bool:
    """Whether a part is cut out of pictures, and of the same size."""
    cut = any(one.resize == "shortest" or one.resize_size for one in contracts)
    return cut and len({one.image_size for one in contracts}) == 1


def _check(
    name: str, given: _Given, recipe: Recipe, towers: Mapping[str, Any], allowed: tuple[str, ...]
) -> None:
    """Raises ConfigError where a tower that is taken would be treated otherwise."""
    found: list[tuple[str, Any, Any]] = []
    for tower, theirs in towers.items():
        mine = getattr(recipe.model, tower, None)
        if theirs is None:
            continue
        if mine is not None and theirs is not _UNKNOWN:
            found += [
                (f"model.{tower}.{field}", there, here)
                for field, here, there in compare(mine, theirs)
                if field not in SIZES
            ]
        if given.contract is None or tower.replace("stream", "text") in given.unsaid:
            continue
        for field in CONTRACT[tower]:
            there, here = getattr(given.contract, field), getattr(recipe.contract, field)
            if field in CUTTING and not _cut_alike(given.contract, recipe.contract):
                continue
            same = np.allclose(there, here) if field in ("mean", "std") else there == here
            if not same and (field != "tokenizer" or there):
                found.append((f"preprocess.{field}", there, here))
    wrong = [one for one in found if not any(re.fullmatch(p, one[0]) for p in allowed)]
    if not wrong:
        return
    told = "; ".join(
        f"{field} is {there!r} there and {here!r} here" for field, there, here in wrong
    )
    named = f"init_differs=({wrong[0][0]!r},)"
    raise ConfigError(f"init_from={name}: {told}. Make them equal, or name them in {named}.")
