"""A config names real Python objects: `spec` writes one down, `build` makes it.

A config is an `ml_collections.ConfigDict` of numbers, strings, tuples and specs. A spec is itself
a ConfigDict whose `target` says which class or function it is for and whose other keys are that
target's arguments. Saved as JSON it is data, not code: see `build`.
"""

import difflib
import functools
import importlib
import inspect
import json
import math
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder

from mmjax.parsing import parse_value

TRUSTED = ("mmjax", "optax", "flax")  # roots whose targets a saved config may name
IN_FILE = "mmjax_config_"  # and the file's stem: the module that a config file is run as
# Of our own, classes that a config describes and schedules: nothing that writes or runs.
_OWN_CLASSES = r"mmjax\.(models|objectives|data|evaluation)\..*|mmjax\.preprocess"
_OWN_CLASSES += r"|mmjax\.training\.(optimizers\.\w+|loop|step)|mmjax\.run\.assembly"
_OWN_CLASSES += r"|mmjax\.parallel\.limits"
_OWN_FUNCTIONS = "mmjax.training.schedules"
_PLAIN = (bool, int, float, str)
_allowed: list[str] = []  # packages that the command line allows beside the trusted
_named: dict[str, Any] = {}  # targets that code of this process has put into a spec itself


class ConfigError(ValueError):
    """Something in a config is wrong; the message is one line for the person who typed it."""


def nearest(name: str, known: Sequence[str]) -> str:
    """' Did you mean ...?' or the list of what there is."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" There are: {', '.join(map(str, known))}." if known else ""


def public_path(target: Any) -> str:
    """The shortest 'module:name' that leads to a top-level class or function."""
    name = getattr(target, "__qualname__", "")
    if not isinstance(target, type | types.FunctionType) or not name.isidentifier():
        raise ConfigError(
            f"a spec's target is a class or function at the top of a module; {target!r} is not."
        )
    parts = target.__module__.split(".")
    for length in range(1, len(parts) + 1):
        module = ".".join(parts[:length])
        if getattr(sys.modules.get(module), name, None) is target:
            return f"{module}:{name}"
    raise ConfigError(f"{target!r} cannot be imported as {target.__module__}:{name}.")


def spec(target: Any, /, partial: tuple[str, ...] = (), **fields: Any) -> ConfigDict:
    """Writes down a call of `target`, checked against its signature at once.

    Args:
      target: a class or function at the top level of a module.
      partial: names of the arguments that only exist at run time; `build` then returns a
        `functools.partial` that waits for them.
      **fields: the other arguments; those left out take the target's plain defaults.

    Raises:
      ConfigError: an argument that the target does not take, or one that it needs and lacks.
    """
    path = public_path(target)
    _named[path] = target
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    if "parent" in parameters:  # a Flax module: `parent` and `name` are Flax's own
        parameters = {k: v for k, v in parameters.items() if k not in ("parent", "name")}
    for name in (*fields, *partial):
        if name not in parameters:
            raise ConfigError(
                f"{target.__name__} takes no {name!r}.{nearest(name, list(parameters))}"
            )
    made = ConfigDict({"target": path})
    if partial:
        made.partial = tuple(partial)
    for name, parameter in parameters.items():
        if name in fields:
            _put(made, name, fields[name], parameter)
        elif name in partial:
            continue
        elif parameter.default is parameter.empty:
            raise ConfigError(
                f"{target.__name__} needs {name!r}: give it, or name it in partial=({name!r},)."
            )
        elif _is_plain(parameter.default) and not _is_untyped_none(parameter):
            _put(made, name, parameter.default, parameter)
    return made


def _optional_kind(parameter: inspect.Parameter) -> Any:
    """int for `int | None`, and so on; None where there is no single plain type."""
    kinds = [kind for kind in typing.get_args(parameter.annotation) if kind in _PLAIN]
    return kinds[0] if len(kinds) == 1 else None


def _is_untyped_none(parameter: inspect.Parameter) -> bool:
    """A default that no command line could replace; the target's own default does as well."""
    return parameter.default is None and _optional_kind(parameter) is None


def _parameter(holder: ConfigDict, name: str) -> inspect.Parameter | None:
    """The argument that a field of a spec stands for; None for what no known target describes."""
    if "target" not in holder:
        return None
    try:
        return inspect.signature(find_target(holder.target)).parameters.get(name)
    except (TypeError, ValueError):  # a refused target: `build` is where that is said
        return None


def _takes_none(parameter: inspect.Parameter | None) -> bool:
    return parameter is not None and (
        parameter.default is None or type(None) in typing.get_args(parameter.annotation)
    )


