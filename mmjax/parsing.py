"""Values as people type them on a command line, read by the type of what they replace."""

import ast
from typing import Any

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def parse_value(text: str, current: Any, kind: type, optional: bool = False) -> Any:
    """The value behind `text`.

    Args:
      text: as typed.
      current: what stands there now; None for a placeholder.
      kind: the type of the field, also where `current` is None.
      optional: whether 'none' is a value of the field; it always is where `current` is None.

    Raises:
      ValueError: the text is no value of that type.
    """
    if text.lower() == "none" and (current is None or optional):
        return None
    if kind is bool:
        if text.lower() not in _BOOLEANS:
            raise ValueError(f"{text!r} is no bool; write true or false.")
        return _BOOLEANS[text.lower()]
    if kind is int:
        return _integer(text)
    if kind is float:
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{text!r} is no number (a float, now {current!r}).") from None
    if kind is str:
        return text
    if kind is tuple:
        return _sequence(text, current)
    article = "an" if kind is object else "a"
    raise ValueError(
        f"{article} {kind.__name__} cannot be set on the command line (now {current!r})."
    )


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)  # 3e6 is how people write steps
    except ValueError:
        raise ValueError(f"{text!r} is no whole number (an int is needed).") from None
    if not number.is_integer():  # nor are inf and nan
        raise ValueError(f"{text!r} is no whole number (an int is needed).")
    return int(number)


def _sequence(text: str, current: Any) -> tuple[Any, ...]:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if current and not all(isinstance(item, str) for item in current):
            raise ValueError(f"{text!r} is no tuple like {current!r}.") from None
        value = tuple(text.split(","))
    value = value if isinstance(value, list | tuple) else (value,)
    return tuple(tuple(item) if isinstance(item, list) else item for item in value)
