"""Config and workdir to a trained model: start or go on, train, evaluate, report."""

import contextlib
import copy
import dataclasses
import functools
import itertools
import json
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmjax.config import ConfigError, override, to_json
from mmjax.data.device import Feed
from mmjax.evaluation.report import write_report
from mmjax.objectives.base import check_needs
from mmjax.parallel import compilation, cpu, hosts
from mmjax.parallel.accelerator import leave_out_tpu, require
from mmjax.parallel.layout import fallbacks
from mmjax.parallel.sharding import batch_sharding
from mmjax.parallel.watchdog import Watch
from mmjax.run import environment, tracking
from mmjax.run.assembly import Parts, assemble, data_identity, with_tokenizer
from mmjax.run.beginning import begin, check_letters, run_tokenizer, start_mesh, stream_makers
from mmjax.run.console import refusing, say
from mmjax.run.evaluating import Evaluation, print_numbers
from mmjax.run.feeding import late_is_failure, open_feed
from mmjax.run.hooks import Profile, RunHooks
from mmjax.run.options import PLAIN, Options, Stopped
from mmjax.training import manifest
from mmjax.training import workdir as workdirs
from mmjax.training.checkpoint import Checkpoints
from mmjax.training.compiled import Compiled, shapes_to_plain
from mmjax.training.flops import peak_flops
from mmjax.training.lock import Lock
from mmjax.training.logging import MetricLog
from mmjax.training.loop import Failed
from mmjax.training.loop import train as train_loop
from mmjax.training.progress import Pace, Progress
from mmjax.training.replay import Replay
from mmjax.training.signals import StopRequest
from mmjax.typing import Batch


def train(config: ConfigDict, workdir: str, options: Options = PLAIN) -> dict[str, float]:
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
    with refusing():
        workdirs.refuse_address(workdir)
    parts = assemble(config)
    folder = pathlib.Path(workdir).absolute()
    begun = bool(manifest.numbered(folder / "checkpoints"))  # then nothing is read from init_from
    if config.init_from and not begun and not pathlib.Path(config.init_from).exists():
        raise ConfigError(f"init_from={config.init_from!r}: no such workdir or checkpoint.")
    with refusing():
        check_letters(folder)
        profile = Profile(options.profile, folder)
        if not options.require:
            leave_out_tpu()
        cpu.keep_freed_memory()
        joined = hosts.start(parts.settings["watchdog"])
        require(options.require)
    mesh = start_mesh(config, parts)
    with refusing():
        replay = Replay(options.replay_check, mesh)
    if joined:
        say(joined)
    text = to_json(config)
    if config.get("first"):  # a recipe in two stages, such as a tower that is then locked
        first = str(folder / "first")
        train(config.first, first, dataclasses.replace(options, profile=""))
        config = copy.deepcopy(config)
        override(config, "init_from", first)
    with contextlib.ExitStack() as held:
        stop = held.enter_context(StopRequest())
        watch = held.enter_context(Watch(parts.settings["watchdog"]))
        with refusing():
            lock = held.enter_context(workdirs.locked(folder))
            decision = workdirs.decide(folder, text, options.resume, options.overwrite)
            for change in decision.changes:
                say(f"config: {change}")
            settle = functools.partial(workdirs.settle, folder, text, decision)
            if decision.action != "resume":
                settle()
        say(text.rstrip())
        if config.compilation_cache and (note := compilation.use_cache()):
            say(note)
        # Another config takes the old one's place, and an overwritten run goes, when nothing can
        # refuse the new one any more.
        accept = (
            settle if decision.action == "resume" else functools.partial(workdirs.forget, folder)
        )
        try:
            with refusing():
                parts = with_tokenizer(parts, run_tokenizer(config, parts, folder))
            numbers = _train(
                config,
                text,
                parts,
                mesh,
                folder,
                options,
                lambda step, start: profile.wrap(replay.wrap(step, start), start),
                stop,
                watch,
                lock,
                accept,
            )
        except ConfigError:
            workdirs.put_back(folder)
            raise
        finally:
            profile.close()
            if (folder / workdirs.METRICS).exists():  # whatever came of it, once it has trained
                _report(folder, lock)
    return numbers