def _put(made: ConfigDict, name: str, value: Any, parameter: inspect.Parameter) -> None:
    if value is None:  # a None field could never be overridden, so it gets its type
        # What may be anything may become a spec, where a recipe takes another's config.
        other = object if parameter.annotation in (Any, object) else str
        made[name] = placeholder(_optional_kind(parameter) or other)
        return
    if parameter.annotation is float and type(value) is int:
        value = float(value)
    made[name] = _tuples(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, _PLAIN)


def _tuples(value: Any) -> Any:
    """Lists become tuples: a tuple of specs keeps its order, and the config can be hashed."""
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    return value


def lock(config: Any) -> Any:
    """Locks every dict of a config, those inside tuples too."""
    if isinstance(config, ConfigDict):
        config.lock()
        for value in config.values():
            lock(value)
    elif isinstance(config, tuple):
        for item in config:
            lock(item)
    return config


def plain(config: Any) -> Any:
    """The config as dicts, tuples and plain values, with every reference resolved."""
    if isinstance(config, ConfigDict | Mapping):
        return {name: plain(config[name]) for name in sorted(config)}
    if isinstance(config, list | tuple):
        return tuple(plain(item) for item in config)
    return config.get() if isinstance(config, FieldReference) else config


def to_json(config: Any) -> str:
    """The canonical text of a config: what is saved, compared and hashed."""
    return json.dumps(plain(config), indent=1, sort_keys=True) + "\n"


def from_json(text: str) -> ConfigDict:
    """The config whose `to_json` was saved.

    Raises:
      ConfigError: the text is no JSON, or not that of a config.
    """
    try:
        made = _revive(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"this is no config as JSON: {one_line(error)}") from None
    if not isinstance(made, ConfigDict):
        raise ConfigError(f"this is no config as JSON: one is {{...}}, this {text.strip()[:20]!r}.")
    return lock(made)


def one_line(error: Exception) -> str:
    """What an error says, for a message of one line."""
    return " ".join(str(error).split())


def _revive(value: Any) -> Any:
    if isinstance(value, dict):
        made = ConfigDict()
        for name, item in value.items():
            made[name] = _revive(item)
        return made
    return tuple(_revive(item) for item in value) if isinstance(value, list) else value


def find_target(path: str, allow: Sequence[str] = ()) -> Any:
    """The class or function behind 'module:name'.

    Raises:
      ConfigError: a root package that is neither trusted nor allowed, or no such thing there.
    """
    if path in _named:
        return _named[path]
    roots = (*TRUSTED, *allow, *_allowed)
    found = re.fullmatch(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)", path)
    if not found or found[1].split(".")[0] not in roots:
        if found and found[1].startswith(IN_FILE):
            file = f"{found[1].removeprefix(IN_FILE)}.py"
            raise ConfigError(
                f"target {path!r} is refused: the config file {file} defined it, which a saved "
                f"config does not run. Allow it, as --allow=FOLDER/{file}, if you trust it."
            )
        raise ConfigError(
            f"target {path!r} is refused: a saved config may name classes and functions of "
            f"{', '.join(roots)} only. Allow its package by name (--allow=NAME) if you trust it."
        )
    try:
        target = getattr(importlib.import_module(found[1]), found[2])
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"target {path!r} does not exist here: {error}.") from None
    home = str(getattr(target, "__module__", ""))
    if not isinstance(target, type | types.FunctionType) or home.split(".")[0] not in roots:
        raise ConfigError(f"target {path!r} is refused: it is no class or function of {roots}.")
    is_config = isinstance(target, type) and re.fullmatch(_OWN_CLASSES, home)
    if home.startswith("mmjax.") and not (is_config or home == _OWN_FUNCTIONS):
        raise ConfigError(
            f"target {path!r} is refused: a saved config may name models, objectives, data, "
            "evaluators, the optimizer and schedules of mmjax, and nothing that acts."
        )
    if home.startswith("flax.") and not home.startswith("flax.linen"):
        raise ConfigError(f"target {path!r} is refused: of flax, only flax.linen may be named.")
    return target


def targets(config: Any) -> Iterator[str]:
    """Every target that a config names, in whatever depth."""
    if isinstance(config, ConfigDict | Mapping):
        if "target" in config:
            yield config["target"]
        for name in config:
            yield from targets(config[name])
    elif isinstance(config, tuple):
        for item in config:
            yield from targets(item)


def trust(packages: Sequence[str]) -> None:
    """Lets saved configs name classes and functions of these packages too, in this process."""
    _allowed.extend(packages)


