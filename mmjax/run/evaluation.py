"""A workdir to numbers: restores a checkpoint and runs its evaluators."""

import json

from mmjax.config import ConfigError, from_json, override
from mmjax.parallel import compilation, cpu, hosts
from mmjax.parallel.accelerator import leave_out_tpu, require
from mmjax.parallel.watchdog import Watch
from mmjax.run.assembly import (
    assemble,
    named_tokenizer,
    needs,
    open_tokenizer,
    with_tokenizer,
)
from mmjax.run.beginning import kept_tokenizer, start_mesh
from mmjax.run.config_file import linked
from mmjax.run.console import refusing, say
from mmjax.run.held_out import Evaluations, print_numbers, say_report, to_line
from mmjax.run.vocabulary import ANSWERS, with_answers
from mmjax.training.checkpoint import SetAside
from mmjax.training.compiled import Compiled, shapes_from_plain
from mmjax.training.home import Home, open_home


def evaluate(
    workdir: str,
    step: int | None = None,
    overrides: list[tuple[str, str]] | None = None,
    allow: tuple[str, ...] = (),
    platform: str = "",
) -> dict[str, float]:
    """Scores a checkpoint on held-out data, prints the numbers and renews the report.

    Args:
      workdir: of a training run.
      step: of a checkpoint, or None for the newest that is whole.
      overrides: (path, text) of values of the saved config, e.g. ('eval_data.path', '*.tar').
      allow: packages whose classes the saved config may name, beside those always trusted.
      platform: 'tpu' or 'gpu', without which it is refused; '' takes what there is.

    Returns:
      {'retrieval/text_to_image/R@1': ..., ...}.

    Raises:
      ConfigError: no such workdir or step, or nothing held out.
    """
    with refusing():
        home = open_home(workdir)
    done = False
    try:
        numbers = _evaluate(home, step, overrides, allow, platform)
        done = True
    finally:
        with refusing():
            home.close(write=done)
    return numbers


def _evaluate(
    home: Home,
    step: int | None,
    overrides: list[tuple[str, str]] | None,
    allow: tuple[str, ...],
    platform: str,
) -> dict[str, float]:
    checkpoints = home.checkpoints(read_only=True)
    # A step has its own copies of config and tokenizer, which a later --resume leaves as they are.
    inner = "" if step is None else f"checkpoints/{step}/"
    with refusing():
        saved = home.read("config.json")
        if saved is None:
            raise ConfigError(
                f"{home.name} holds no config.json; give the --workdir of a training run."
            )
        if inner and (saved := home.read(f"{inner}config.json")) is None:
            there = ", ".join(map(str, checkpoints.steps()))
            raise ConfigError(
                f"{home.name} holds no checkpoint of step {step}; it holds {there or 'none'}."
            )
    config = linked(from_json(saved.decode()))
    with refusing():
        if kept := kept_tokenizer(home, inner):  # the file it was trained with may be gone
            config.tokenizer.path = kept
    for path, text in overrides or ():
        override(config, path, text)
    parts = assemble(config, allow, training=False)
    if not parts.eval_data:
        raise ConfigError("the run's config has no eval_data; there is nothing to evaluate on.")
    if not parts.settings["evaluators"]:
        raise ConfigError("the run's config has no evaluators.")
    with refusing():
        if not platform:
            leave_out_tpu()
        cpu.keep_freed_memory()
        joined = hosts.start(parts.settings["watchdog"])
        require(platform)
    if joined:
        say(joined)
    mesh = start_mesh(config, parts)
    if config.compilation_cache and (note := compilation.use_cache()):
        say(note)
    if needs(parts, "tokenizer"):
        with refusing():
            kept = named_tokenizer(config.tokenizer) or open_tokenizer(
                home.path(f"{inner}tokenizer.json")
            )
        parts = with_tokenizer(parts, kept)
    with refusing():
        parts = with_answers(parts, home.path(f"{inner}{ANSWERS}"), own_first=True)
    with refusing():
        home.look()
    try:
        found = checkpoints.latest() if step is None else step
        for event in checkpoints.poll():
            if isinstance(event, SetAside) and hosts.is_main():
                say(f"{event.message}; it is left as it is, and step {found} is evaluated.")
        if found is None:
            raise FileNotFoundError(f"{home.name} holds no checkpoint that is whole.")
        data = json.loads(checkpoints.restore_files(found)["data.json"])
        compiled = Compiled(
            parts.recipe,
            mesh,
            shapes_from_plain(data["shapes"]),
            parts.settings["sharding_rules"],
            parts.settings["whole_above_bytes"],
        )
        state = checkpoints.restore(found, compiled.state)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from None
    with refusing():
        evaluations = Evaluations(parts, mesh, parts.settings["reading"])
    with Watch(parts.settings["watchdog"]) as watch, watch.evaluating(found):
        numbers = evaluations(state, found, home.folder)
    say(f"step {found}:\n{print_numbers(numbers)}")
    say(to_line(found, numbers))
    if hosts.is_main():
        say_report(home)
    return numbers
