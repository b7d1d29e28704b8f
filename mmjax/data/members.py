"""What a member of a record is read as: a text, a class number, a group, a truth."""

from typing import Any

import numpy as np

from mmjax.data.places import LONGEST_TEXT
from mmjax.data.sources.base import BadSample

__all__ = ["as_group", "as_label", "as_text", "as_texts", "as_truth"]

_TRUTHS = {"true": 1, "1": 1, "yes": 1, "false": 0, "0": 0, "no": 0}


def as_text(value: Any, where: str) -> str:
    """A text, of UTF-8 bytes too."""
    if isinstance(value, bytes | str) and len(value) > LONGEST_TEXT:
        raise BadSample("caption", f"{where} has {len(value):,} bytes of text.")
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadSample("caption", f"{where} is not UTF-8: {error}") from None
    if not isinstance(value, str):
        raise BadSample("caption", f"{where} is no text but {type(value).__name__}.")
    return value


def as_group(value: Any, where: str) -> str:
    """What pictures of one thing share, a text or a number, as text."""
    if isinstance(value, bytes | str):
        text = as_text(value, where).strip()
        if text:
            return text
    elif isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return str(value)
    raise BadSample("format", f"{where} is no group: a text or a number is.")


def as_label(value: Any, where: str) -> int:
    """A class number, 0 or more."""
    if isinstance(value, bytes | str):
        text = as_text(value, where).strip()
        if text.isascii() and text.isdigit() and len(text) <= 10:
            value = int(text)
    if isinstance(value, np.integer) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
        given = repr(value)[:40]
        raise BadSample(
            "format", f"{where} is no class number but {given}: number the classes from 0."
        )
    return value


def as_texts(value: Any, where: str) -> tuple[str, ...]:
    """One text or a list of them, white space at the ends left out, empty ones dropped."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(found for one in values if (found := as_text(one, where).strip()))


def as_truth(value: Any, where: str) -> int:
    """1 for a true statement, 0 for a false one; 'true', 'yes', 1 and the like are taken."""
    found = None
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bytes | str):
        found = _TRUTHS.get(as_text(value, where).strip().lower())
    elif isinstance(value, bool | int) and value in (0, 1):
        found = int(value)
    if found is None:
        raise BadSample("format", f"{where} is neither true nor false: {str(value)[:40]!r}.")
    return found
