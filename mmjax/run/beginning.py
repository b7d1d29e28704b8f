"""What a run begins with: its mesh, tokenizer, batches and state."""

import copy
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmjax.config import ConfigError, from_json, nearest, override, plain
from mmjax.data.dataset import members_of
from mmjax.data.pipeline import BatchMaker
from mmjax.data.rows import training_rows
from mmjax.data.sources.patterns import is_address
from mmjax.data.tokenizers.base import Tokenizer
from mmjax.data.tokenizers.training import train_bpe
from mmjax.data.transforms.masking import MaskWords
from mmjax.interop import hub
from mmjax.objectives.base import check_needs
from mmjax.parallel import hosts
from mmjax.parallel.mesh import check_batch, make_mesh, rows_of_process
from mmjax.run.assembly import (
    Parts,
    check_contract,
    named_tokenizer,
    needs,
    open_tokenizer,
    waiting_transforms,
)
from mmjax.run.console import say
from mmjax.run.options import Options
from mmjax.run.origin import begin_from
from mmjax.run.vocabulary import ANSWERS
from mmjax.training.checkpoint import Checkpoints
from mmjax.training.compiled import Compiled
from mmjax.training.home import Home
from mmjax.training.manifest import write_atomic
from mmjax.training.state import State
from mmjax.training.step import Goal
from mmjax.training.weighing import check_course
from mmjax.training.workdir import compare_config

TOKENIZERS = ("tokenizer.json", "tokenizer.model")


def check_letters(workdir: str) -> None:
    """Raises ValueError where the locale cannot tell the libraries the workdir's name."""
    name = workdir if is_address(workdir) else str(pathlib.Path(workdir).absolute())
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"--workdir={name!r}: the locale is not UTF-8 and does not know these letters. "
            "Set PYTHONUTF8=1, or choose another --workdir."
        ) from None


def check_source(init_from: str, begun: bool) -> None:
    """Raises ValueError where a new run is to begin with weights that are not there.

    A run that has begun reads nothing from there; at an address it is seen when they are brought.
    """
    if not init_from or is_address(init_from) or begun:
        return
    if not pathlib.Path(init_from).exists():
        raise ValueError(
            f"init_from={init_from!r}: no such workdir or checkpoint.{hub.meant(init_from)}"
        )


def start_mesh(config: ConfigDict, parts: Parts) -> Mesh:
    """The mesh, with every batch size checked against it before anything compiles."""
    try:
        mesh = make_mesh(**plain(config.mesh))
        for stream in parts.streams.values():
            check_batch(stream.batch_size, mesh, jax.process_count())
        if parts.eval_data:
            check_batch(config.eval_batch_size, mesh, jax.process_count(), "eval_batch_size")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return mesh


def kept_tokenizer(home: Home, inner: str = "") -> str:
    """The run's copy of its tokenizer, '' where it has none.

    Args:
      home: of the run.
      inner: a step's folder in it, '' for the run's own.
    """
    kept = (home.path(f"{inner}{name}") for name in TOKENIZERS)
    return next((str(path) for path in kept if path.exists()), "")


def files_gone(config: ConfigDict) -> dict[str, str]:
    """{'tokenizer' or 'answers': the file that the config names for it and that is not there}."""
    parts = {key: config.get(key) for key in ("tokenizer", "answers")}
    named = {k: v.get("path", "") for k, v in parts.items() if isinstance(v, ConfigDict)}
    return {key: path for key, path in named.items() if path and not pathlib.Path(path).exists()}


def with_own_files(config: ConfigDict, home: Home) -> tuple[ConfigDict, list[str]]:
    """(the config, naming the run's own copies of its tokenizer and answers where these are gone).

    So what has begun with somebody's weights goes on without their folder.

    Args:
      config: of the run, as it was begun.
      home: of the run.

    Returns:
      The config, and a line for people on each copy that is taken.
    """
    gone, saved, said = files_gone(config), home.read("config.json"), []
    if not gone or saved is None:
        return config, said
    begun, config = from_json(saved.decode()), copy.deepcopy(config)
    for key, path in gone.items():
        kept = kept_tokenizer(home) if key == "tokenizer" else str(home.path(ANSWERS))
        before = begun.get(key)
        same = isinstance(before, ConfigDict) and before.get("path", "") == path
        if same and kept and pathlib.Path(kept).exists():
            said.append(f"{key}: {path} is gone; the run's own copy of it is read.")
            override(config, f"{key}.path", kept)
    return config, said


def run_tokenizer(parts: Parts, home: Home) -> Tokenizer | None:
    """The tokenizer named, the one kept in the workdir, or one that process 0 now trains."""
    if not needs(parts, "tokenizer"):
        return None
    named = parts.settings["tokenizer"]
    if named["path"]:
        return named_tokenizer(named)
    kept, size = home.folder / "tokenizer.json", named["vocab_size"]
    if hosts.is_main() and not kept.exists():
        say(f"training a tokenizer of {size} tokens on the captions ...")
        captions = (
            caption
            for stream in parts.streams.values()
            for member in members_of(stream.data)
            for caption in member.captions(most=8 * size)
        )
        waiting = (t for stream in parts.streams.values() for t in waiting_transforms(stream.data))
        mask = any(t.func is MaskWords and t.keywords.get("mask_id") is None for t in waiting)
        train_bpe(captions, size, str(kept), mask)
    home.share("tokenizer.json")
    return open_tokenizer(kept)


