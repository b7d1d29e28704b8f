"""Config and workdir to a trained model: start or go on, train, evaluate, report."""

import contextlib
import copy
import dataclasses
import functools
import itertools
import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmjax.config import ConfigError, override, to_json
from mmjax.data.device import Feed
from mmjax.interop import origin
from mmjax.parallel import compilation, cpu, hosts
from mmjax.parallel.accelerator import leave_out_tpu, require
from mmjax.parallel.layout import fallbacks
from mmjax.parallel.sharding import batch_sharding
from mmjax.parallel.watchdog import Watch
from mmjax.run import environment, tracking
from mmjax.run.assembly import Parts, assemble, data_identity, with_tokenizer
from mmjax.run.beginning import (
    TOKENIZERS,
    begin,
    check_goals,
    check_letters,
    check_same_data,
    check_source,
    files_gone,
    keep_tokenizer,
    run_tokenizer,
    start_mesh,
    stream_makers,
    with_own_files,
)
from mmjax.run.console import keeping, refusing, say
from mmjax.run.feeding import late_is_failure, open_feed
from mmjax.run.held_out import Evaluations, print_numbers, say_report
from mmjax.run.hooks import Profile, RunHooks
from mmjax.run.options import PLAIN, Options, Stopped
from mmjax.run.vocabulary import ANSWERS, check_answers, keep_answers, with_answers
from mmjax.training.checkpoint import Checkpoints
from mmjax.training.compiled import Compiled, shapes_to_plain
from mmjax.training.failing import Failed
from mmjax.training.flops import peak_flops
from mmjax.training.home import Home, open_home
from mmjax.training.logging import MetricLog
from mmjax.training.loop import train as train_loop
from mmjax.training.manifest import write_atomic
from mmjax.training.progress import Pace, Progress
from mmjax.training.replay import Replay
from mmjax.training.signals import StopRequest
from mmjax.training.workdir import METRICS, Held
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
    with contextlib.ExitStack() as left:

        def opened() -> Home:
            with refusing():
                check_letters(workdir)
                home = open_home(workdir)
            left.callback(home.close, write=False)  # where it was refused; twice does no harm
            return home

        home, given, said = None, config, []
        if files_gone(config) and not options.overwrite:  # what is begun anew has no copies
            home = opened()
            with refusing():
                given, said = with_own_files(config, home)
        parts = assemble(given)
        home = home or opened()
        with refusing():
            check_answers(parts, home)
        return _run(config, parts, home, options, said)


def _run(
    config: ConfigDict, parts: Parts, home: Home, options: Options, said: list[str]
) -> dict[str, float]:
    with refusing():
        check_source(config.init_from, home.begun() and not options.overwrite)
        profile = Profile(options.profile, home.folder, config.steps)
        if not options.require:
            leave_out_tpu()
        cpu.keep_freed_memory()
        joined = hosts.start(parts.settings["watchdog"])
        require(options.require)
    mesh = start_mesh(config, parts)
    with refusing():
        replay = Replay(options.replay_check, mesh)
    for line in (joined, *said):
        if line:
            say(line)
    text = to_json(config)
    if config.get("first"):  # a recipe in two stages, such as a tower that is then locked
        first = home.child("first")
        train(config.first, first, dataclasses.replace(options, profile=""))
        config = copy.deepcopy(config)
        override(config, "init_from", first)
    with contextlib.ExitStack() as held:
        stop = held.enter_context(StopRequest())
        watch = held.enter_context(Watch(parts.settings["watchdog"]))
        with refusing():
            lock = held.enter_context(home.locked())
            decision = home.decide(text, options.resume, options.overwrite)
            for change in decision.changes:
                say(f"config: {change}")
            home.begin(text, decision)
        say(text.rstrip())
        if config.compilation_cache and (note := compilation.use_cache()):
            say(note)
        try:
            with refusing():
                parts = with_tokenizer(parts, run_tokenizer(parts, home))
                parts = with_answers(parts, home.folder / ANSWERS)
            numbers = _train(
                config,
                text,
                parts,
                mesh,
                home,
                options,
                lambda step, start: profile.wrap(replay.wrap(step, start), start),
                stop,
                watch,
                lock,
                # Another config takes the old one's place, and an overwritten run goes, when
                # nothing can refuse the new one any more.
                functools.partial(home.accept, text, decision),
            )
        except ConfigError:
            home.put_back()
            raise
        finally:
            profile.close()
            begun = (home.folder / METRICS).exists()  # whatever came of it, once it has trained
            _end(home, lock, begun)
    return numbers


