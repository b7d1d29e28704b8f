"""A workdir to numbers: restores a checkpoint and runs its evaluators."""

import json
import pathlib

from mmjax.config import ConfigError, from_json, override
from mmjax.evaluation.report import write_report
from mmjax.parallel import compilation, cpu, hosts
from mmjax.parallel.accelerator import leave_out_tpu, require
from mmjax.parallel.watchdog import Watch
from mmjax.run.assembly import (
    assemble,
    named_tokenizer,
    needs_tokenizer,
    open_tokenizer,
    with_tokenizer,
)
from mmjax.run.beginning import start_mesh
from mmjax.run.console import refusing, say
from mmjax.run.evaluating import Evaluation, print_numbers, to_line
from mmjax.training import workdir as workdirs
from mmjax.training.checkpoint import Checkpoints
from mmjax.training.compiled import Compiled, shapes_from_plain


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
    try:
        workdirs.refuse_address(workdir)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    folder = pathlib.Path(workdir).absolute()
    # A step has its own copies of config and tokenizer, which a later --resume leaves as they are.
    home = folder if step is None else folder / "checkpoints" / str(step)
    saved = home / "config.json"
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} holds no config.json; give the --workdir of a training run.")
    if not saved.is_file():
        there = ", ".join(map(str, Checkpoints(folder / "checkpoints", read_only=True).steps()))
        raise ConfigError(
            f"{folder} holds no checkpoint of step {step}; it holds {there or 'none'}."
        )
    config = from_json(saved.read_text(encoding="utf-8"))
    for path, text in overrides or ():
        override(config, path, text)
    parts = assemble(config, allow, training=False)
    if parts.eval_data is None:
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
    if needs_tokenizer(parts):
        kept = named_tokenizer(config) or open_tokenizer(home / "tokenizer.json")
        parts = with_tokenizer(parts, kept)
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    try:
        found = checkpoints.latest() if step is None else step
        if found is None:
            raise FileNotFoundError(f"{folder} holds no checkpoint that is whole.")
        data = json.loads(checkpoints.restore_files(found)["data.json"])
        compiled = Compiled(
            parts.recipe,
            mesh,
            shapes_from_plain(data["shapes"]),
            parts.settings["sharding_rules"],
            parts.settings["whole_above_bytes"],
        )
        state = checkpoints.restore(found, compiled.state)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(str(error)) from None
    with Watch(parts.settings["watchdog"]) as watch, watch.evaluating(found):
        numbers = Evaluation(parts, mesh, parts.settings["reading"])(state, found, folder)
    say(f"step {found}:\n{print_numbers(numbers)}")
    say(to_line(found, numbers))
    if hosts.is_main():
        say(f"report: {write_report(folder)}")
    return numbers