def keep_tokenizer(parts: Parts, folder: pathlib.Path) -> None:
    """Copies a tokenizer that was named into the workdir: who loads the weights needs it."""
    named = parts.settings["tokenizer"]
    if not named["path"]:
        return
    is_pieces = pathlib.Path(named["path"]).suffix == ".model"
    kept = "tokenizer.model" if is_pieces else "tokenizer.json"
    for other in set(TOKENIZERS) - {kept}:
        (folder / other).unlink(missing_ok=True)
    named_tokenizer(named).save(folder / kept)


def stream_makers(parts: Parts, mesh: Mesh | None = None) -> dict[str, BatchMaker]:
    """{stream: its batches}, with what they hold checked against the contract.

    Args:
      parts: with the tokenizer bound.
      mesh: of the run, whose devices say which rows this process feeds; None where that is not
        asked, for shapes alone.
    """
    made = {}
    for name, stream in parts.streams.items():
        made[name] = BatchMaker(
            training_rows(members_of(stream.data), parts.recipe.seed, name, stream.batch_size),
            stream.batch_size,
            jax.process_index(),
            jax.process_count(),
            parts.settings["reading"].threads,
            mesh and rows_of_process(mesh, stream.batch_size, jax.process_index()),
            getattr(parts.recipe.model, "num_classes", None),
        )
        check_contract(parts.recipe.contract, made[name].shapes, f"stream {name!r}")
    return made


def check_goals(
    goals: Mapping[str, Goal], shapes: Mapping[str, Any], steps: int, model: Any = None
) -> None:
    """Raises ValueError where a goal's own stream lacks a word of it, or its weight is no number.

    Or where it asks for a method that the model does not have.

    Args:
      goals: of the recipe.
      shapes: {stream: {word: (shape, dtype)}}.
      steps: of the run, over which a weight that is a schedule is looked at.
      model: of the recipe; None does not look.
    """
    for name, goal in goals.items():
        for option, value in vars(goal.objective).items() if model is not None else ():
            _check_view(f"goals.{name}.objective.{option}", value, type(model))
        one = len(shapes) == 1
        whose = "the batches" if one else f"the batches of stream {goal.stream!r}"
        check_needs({name: goal.objective}, shapes[goal.stream], whose)
        check_course(name, goal.weight, steps)


def _check_view(where: str, value: Any, model: type) -> None:
    """Raises ValueError where a value is (method, words) and the model has no such method."""
    pair = isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], tuple)
    if pair and isinstance(value[0], str) and not hasattr(model, value[0]):
        known = [name for name in dir(model) if not name.startswith("_")]
        raise ValueError(
            f"{where}: {model.__name__} has no method {value[0]!r}.{nearest(value[0], known)}"
        )


def check_same_data(parts: Parts, identity: str) -> None:
    """Raises ValueError, on all processes, where one has found other data than process 0.

    Each looks for itself, and a listing or a mount may be behind: batches would then hold rows of
    two data sets, some twice and some never.
    """
    sources = [m.source for s in parts.streams.values() for m in members_of(s.data)]
    found = "; ".join(source.describe() for source in sources).encode()
    mark = hashlib.sha256(identity.encode()).digest()
    first, *others = hosts.gather_bytes(mark + found, len(mark) + 400)
    for number, other in enumerate(others, 1):
        if other[: len(mark)] != first[: len(mark)]:
            here, there = (text[len(mark) :].decode(errors="replace") for text in (first, other))
            raise ValueError(
                f"process {number} has found other data ({there}) than process 0 ({here}). All "
                "need the same files; where a store or a mount was late, start again."
            )


def begin(
    config: ConfigDict,
    home: Home,
    compiled: Compiled,
    checkpoints: Checkpoints,
    identity: str,
    options: Options,
) -> tuple[State, int, int]:
    """(state, step, step at which the data begins): restored, warm, or new."""
    latest = checkpoints.latest()
    for event in checkpoints.poll():
        say(event.message)
    if latest is None:
        state = compiled.init()
        if config.init_from:
            trees, told = begin_from(config, compiled.recipe, state)
            state = compiled.with_params(state, *trees)
            if hosts.is_main():
                for name, content in told.items():
                    write_atomic(home.folder / name, content)
        return state, 0, 0
    saved = json.loads(checkpoints.restore_files(latest)["data.json"])
    offset = saved["offset"]
    if saved["identity"] != json.loads(identity):
        changed = "; ".join(compare_config(json.dumps(saved["identity"]), identity))
        if not options.restart_data:
            raise ConfigError(
                f"the data differs from what step {latest} was trained on ({changed}). Give "
                "--restart-data to begin the new data at its beginning, or put the old back."
            )
        offset = latest
    state = checkpoints.restore(latest, compiled.state)
    say(f"going on from step {latest}.")
    return state, latest, offset
