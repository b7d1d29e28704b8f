"""Config and workdir to a trained model: start or go on, train, evaluate, report."""

import contextlib
import copy
import dataclasses
import functools
import json
import pathlib
import signal
from collections.abc import Callable, Iterator

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmjax.config import ConfigError, override, plain, to_json
from mmjax.data.dataset import members_of
from mmjax.data.device import Feed
from mmjax.data.pipeline import BatchMaker
from mmjax.data.rows import training_rows
from mmjax.data.tokenizers.base import Tokenizer
from mmjax.data.tokenizers.training import train_bpe
from mmjax.evaluation.report import write_report
from mmjax.objectives.base import check_needs
from mmjax.parallel import compilation, cpu, hosts
from mmjax.parallel.layout import fallbacks
from mmjax.parallel.mesh import check_batch, make_mesh
from mmjax.parallel.sharding import batch_sharding
from mmjax.run import environment
from mmjax.run.assembly import (
    Parts,
    assemble,
    check_contract,
    data_identity,
    named_tokenizer,
    needs_tokenizer,
    open_tokenizer,
    with_tokenizer,
)
from mmjax.run.evaluating import Evaluation, print_numbers
from mmjax.run.feeding import late_is_failure, open_feed
from mmjax.run.hooks import Profile, RunHooks
from mmjax.training import manifest
from mmjax.training import workdir as workdirs
from mmjax.training.checkpoint import Checkpoints
from mmjax.training.compiled import Compiled
from mmjax.training.flops import peak_flops
from mmjax.training.logging import MetricLog
from mmjax.training.loop import Failed
from mmjax.training.loop import train as train_loop
from mmjax.training.progress import Pace, Progress
from mmjax.training.signals import StopRequest
from mmjax.training.state import State
from mmjax.training.warm_start import warm_params
from mmjax.training.workdir import compare_config
from mmjax.typing import Batch

__all__ = ["Failed", "Options", "Stopped", "train"]


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says beside the config.

    Attributes:
      resume: go on although the config differs.
      overwrite: start anew in a workdir that holds a run.
      restart_data: go on although the data differs; the new data begins at its beginning.
      profile: 'start:stop', the steps between which a trace is taken; '' takes none.
      show_sharding: print how the state would lie on the devices, and train nothing.
    """

    resume: bool = False
    overwrite: bool = False
    restart_data: bool = False
    profile: str = ""
    show_sharding: bool = False


class Stopped(Exception):
    """A signal ended the run; its state is saved, the same command goes on."""

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped at step {step}; the same command goes on from there.")
        self.number = number


def train(config: ConfigDict, workdir: str, options: Options = Options()) -> dict[str, float]:
    """Runs a config in a workdir from where it stands to its last step.

    Args:
      config: locked, with all overrides applied.
      workdir: made if it is not there; goes on with the run that it holds.
      options: what the command line adds.

    Returns:
      The last evaluation's numbers.

    Raises:
      ConfigError: before any long work, in one line.
      Failed: the run cannot go on.
      Stopped: a signal ended the run after a save.
    """
    parts = assemble(config)
    folder = pathlib.Path(workdir).absolute()
    begun = bool(manifest.numbered(folder / "checkpoints"))  # then nothing is read from init_from
    if config.init_from and not begun and not pathlib.Path(config.init_from).exists():
        raise ConfigError(f"init_from={config.init_from!r}: no such workdir or checkpoint.")
    with refusing():
        check_letters(folder)
        profile = Profile(options.profile, folder)
        cpu.keep_freed_memory()
        hosts.start()
    mesh = start_mesh(config, parts)
    text = to_json(config)
    if config.get("first"):  # a recipe in two stages, such as a tower that is then locked
        first = str(folder / "first")
        train(config.first, first, dataclasses.replace(options, profile=""))
        config = copy.deepcopy(config)
        override(config, "init_from", first)
    with StopRequest() as stop, contextlib.ExitStack() as held:
        with refusing():
            held.enter_context(workdirs.locked(folder))
            decision = workdirs.decide(folder, text, options.resume, options.overwrite)
            for change in decision.changes:
                say(f"config: {change}")
            settle = functools.partial(workdirs.settle, folder, text, decision)
            if decision.action != "resume":
                settle()
        say(text.rstrip())
        if config.compilation_cache and (note := compilation.use_cache()):
            say(note)
        with refusing():
            parts = with_tokenizer(parts, _tokenizer(config, parts, folder))
        # Another config takes the old one's place when nothing can refuse it any more.
        accept = settle if decision.action == "resume" else None
        try:
            numbers = _train(config, text, parts, mesh, folder, options, profile, stop, accept)
        finally:
            if (folder / workdirs.METRICS).exists():  # whatever came of it, once it has trained
                _report(folder)
    return numbers


def _report(folder: pathlib.Path) -> None:
    """Writes the report; a disk that refuses it does not undo the run."""
    if not hosts.is_main():
        return
    try:
        say(f"report: {write_report(folder)}")
    except OSError as error:
        say(f"report: not written ({error}); eval.py makes it again.")


def say(text: str) -> None:
    """A line on standard output, from process 0 alone; a closed pipe ends no run."""
    if hosts.is_main():
        with contextlib.suppress(OSError, ValueError):
            print(text, flush=True)


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """What is said within of wrong input reaches the person as one line."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error


