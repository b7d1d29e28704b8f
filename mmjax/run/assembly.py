"""Config to objects, in two stages: what can be checked before a device starts, then the rest."""

import dataclasses
import functools
import hashlib
import inspect
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax.config import ConfigError, build, plain
from mmjax.data.dataset import Dataset, Mixture, members_of
from mmjax.data.fields import check_first
from mmjax.data.sources.fetching import FetchError
from mmjax.data.tokenizers.base import Tokenizer
from mmjax.data.transforms.answers import AnswerScores
from mmjax.data.transforms.naflex import NaFlex
from mmjax.data.transforms.resize import Resize
from mmjax.data.transforms.text import Tokenize, check_tokenizer, clean_text
from mmjax.objectives.base import Objective
from mmjax.preprocess import Contract
from mmjax.run.config_file import check_workers
from mmjax.run.model_fields import check_fields
from mmjax.run.settings import check_keys
from mmjax.run.suiting import check_kind
from mmjax.training.optimizers.base import Optimizer
from mmjax.training.step import Goal, Recipe

TRAINED_ON = ("data", "first")  # keys of a config that an evaluation does not need
_RECIPE_FIELDS = tuple(field.name for field in dataclasses.fields(Recipe))
# Keys of a config that its recipe is made of.
RECIPE = tuple("preprocess" if name == "contract" else name for name in _RECIPE_FIELDS)


@dataclasses.dataclass(frozen=True)
class Stream:
    """One stream of batches in the step, where there are several.

    Attributes:
      data: a Dataset or a Mixture.
      batch_size: rows of its global batch.
    """

    data: Any
    batch_size: int


@dataclasses.dataclass(frozen=True)
class Parts:
    """A config's objects, before tokenizer and devices are known.

    Attributes:
      recipe: what is trained; its contract still lacks the tokenizer's hash.
      streams: {name: Stream}; a config with one dataset has the stream 'main'; {} where the
        parts were made without training data.
      eval_data: {name: held-out data}; a config with one such set has the name ''; {} for none.
      settings: all other built values, by the config's keys.
    """

    recipe: Recipe
    streams: Mapping[str, Stream]
    eval_data: Mapping[str, Dataset | Mixture]
    settings: Mapping[str, Any]


def assemble(config: ConfigDict, allow: tuple[str, ...] = (), training: bool = True) -> Parts:
    """Makes everything that needs no device, and reads a first sample of each dataset.

    Args:
      config: locked, with all overrides applied.
      allow: packages whose classes a config that was read back may name.
      training: False leaves the training data alone, which an evaluation need not have.

    Raises:
      ConfigError: the first thing found wrong, in one line.
    """
    check_keys(config)
    check_workers(config)
    named_tokenizer(config.tokenizer)
    made = build({k: v for k, v in config.items() if training or k not in TRAINED_ON}, allow)
    data, goals = made.get("data", {}), made["goals"]
    if isinstance(data, Dataset | Mixture):
        streams = {"main": Stream(data, made["batch_size"])}
    else:
        streams = dict(data)
    for name, goal in goals.items():
        if not isinstance(goal, Goal):
            raise ConfigError(f"goals.{name} is no Goal; write spec(Goal, objective=...).")
        check_kind(f"goals.{name}.objective", goal.objective, Objective)
        if training:
            check_stream(name, goal.stream, streams)
    if not goals:
        raise ConfigError("goals is empty; a run needs at least one spec(Goal, objective=...).")
    check_kind("optimizer", made["optimizer"], Optimizer)
    recipe = make_recipe(made)
    check_fields(recipe.model, "model")
    for name, goal in goals.items():
        check_fields(goal.objective, f"goals.{name}.objective")
    parts = Parts(recipe, streams, _held_out(made), made)
    _check_preprocess(parts)
    for dataset in _everything(parts):
        try:
            check_first(dataset.source, dataset.fields)
        except (ValueError, FetchError) as error:
            raise ConfigError(str(error)) from None
    return parts


def _check_preprocess(parts: Parts) -> None:
    """Raises ConfigError where held-out pictures are not, or could not be, as the contract says."""
    c = parts.recipe.contract
    try:
        clean_text("", c.text_cleaning)
        if c.resize != "naflex":
            Resize(
                c.image_size, c.resize, c.interpolation, c.pad_value, c.resize_size, c.crop_rounding
            )
    except ValueError as error:
        raise ConfigError(f"preprocess: {error}") from None
    held_out = [member for data in parts.eval_data.values() for member in members_of(data)]
    transforms = [transform for member in held_out for transform in member.transforms]
    for given in (t.interpolation for t in transforms if isinstance(t, NaFlex)):
        if given != c.interpolation:
            raise ConfigError(
                f"a NaFlex of eval_data has interpolation={given!r} and preprocess.interpolation "
                f"is {c.interpolation!r}; make the two equal."
            )
    for resize in (t for t in transforms if isinstance(t, Resize)):
        cut = resize.form == "shortest" or resize.resize_size or c.resize_size
        same = ("interpolation", *(("resize_size", "crop_rounding") if cut else ()))
        for given, agreed in (("form", "resize"), *zip(same, same)):
            if (there := getattr(resize, given)) != (said := getattr(c, agreed)):
                raise ConfigError(
                    f"a Resize of eval_data has {given}={there!r} and preprocess.{agreed} is "
                    f"{said!r}; make the two equal."
                )