def _end(home: Home, lock: Held | None, begun: bool) -> None:
    """Writes the report and what else is left; a disk that refuses does not undo the run.

    Raises:
      Failed: the store of a run that ended well did not take the rest.
    """
    failing = sys.exc_info()[0] is not None
    try:
        ours = begun and hosts.is_main() and not (lock is not None and lock.lost)
    except OSError:  # a store that does not answer takes no lock away
        ours = begun
    if ours:
        say_report(home)
    try:
        home.close(write=ours)
    except OSError as error:
        message = f"what was logged since the last checkpoint could not be written: {error}."
        if not failing:
            raise Failed(f"{message} The checkpoints are safe.") from None
        say(message)


def _train(
    config: ConfigDict,
    text: str,
    parts: Parts,
    mesh: Mesh,
    home: Home,
    options: Options,
    around: Callable[[Callable[..., Any], int], Callable[..., Any]],
    stop: StopRequest,
    watch: Watch,
    lock: Held | None,
    accept: Callable[[], None],
) -> dict[str, float]:
    recipe, settings, folder = parts.recipe, parts.settings, home.folder
    with refusing():
        makers = stream_makers(parts, mesh)
        shapes = {name: maker.global_shapes for name, maker in makers.items()}
        check_goals(recipe.goals, shapes, config.steps, recipe.model)
        evaluation = None
        if parts.eval_data:
            evaluation = Evaluations(parts, mesh, settings["reading"], lambda: bool(stop))
    checkpoints = home.checkpoints(
        keep_last=config.keep_last,
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
        check_same_data(parts, identity)
        state, start, offset = begin(config, home, compiled, checkpoints, identity, options)
        saved = checkpoints.restore_files(start) if start else {}
    online, kept = tracking.begin(config, folder, saved)
    with refusing():
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
    files |= kept
    if hosts.is_main():
        with keeping():
            keep_tokenizer(parts, folder)
            keep_answers(parts, folder)
    for name in (*TOKENIZERS, ANSWERS, *origin.FILES):
        if (folder / name).exists():
            files[name] = (folder / name).read_bytes()
    if hosts.is_main():
        with keeping():
            for name in ("environment.json", "preprocess.json"):
                write_atomic(folder / name, files[name].encode())
    if start >= config.steps:
        say(f"the run is at step {start} of {config.steps} already; raise --config.steps to go on.")
    pace = Pace(start)
    feed = open_feed(
        makers, start - offset, config.steps - offset, settings["reading"], batch_sharding(mesh)
    )
    with keeping():
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
        publish=home.publish,
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
        hooks.poll(hooks.reached)
        _check_saved(checkpoints, hooks, start, step)
        # Where another process got the signal, this one stops by its word.
        if step < config.steps or hooks.cut_short:
            raise Stopped(stop.signal or signal.SIGTERM, step, last=step == config.steps)
        _tell_skipped(int(jax.device_get(state.counters["skipped"])), step)
    except BaseException as error:
        hooks.ended_by(error)
        raise
    finally:  # perhaps on this process alone, so nothing here waits for another
        feed.close()
        checkpoints.join()
        hooks.poll(hooks.reached)
        log.close()
        progress.close()
    if hooks.last_evaluation:
        say(f"step {step}:\n{print_numbers(hooks.last_evaluation)}")
    return hooks.last_evaluation


def _check_saved(checkpoints: Checkpoints, hooks: RunHooks, start: int, step: int) -> None:
    """Raises Failed, on all processes, where the run's last state is not on the disk."""
    problem = ""
    if hosts.is_main() and step > start:
        try:
            steps, lost = checkpoints.steps(), hooks.last_problem or "its checkpoint is gone"
        except OSError as error:  # a store that answers no more: what is known here counts
            steps, lost = [hooks.saved or start], hooks.last_problem or str(error)
        if step not in steps:
            kept = "goes on from the last checkpoint" if any(steps) else "begins anew"
            problem = f"({lost}). Make room or mend the disk; the same command {kept}."
    problem = hosts.broadcast_bytes(problem.encode()).decode()
    if problem:
        raise Failed(f"step {step} could not be saved {problem}")


def _tell_skipped(skipped: int, step: int) -> None:
    """Says at the end how many updates were not made; a run that made none has not trained.

    Raises:
      Failed: every update was skipped, on all processes alike.
    """
    if step and skipped >= step:
        raise Failed(
            f"all {step} updates were skipped, since loss or gradient was not finite: nothing was "
            "trained. Lower the rate, or look at the data and the model's first values; then start "
            "anew with --overwrite."
        )
    if skipped:
        say(f"{skipped} of {step} updates were skipped, since loss or gradient was not finite.")


def _timed(feed: Feed, pace: Pace, watch: Watch, start: int) -> Iterator[dict[str, Batch]]:
    watch.compiling("the first step")
    for step in itertools.count(start + 1):
        if step > start + 2:  # the second waits for the first, which others may still compile
            watch.stepping(step)
        with pace.waiting(), late_is_failure():
            batch = next(feed)
        yield batch