def check_letters(folder: pathlib.Path) -> None:
    """Raises ValueError where the locale cannot tell the libraries the folder's name."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"--workdir={str(folder)!r}: the locale is not UTF-8 and does not know these letters. "
            "Set PYTHONUTF8=1, or choose another --workdir."
        ) from None


def start_mesh(config: ConfigDict, parts: Parts) -> Mesh:
    """The mesh, with every batch size checked against it before anything compiles."""
    try:
        mesh = make_mesh(**plain(config.mesh))
        for stream in parts.streams.values():
            check_batch(stream.batch_size, mesh, jax.process_count())
        if parts.eval_data is not None:
            check_batch(config.eval_batch_size, mesh, jax.process_count())
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return mesh


def _tokenizer(config: ConfigDict, parts: Parts, folder: pathlib.Path) -> Tokenizer | None:
    """The tokenizer named, the one kept in the workdir, or one that process 0 now trains."""
    if not needs_tokenizer(parts):
        return None
    if config.tokenizer.path:
        return named_tokenizer(config)
    kept = folder / "tokenizer.json"
    if hosts.is_main() and not kept.exists():
        say(f"training a tokenizer of {config.tokenizer.vocab_size} tokens on the captions ...")
        captions = (
            caption
            for stream in parts.streams.values()
            for member in members_of(stream.data)
            for caption in member.captions(most=8 * config.tokenizer.vocab_size)
        )
        train_bpe(captions, config.tokenizer.vocab_size, str(kept))
    hosts.barrier("tokenizer trained")
    return open_tokenizer(kept)


def _train(
    config: ConfigDict,
    text: str,
    parts: Parts,
    mesh: Mesh,
    folder: pathlib.Path,
    options: Options,
    profile: Profile,
    stop: StopRequest,
    accept: Callable[[], None] | None,
) -> dict[str, float]:
    recipe, settings = parts.recipe, parts.settings
    with refusing():
        makers = stream_makers(parts)
        check_needs(
            {name: goal.objective for name, goal in recipe.goals.items()},
            {word for maker in makers.values() for word in maker.global_shapes},
        )
        evaluation = None
        if parts.eval_data is not None:
            evaluation = Evaluation(parts, mesh, settings["reading"])
    checkpoints = Checkpoints(
        folder / "checkpoints",
        config.keep_last,
        keep_best=config.best_metric or None,
        best_is_lowest=config.best_is_lowest,
    )
    checkpoints.clean()
    with refusing():  # the model's own checks and every rule over its parameters
        compiled = Compiled(
            recipe,
            mesh,
            {name: maker.global_shapes for name, maker in makers.items()},
            settings["sharding_rules"],
            settings["whole_above_bytes"],
        )
    for line in fallbacks(compiled.layout):
        say(f"sharding: {line}")
    identity = data_identity(config, parts)
    with refusing():
        state, start, offset = _begin(config, compiled, checkpoints, identity, options)
        if accept is not None:
            accept()
    files = {
        "config.json": text,
        "environment.json": environment.describe(),
        "preprocess.json": recipe.contract.to_json(),
        "data.json": json.dumps({"identity": json.loads(identity), "offset": offset}),
    }
    tokenizer = folder / "tokenizer.json"
    if tokenizer.exists():
        files["tokenizer.json"] = tokenizer.read_text(encoding="utf-8")
    if hosts.is_main():
        for name in ("environment.json", "preprocess.json"):
            (folder / name).write_text(files[name], encoding="utf-8")
    if start >= config.steps:
        say(f"the run is at step {start} of {config.steps} already; raise --config.steps to go on.")
    pace = Pace(start)
    feed = open_feed(
        makers, start - offset, config.steps - offset, settings["reading"], batch_sharding(mesh)
    )
    log = MetricLog(folder, start, config.tensorboard)
    progress = Progress(config.steps, pace)
    hooks = RunHooks(
        folder=folder,
        mesh=mesh,
        checkpoints=checkpoints,
        files=files,
        evaluation=evaluation and functools.partial(evaluation, workdir=folder),
        log=log,
        pace=pace,
        progress=progress,
        stop=stop,
        rows_a_step=sum(maker.batch_size for maker in makers.values()),
        flops_a_step=compiled.flops if peak_flops(jax.devices()[0].device_kind) else 0.0,
    )
    try:
        state, step = train_loop(
            state,
            profile.wrap(compiled.step, start),
            _timed(feed, pace),
            start,
            config.steps,
            settings["rhythm"],
            hooks,
        )
        checkpoints.wait()
    finally:  # perhaps on this process alone, so nothing here waits for another
        feed.close()
        checkpoints.join()
        hooks.poll(config.steps)
        log.close()
        progress.close()
        profile.close()
    _check_saved(checkpoints, hooks, start, step)
    if step < config.steps:  # where another process got the signal, this one stops by its word
        raise Stopped(stop.signal or signal.SIGTERM, step)
    if hooks.last_evaluation:
        say(f"step {step}:\n{print_numbers(hooks.last_evaluation)}")
    return hooks.last_evaluation


def _check_saved(checkpoints: Checkpoints, hooks: RunHooks, start: int, step: int) -> None:
    """Raises Failed, on all processes, where the run's last state is not on the disk."""
    problem = ""
    if hosts.is_main() and step > start and step not in checkpoints.steps():
        problem = hooks.last_problem or "its checkpoint is gone"
    problem = hosts.broadcast_bytes(problem.encode()).decode()
    if problem:
        raise Failed(
            f"step {step} could not be saved ({problem}). Make room or mend the disk; the same "
            "command goes on from the last checkpoint."
        )


def stream_makers(parts: Parts) -> dict[str, BatchMaker]:
    """{stream: its batches}, with what they hold checked against the contract."""
    made = {}
    for name, stream in parts.streams.items():
        made[name] = BatchMaker(
            training_rows(members_of(stream.data), parts.recipe.seed, name),
            stream.batch_size,
            jax.process_index(),
            jax.process_count(),
            parts.settings["reading"].threads,
        )
        check_contract(parts.recipe.contract, made[name].shapes, f"stream {name!r}")
    return made


def _timed(feed: Feed, pace: Pace) -> Iterator[dict[str, Batch]]:
    while True:
        with pace.waiting(), late_is_failure():
            batch = next(feed)
        yield batch


def _begin(
    config: ConfigDict,
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
            warm = warm_params(
                state.params,
                config.init_from,
                config.init_rules,
                config.init_fresh,
                config.init_ema,
                state.batch_stats,
            )
            state = compiled.with_params(state, warm)
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
