"""The members of one record: found by their place, and read as what a place is said to hold."""

import functools
import json
from typing import Any

import numpy as np

from mmjax.data.sources.base import BadSample, Record

__all__ = ["Members", "as_group", "as_label", "as_text", "as_texts", "as_truth", "split_places"]

_LONGEST_TEXT = 1 << 24  # bytes; transforms cut captions, this only keeps a bomb from being split
_TRUTHS = {"true": 1, "1": 1, "yes": 1, "false": 0, "0": 0, "no": 0}


class Members:
    """Finds places in one record; each JSON member is parsed once."""

    def __init__(self, record: Record):
        self.record = record
        self.parsed: dict[str, Any] = {}

    def where(self, name: str) -> str:
        """Shard, key and name, for messages."""
        shard = self.record.get("__shard__")
        key = self.record.get("__key__", "?")
        return f"{shard}: {key}.{name}" if shard else f"{key}.{name}"

    def find(self, option: str, places: str) -> tuple[str, Any]:
        """(place, value) of the first place that is there."""
        for member, path in split_places(places):
            if member not in self.record:
                continue
            if path is None:
                return member, self.record[member]
            value = _field(self.json(member), path)
            if value is not None:
                return f"{member}:{path}", value
        raise BadSample(
            "missing", f"{self.where('*')}: {option}={places!r}, found {self.members()}."
        )

    def json(self, member: str) -> Any:
        """What a member that holds JSON says."""
        if member not in self.parsed:
            value = self.record[member]
            if isinstance(value, bytes | str):
                if len(value) > _LONGEST_TEXT:
                    raise BadSample("format", f"{self.where(member)} has {len(value):,} bytes.")
                try:
                    value = json.loads(value)
                except (ValueError, RecursionError) as error:
                    raise BadSample(
                        "format", f"{self.where(member)} is not JSON: {error}"
                    ) from None
            self.parsed[member] = value
        return self.parsed[member]

    def members(self) -> str:
        """The members found, with the fields of those that hold JSON."""
        names = self.record.get("__members__") or [
            name for name in self.record if not name.startswith("__")
        ]
        shown = []
        for name in names[:20]:
            inside = self.parsed.get(name)
            fields = list(inside)[:20] if isinstance(inside, dict) else []
            shown += [f"{name}:{field}" for field in fields] or [name]
        return ", ".join(shown) or "no members"


@functools.lru_cache(maxsize=256)
def split_places(option: str) -> tuple[tuple[str, str | None], ...]:
    """'jpg;json:a.b' as (('jpg', None), ('json', 'a.b'))."""
    places = []
    for place in option.split(";") if option else ():
        member, colon, path = place.strip().partition(":")
        places.append((member, path if colon else None))
    return tuple(places)


def _field(value: Any, path: str) -> Any:
    """The field of parsed JSON, or None; a key that itself has dots comes first."""
    if isinstance(value, dict) and path in value:
        return value[path]
    for step in path.split("."):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def as_text(value: Any, where: str) -> str:
    """A text, of UTF-8 bytes too."""
    if isinstance(value, bytes | str) and len(value) > _LONGEST_TEXT:
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
        raise BadSample("format", f"{where} is no class number: 0 or more is.")
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