def _held_out(made: Mapping[str, Any]) -> dict[str, Dataset | Mixture]:
    """{name: held-out data} of built values, with every evaluator's data there."""
    data = made.get("eval_data")
    if data is None:
        return {}
    if isinstance(data, Dataset | Mixture):
        return {"": data}
    named = dict(data)
    for name, evaluators in made["evaluators"].items():
        if name not in named or not isinstance(evaluators, Mapping):
            raise ConfigError(
                f"evaluators.{name}: eval_data has several sets, {', '.join(named)}; evaluators "
                f"stand under the name of theirs, as evaluators.{next(iter(named))}.{name}."
            )
    return named


def check_stream(goal: str, stream: str, streams: Iterable[str]) -> None:
    """Raises ConfigError where a goal, given by its name, reads a stream that is not there."""
    if stream not in streams:
        raise ConfigError(f"goals.{goal} reads stream {stream!r}; there are {', '.join(streams)}.")


def make_recipe(made: Mapping[str, Any]) -> Recipe:
    """The recipe of built values, by the config's keys (`RECIPE`)."""
    return Recipe(**{f: made[key] for f, key in zip(_RECIPE_FIELDS, RECIPE) if key in made})


def _everything(parts: Parts) -> list[Dataset]:
    """Every dataset of a run, trained or evaluated on."""
    data = [*(stream.data for stream in parts.streams.values()), *parts.eval_data.values()]
    return [member for one in data for member in members_of(one)]


def waits_for(transform: Any, name: str) -> bool:
    """Whether a transform still lacks an argument that only a run can give it."""
    if not isinstance(transform, functools.partial) or name in transform.keywords:
        return False
    return name in inspect.signature(transform.func).parameters


def waiting_transforms(data: Dataset | Mixture) -> list[functools.partial]:
    """The transforms of a stream that lack something still."""
    found = (transform for member in members_of(data) for transform in member.transforms)
    return [transform for transform in found if isinstance(transform, functools.partial)]


def needs(parts: Parts, name: str) -> bool:
    """Whether some transform waits for a 'tokenizer' or for 'answers'."""
    found = (t for member in _everything(parts) for t in member.transforms)
    return any(waits_for(transform, name) for transform in found)


def open_tokenizer(path: str | pathlib.Path, tokens: Mapping[str, str] | None = None) -> Tokenizer:
    """The tokenizer in a file, by its ending.

    Args:
      path: a tokenizer.json, a SentencePiece .model, or the vocab.txt or vocab.json of a published
        folder without either.
      tokens: names of the 'bos_token', 'eos_token' and 'pad_token' of a file that calls them
        otherwise than most; '' or a missing one looks for the usual names.

    Raises:
      ConfigError: an unreadable file or an unknown ending.
    """
    from mmjax.data.tokenizers.huggingface import HuggingFaceTokenizer
    from mmjax.data.tokenizers.sentencepiece import SentencePieceTokenizer
    from mmjax.interop import tokenizing
    from mmjax.interop.vocabularies import VOCABULARIES

    path = pathlib.Path(path)
    named = {name: token for name, token in (tokens or {}).items() if token}
    try:
        if path.name in VOCABULARIES and path.is_file():
            return tokenizing.find(path.parent).tokenizer
        if path.suffix == ".json":
            return HuggingFaceTokenizer(str(path), **named)
        if path.suffix == ".model":
            return SentencePieceTokenizer(str(path), **named)
    except (OSError, ValueError) as error:
        raise ConfigError(f"tokenizer.path={str(path)!r}: {error}") from None
    raise ConfigError(
        f"tokenizer.path={str(path)!r}: give a tokenizer.json or a SentencePiece .model file."
    )


def named_tokenizer(named: Mapping[str, Any] | ConfigDict) -> Tokenizer | None:
    """The tokenizer that a config's 'tokenizer' names, or None where one is to be trained."""
    if not named["path"]:
        return None
    tokens = {role: named[role] for role in ("bos_token", "eos_token", "pad_token")}
    return open_tokenizer(named["path"], tokens)