def _report(folder: pathlib.Path, lock: Lock | None) -> None:
    """Writes the report; a disk that refuses it does not undo the run."""
    if not hosts.is_main():
        return
    try:
        if lock is not None and lock.lost:  # it is another run's now
            return
        say(f"report: {write_report(folder)}")
    except OSError as error:
        say(f"report: not written ({error}); eval.py makes it again.")


def _train(
    config: ConfigDict,
    text: str,
    parts: Parts,
    mesh: Mesh,
    folder: pathlib.Path,
    options: Options,
    around: Callable[[Callable[..., Any], int], Callable[..., Any]],
    stop: StopRequest,
    watch: Watch,
    lock: Lock | None,
    accept: Callable[[], None],
) -> dict[str, float]:
    recipe, settings = parts.recipe, parts.settings
    with refusing():
        makers = stream_makers(parts, mesh)
        shapes = {name: maker.global_shapes for name, maker in makers.items()}
        check_needs(
            {name: goal.objective for name, goal in recipe.goals.items()},
            {word for words in shapes.values() for word in words},
        )
        evaluation = None
        if parts.eval_data is not None:
            evaluation = Evaluation(parts, mesh, settings["reading"], lambda: bool(stop))
    checkpoints = Checkpoints(
        folder / "checkpoints",
        config.keep_last,
        keep_best=config.best_metric or None,
        best_is_lowest=config.best_is_lowest,
    )
    checkpoints.clean()
    with refusing():  # the model's own checks and every rule over its parameters
        compiled = Compiled(
            recipe, mesh, shapes, settings["sharding_rules"], settings["whole_above_bytes"]
        )
    for line in fallbacks(compiled.layout):
        say(f"sharding: {line}")
    identity = data_identity(config, parts)
    with refusing():
        state, start, offset = begin(config, compiled, checkpoints, identity, options)
        accept()
    files = {
        "config.json": text,
        "environment.json": environment.describe(),
        "preprocess.json": recipe.contract.to_json(),
        "data.json": json.dumps(
            {
                "identity": json.loads(identity),
                "offset": offset,
                "shapes": shapes_to_plain(shapes),  # an evaluation has no training data
            }
        ),
    }
    online, more = tracking.begin(config, folder, checkpoints.restore_files(start) if start else {})
    files |= more
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
    log = MetricLog(folder, start, config.tensorboard, online=online)
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
        watch=watch,
        lock=lock,
        rows_a_step=sum(maker.batch_size for maker in makers.values()),
        flops_a_step=compiled.flops if peak_flops(jax.devices()[0].device_kind) else 0.0,
    )
    try:
        state, step = train_loop(
            state,
            around(compiled.step, start),
            _timed(feed, pace, watch, start),
            start,
            config.steps,
            settings["rhythm"],
            hooks,
        )
        with watch.saving(step):
            checkpoints.wait()
    finally:  # perhaps on this process alone, so nothing here waits for another
        feed.close()
        checkpoints.join()
        hooks.poll(config.steps)
        log.close()
        progress.close()
    _check_saved(checkpoints, hooks, start, step)
    # Where another process got the signal, this one stops by its word.
    if step < config.steps or hooks.cut_short:
        raise Stopped(stop.signal or signal.SIGTERM, step, last=step == config.steps)
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


def _timed(feed: Feed, pace: Pace, watch: Watch, start: int) -> Iterator[dict[str, Batch]]:
    watch.compiling("the first step")
    for step in itertools.count(start + 1):
        if step > start + 2:  # the second waits for the first, which others may still compile
            watch.stepping(step)
        with pace.waiting(), late_is_failure():
            batch = next(feed)
        yield batch
