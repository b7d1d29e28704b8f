"""What a source of weights says of itself, be it published or a run of ours; no array is read."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from mmjax.config import ConfigError, build, from_json
from mmjax.data.answers import Answers
from mmjax.data.sources.patterns import is_address
from mmjax.interop.reading import model_of
from mmjax.interop.sources import Source, contract_of, is_published, open_source
from mmjax.interop.tensors import WeightsError
from mmjax.preprocess import Contract
from mmjax.run.beginning import TOKENIZERS
from mmjax.run.vocabulary import ANSWERS
from mmjax.training.checkpoint import find_checkpoint

__all__ = ["Told", "tell", "told_tokenizer"]


@dataclasses.dataclass(frozen=True)
class Told:
    """A source before its arrays are read.

    Attributes:
      name: as `init_from` is to have it.
      model: ours.
      contract: how its pictures and texts look.
      unsaid: of 'image' and 'text' what it says nothing of.
      tokenizer: (path, {'bos_token' and so on: name}), or None.
      answers: what its 'answer' head's scores are of, in order; () where it does not say.
      answers_path: of the vocabulary's file, '' where there is none.
      config: of a run of ours, None of published weights.
    """

    name: str
    model: Any
    contract: Contract
    unsaid: tuple[str, ...] = ()
    tokenizer: tuple[str, Mapping[str, str]] | None = None
    answers: Sequence[str] = ()
    answers_path: str = ""
    config: ConfigDict | None = None


def tell(name: str) -> Told:
    """What a source says of itself.

    Args:
      name: a workdir or checkpoint of ours, a folder or file of published weights, or
        hf://owner/name.

    Raises:
      ConfigError: there is none, or it is not understood.
    """
    try:
        return _published(open_source(name)) if is_published(name) else _ours(name)
    except WeightsError as error:
        raise ConfigError(f"init_from: {error}") from None


def told_tokenizer(source: Source) -> tuple[str, dict[str, str]]:
    """(path, {'eos_token' and so on: name}) of a published model's tokenizer."""
    words = source.words
    names = {number: name for name, number in words.tokenizer.special_tokens().items()}
    roles = {f"{r}_token": getattr(words.tokenizer, f"{r}_id") for r in ("bos", "eos", "pad")}
    found = {role: names[number] for role, number in roles.items() if number in names}
    return str(pathlib.Path(source.folder) / words.file), found


def _published(source: Source) -> Told:
    model, _ = model_of(source.family, source.config, source.tensors)
    labels = source.config.get("id2label")
    answers: tuple[str, ...] = ()
    if "answer" in getattr(model, "heads", ()) and isinstance(labels, Mapping):
        answers = tuple(str(labels[key]) for key in sorted(labels, key=int))
    return Told(
        source.name,
        model,
        contract_of(source, model),
        tuple(source.missing),
        None if source.words is None else told_tokenizer(source),
        answers,
    )


def _ours(name: str) -> Told:
    if is_address(name):
        raise ConfigError(
            f"init_from={name}: what a run of ours says of itself is read from a folder; copy its "
            "workdir, or its newest checkpoint, to this machine."
        )
    try:
        folder = find_checkpoint(name)
        config = from_json((folder / "config.json").read_text(encoding="utf-8"))
        model = build(config.model)
        contract = Contract.from_json((folder / "preprocess.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"init_from={name}: {' '.join(str(error).split())}") from None
    # The workdir's own copies outlive its checkpoints.
    places = [pathlib.Path(name).absolute(), folder]
    tokens = _first(places, TOKENIZERS)
    names = dict(config.get("tokenizer") or {})
    roles = {role: names.get(f"{role}_token", "") for role in ("bos", "eos", "pad")}
    vocabulary = _first(places, (ANSWERS,))
    return Told(
        name,
        model,
        contract,
        () if tokens else ("text",),
        (str(tokens), {f"{r}_token": n for r, n in roles.items()}) if tokens else None,
        Answers.read(vocabulary).names if vocabulary else (),
        str(vocabulary or ""),
        config,
    )


def _first(places: Sequence[pathlib.Path], names: Sequence[str]) -> pathlib.Path | None:
    return next((p / n for p in places for n in names if (p / n).is_file()), None)
