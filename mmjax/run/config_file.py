"""A config file, as a person names it, to its config."""

import importlib.util
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from mmjax.config import IN_FILE, ConfigError, from_json, lock, nearest, one_line, targets

SMOKE = "smoke"  # the variant that each config has


def load(argument: str) -> ConfigDict:
    """The config of 'configs/x.py' or 'configs/x.py:smoke', or of a saved config.json.

    A file may have further variants, which its VARIANTS name.

    Raises:
      ConfigError: no such file, one of another kind, one without `get_config`, or one whose own
        code fails; then it names the line.
    """
    path, _, variant = argument.partition(":")
    file = pathlib.Path(path)
    if not file.is_file():
        folder = file.parent
        near = [str(other) for other in sorted(folder.glob("*.py"))] if folder.is_dir() else []
        raise ConfigError(f"no config file {path!r}.{nearest(path, near)}")
    if file.suffix not in (".py", ".json"):
        raise ConfigError(f"{path}: a config is a .py file with get_config, or a saved .json file.")
    if file.suffix == ".json":
        return _saved(file, variant)
    module = _run(file, path)
    get_config: Callable[..., Any] | None = getattr(module, "get_config", None)
    if get_config is None:
        raise ConfigError(f"{path} has no get_config(variant='').")
    variants = (SMOKE, *getattr(module, "VARIANTS", ()))
    if variant and variant not in variants:
        are = "the one variant is" if len(variants) == 1 else "the variants are"
        told = ", ".join(map(repr, variants))
        raise ConfigError(f"{path}:{variant}: {are} {told}.{nearest(variant, variants)}")
    try:
        made = get_config(variant) if variant else get_config()
    except Exception as error:
        raise ConfigError(_failure(path, module.__file__, error)) from error
    if not isinstance(made, ConfigDict):
        raise ConfigError(f"{path}: get_config returns {type(made).__name__}, not a ConfigDict.")
    return lock(made)


def _run(file: pathlib.Path, path: str) -> types.ModuleType:
    module_spec = importlib.util.spec_from_file_location(f"{IN_FILE}{file.stem}", file)
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # so that targets defined in the file can be found
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(_failure(path, module_spec.origin, error)) from error
    return module


def allowed(text: str) -> tuple[str, ...]:
    """The packages that '--allow=mine,configs/x.py' allows; a file is run, to have its classes.

    Raises:
      ConfigError: no such file, or one whose own code fails.
    """
    names = [name for name in text.split(",") if name]
    for place, name in enumerate(names):
        if name.endswith(".py"):
            if not (file := pathlib.Path(name)).is_file():
                raise ConfigError(f"--allow={name}: no such file; give a config file or a package.")
            names[place] = _run(file, name).__name__
    return tuple(names)


def check_workers(config: ConfigDict) -> None:
    """Raises ConfigError where worker processes would need classes that the config file defines.

    They import what they need by its name, and a config file is no module that is found by one.
    """
    if not config.get("reading", {}).get("workers"):
        return
    for target in targets({name: config.get(name) for name in ("data", "eval_data")}):
        module, _, name = str(target).partition(":")
        if module.startswith(IN_FILE):
            raise ConfigError(
                f"reading.workers={config.reading.workers}: worker processes cannot import {name}, "
                f"which {module.removeprefix(IN_FILE)}.py defines. Move it into a module of its "
                "own that the config imports, or set --config.reading.workers=0."
            )


def _saved(file: pathlib.Path, variant: str) -> ConfigDict:
    """The config of a config.json, which is whole: nothing is chosen in it."""
    if variant:
        raise ConfigError(f"{file}:{variant}: a saved config has no variants; leave out the name.")
    try:
        config = from_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None
    return linked(config)


def linked(config: ConfigDict) -> ConfigDict:
    """A saved config in which what it says once runs through it again; changed in place."""
    for name, others in RUNNING_THROUGH.items():
        if name in config and config[name] is not None:
            _link(config, config, name, (name, *others), "")
    return config


# Values that a config says once, and the names under which they run through it.
SAME = ("steps", "log_steps", "eval_steps", "save_steps", "vocab_size", "dtype", "remat")
SAME += ("num_classes", "embed_dim", "max_patches")
RUNNING_THROUGH = {
    **dict.fromkeys(SAME, ()),
    "image_size": ("transforms/size",),
    "sequence_length": ("text/length", "transforms/length"),
}


def _link(root: ConfigDict, node: Any, name: str, names: tuple[str, ...], under: str) -> None:
    """Makes fields that have the value of a top-level one follow it again, as they did when saved.

    A JSON file holds values alone; unlinked, an override of the one would leave the others.
    """
    if isinstance(node, tuple):
        for part in node:
            _link(root, part, name, names, under)
    if not isinstance(node, ConfigDict):
        return
    for key in node:
        same = key in names or f"{under}/{key}" in names
        if same and node is not root and node[key] == root[name]:
            with node.unlocked():
                node[key] = root.get_ref(name)
        else:
            _link(root, node[key], name, names, key)


def _failure(path: str, origin: str, error: Exception) -> str:
    """'x.py:12: NameError: ...', by the last line of the file itself that led to the error."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == origin]
    text = one_line(error)
    if isinstance(error, SyntaxError) and error.filename == origin:
        lines, text = [error.lineno], str(error.msg)
    where = f"{path}:{lines[-1]}" if lines and lines[-1] else path
    if found := re.match(r"Could not override field '(\w+)' \(reference\)\.", text):
        return (
            f"{where}: {found[1]} is set to an object or to another type than it has. A config "
            "describes objects: write spec(CLASS, field=value), not CLASS(field=value)."
        )
    kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
    return f"{where}: {kind}{text}"
