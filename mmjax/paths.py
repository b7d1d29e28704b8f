"""Names of arrays inside trees, and ordered rules over those names.

Sharding, learning rates, weight decay, freezing and warm starts all choose arrays by an ordered
list of (pattern, value): the first pattern that matches the whole path wins. A path is the keys
from the root joined by '/', e.g. 'image/blocks/attention/query/kernel'.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

Rules = Sequence[tuple[str, Any]]


def key_name(entry: Any) -> str:
    """The plain name of one step of a JAX key path."""
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def path_name(path: Iterable[Any]) -> str:
    """The '/'-joined name of a JAX key path."""
    return "/".join(key_name(entry) for entry in path)


def flatten(tree: Any) -> dict[str, Any]:
    """{path: leaf} of any pytree, in the tree's own order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict whose `flatten` is `flat`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def map_with_path(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` whose function gets the path's name first."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(path_name(path), *leaves), tree, *rest
    )


def match(rules: Rules, path: str) -> Any:
    """The value of the first rule whose pattern matches the whole path.

    Raises:
      KeyError: no rule matches.
    """
    for pattern, value in rules:
        if re.fullmatch(pattern, path):
            return value
    raise KeyError(path)


def check_rules(rules: Any, what: str) -> None:
    """Raises ValueError for what is no list of (regular expression, value).

    Args:
      rules: as a person wrote them.
      what: what they are for, e.g. 'sharding_rules', named in the message.
    """
    for rule in rules:
        pair = isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[0], str)
        if not pair:
            raise ValueError(
                f"{what}: {rule!r} is no rule; write ('pattern of paths', value), and a single "
                "rule as (('pattern', value),)."
            )
        try:
            re.compile(rule[0])
        except re.error as error:
            raise ValueError(f"{what}: {rule[0]!r} is no regular expression: {error}.") from None


def choose(rules: Rules, names: Iterable[str], what: str) -> dict[str, Any]:
    """{path: value} by ordered rules, with every path matched and every rule used.

    Args:
      rules: ordered (regular expression, value); each must match the whole path.
      names: the paths to decide for.
      what: what the rules are for, e.g. 'learning-rate rules', named in errors.

    Raises:
      ValueError: no rules, a path that no rule matches, or a rule that never decides anything.
    """
    check_rules(rules, what)
    names = list(names)
    chosen: dict[str, Any] = {}
    used = [False] * len(rules)
    unmatched = []
    for name in names:
        for number, (pattern, value) in enumerate(rules):
            if re.fullmatch(pattern, name):
                chosen[name] = value
                used[number] = True
                break
        else:
            unmatched.append(name)
    if unmatched:
        shown = ", ".join(unmatched[:5]) + (", ..." if len(unmatched) > 5 else "")
        raise ValueError(
            f"{what}: no rule matches {len(unmatched)} of {len(names)} arrays: {shown}. "
            "Add a rule, or end the list with ('.*', value)."
        )
    idle = [
        pattern
        for (pattern, _), hit in zip(rules, used)
        if not hit and pattern != ".*" and not pattern.startswith("(?#optional)")
    ]
    if idle:
        examples = ", ".join(names[:3])
        raise ValueError(
            f"{what}: rule {idle[0]!r} decides nothing; the paths look like {examples}. Correct "
            "it, drop it, or begin it with '(?#optional)'."
        )
    return chosen