def build(config: Any, allow: Sequence[str] = ()) -> Any:
    """Makes the objects that a config names; plain values come back as they are.

    A target is made if code of this process put it into a spec, or if its package is `mmjax`,
    `optax`, `flax` or in `allow`. So a config that was read back from JSON runs nothing else.

    Args:
      config: a spec, or a dict, tuple or value that may hold specs.
      allow: further root packages.

    Raises:
      ConfigError: a refused target, or arguments that the target does not accept; it names the
        key of the innermost spec at fault, as in 'data.transforms[0]: Resize: ...'.
    """
    return _build(config, allow, "")


def _build(config: Any, allow: Sequence[str], path: str) -> Any:
    if isinstance(config, FieldReference):
        return _build(config.get(), allow, path)
    if isinstance(config, list | tuple):
        return tuple(_build(item, allow, f"{path}[{n}]") for n, item in enumerate(config))
    if not isinstance(config, ConfigDict | Mapping):
        if isinstance(config, float) and math.isnan(config):
            raise ConfigError(f"{path}: nan stands for no number; give one.")
        return config
    fields = {
        name: _build(config[name], allow, f"{path}.{name}" if path else str(name))
        for name in config
        if name not in ("target", "partial")
    }
    if "target" not in config:
        return fields
    where = f"{path}: " if path else ""
    try:
        target = find_target(config["target"], allow)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None
    if "partial" in config:
        return functools.partial(target, **fields)
    try:
        return target(**fields)
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(f"{where}{target.__name__}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError) as error:  # a value of another shape
        told = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{where}{target.__name__} cannot be made of these ({told}).") from error


def override(config: ConfigDict, path: str, text: str) -> None:
    """Sets one value by its dotted path, e.g. ('data.transforms[0].size', '256').

    Args:
      config: changed in place.
      path: keys joined by dots, [n] for a member of a tuple.
      text: the value as typed; read by the type of the value that stands there.

    Raises:
      ConfigError: no such key (names the nearest one), or a value of another type.
    """
    holder, name, given = None, "", f"--config.{path}={text}"
    value: Any = config
    for part in _steps(path, given):
        if isinstance(part, int):
            if not isinstance(value, tuple) or not isinstance(
                value[0] if value else None, ConfigDict
            ):
                raise ConfigError(
                    f"{given}: {name!r} is replaced as a whole; [n] reaches into specs."
                )
            if part >= len(value):
                raise ConfigError(
                    f"{given}: {name!r} has {len(value)} members, 0 to {len(value) - 1}."
                )
            holder, value = None, value[part]
            continue
        if not isinstance(value, ConfigDict):
            raise ConfigError(f"{given}: {name or 'config'!r} has no fields; it is {value!r}.")
        if part not in value:
            places = list(_places(config, part, ""))
            told = f" It stands at {', '.join(places[:4])}." if places else ""
            told = told or nearest(part, sorted(value))
            raise ConfigError(f"{given}: no key {part!r} in {name or 'config'}.{told}")
        if part in ("target", "partial"):
            raise ConfigError(f"{given}: another {part} is another config; write it in the file.")
        holder, name, value = value, part, value[part]
    if holder is None or isinstance(value, ConfigDict):
        fields = ", ".join(sorted(value)) if isinstance(value, ConfigDict) else ""
        raise ConfigError(f"{given}: that is a group; set one of its fields: {fields}.")
    if isinstance(value, tuple) and any(isinstance(item, ConfigDict) for item in value):
        raise ConfigError(f"{given}: a tuple of specs is set member by member: {path}[0].field=...")
    parameter, kind = _parameter(holder, name), holder.get_type(name)
    if kind is type(None) and parameter is not None:  # set to None before, or read from JSON
        kind = _optional_kind(parameter) or kind
    try:
        parsed = parse_value(text, value, kind, _takes_none(parameter))
    except ValueError as error:
        raise ConfigError(f"{given}: {error}") from None
    with holder.unlocked():
        holder[name] = parsed


def _places(config: Any, name: str, path: str) -> Iterator[str]:
    """The paths of a config at which a key of this name stands."""
    inside: list[tuple[str, Any]] = []
    if isinstance(config, tuple):
        inside = [(f"{path}[{place}]", item) for place, item in enumerate(config)]
    elif isinstance(config, ConfigDict):
        inside = [(f"{path}.{key}" if path else key, config[key]) for key in config]
        if name in config:
            yield f"{path}.{name}" if path else name
    for where, item in inside:
        yield from _places(item, name, where)


def _steps(path: str, given: str) -> Iterator[str | int]:
    for part in path.split("."):
        found = re.fullmatch(r"(\w+)((?:\[\d+\])*)", part)
        if not found:
            raise ConfigError(f"{given}: a path reads like 'data.transforms[0].size'.")
        yield found[1]
        yield from (int(number) for number in re.findall(r"\d+", found[2]))