def bind(parts: Parts, name: str, value: Any) -> Parts:
    """The parts with a value given to every transform that waits for it.

    Args:
      parts: as assembled.
      name: of the transforms' argument.
      value: what only the run knows.
    """

    def bound(data: Dataset | Mixture) -> Mixture:
        members = []
        for member in members_of(data):
            transforms = tuple(
                transform(**{name: value}) if waits_for(transform, name) else transform
                for transform in member.transforms
            )
            members.append(dataclasses.replace(member, path="", transforms=transforms))
        return Mixture(tuple(members))

    return dataclasses.replace(
        parts,
        streams={
            stream: dataclasses.replace(given, data=bound(given.data))
            for stream, given in parts.streams.items()
        },
        eval_data={name: bound(data) for name, data in parts.eval_data.items()},
    )


def with_tokenizer(parts: Parts, tokenizer: Tokenizer | None) -> Parts:
    """The parts with the tokenizer in their transforms, and what it does in the contract.

    Raises:
      ConfigError: tokenizer, text tower, transforms and contract do not go together.
    """
    if tokenizer is None:
        return parts

    try:
        made = bind(parts, "tokenizer", tokenizer)
        contract = _agreed(made, tokenizer)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return dataclasses.replace(made, recipe=dataclasses.replace(parts.recipe, contract=contract))


def _agreed(parts: Parts, tokenizer: Tokenizer) -> Contract:
    """The contract with the tokenizer's facts, once every Tokenize agrees with it."""
    contract, model = parts.recipe.contract, parts.recipe.model
    text = getattr(model, "text", getattr(model, "stream", None))
    found = [t for member in _everything(parts) for t in member.transforms if _is_tokenize(t)]
    for tokenize in found:
        if hasattr(text, "vocab_size"):
            pooled_at = text.eos_id if text.pooling == "end_of_text" else None
            check_tokenizer(tokenize, text.vocab_size, text.length, pooled_at)
        for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("cleaning", "text_cleaning")):
            given, agreed = getattr(tokenize, ours), getattr(contract, theirs)
            if given != agreed:
                raise ValueError(
                    f"a Tokenize of the data has {ours}={given!r} and preprocess.{theirs} is "
                    f"{agreed!r}; make the two equal."
                )
    fillers = {tokenize.filler for tokenize in found}
    if len(fillers) > 1:
        raise ValueError(f"the data's Tokenize fill up with {sorted(fillers)}; take one pad_id.")
    pad_id = fillers.pop() if fillers else contract.pad_id
    return dataclasses.replace(contract, tokenizer=tokenizer.fingerprint(), pad_id=pad_id)


def _is_tokenize(transform: Any) -> bool:
    return isinstance(transform, Tokenize)


def check_contract(contract: Contract, shapes: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError where the rows that the data gives are not what the contract says."""
    if "image" in shapes:
        size, given = contract.image_size, tuple(shapes["image"][0])[-3:]
        if given[:2] != (size, size):
            raise ConfigError(
                f"{where} gives pictures of {given[0]}x{given[1]}, preprocess.image_size is {size}."
            )
    if "patches" in shapes:
        wanted = (contract.max_patches, 3 * contract.patch_size**2)
        if tuple(shapes["patches"][0]) != wanted:
            raise ConfigError(
                f"{where} gives patches of {tuple(shapes['patches'][0])}; preprocess.max_patches="
                f"{contract.max_patches} and patch_size={contract.patch_size} are {wanted}."
            )
    if "token_ids" in shapes:
        given = shapes["token_ids"][0][-1]
        if given != contract.sequence_length:
            raise ConfigError(
                f"{where} gives texts of {given} tokens, preprocess.sequence_length is "
                f"{contract.sequence_length}."
            )


def find_tokenize(data: Dataset | Mixture) -> Tokenize | None:
    """The transform that makes tokens of a caption, or None."""
    return next(filter(_is_tokenize, members_of(data)[0].transforms), None)


def data_identity(config: ConfigDict, parts: Parts) -> str:
    """JSON of all that decides the batch at a step: what a resumed run must find unchanged.

    Folders do not enter, so shards may move; names, sizes and counts of the files do, and the
    tokenizer by its content.
    """
    streams = {
        name: {
            "batch_size": stream.batch_size,
            "sources": [member.source.fingerprint() for member in members_of(stream.data)],
        }
        for name, stream in parts.streams.items()
    }
    rules = _without_places(plain(config.data))
    digest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]
    facts = {
        "seed": config.seed,
        "streams": streams,
        "rules": digest,
        "tokenizer": parts.recipe.contract.tokenizer,
    }
    answers = {
        transform.answers.names
        for stream in parts.streams.values()
        for member in members_of(stream.data)
        for transform in member.transforms
        if isinstance(transform, AnswerScores)
    }
    if answers:  # by content, as the tokenizer
        facts["answers"] = hashlib.sha256(json.dumps(sorted(answers)).encode()).hexdigest()[:16]
    return json.dumps(facts, sort_keys=True, indent=1)


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        left_out = ("path", "source", "fetching")  # what of it decides the order is in fingerprints
        return {k: _without_places(v) for k, v in value.items() if k not in left_out}
    return [_without_places(v) for v in value] if isinstance(value, tuple) else value
