"""Where in a record something lies: 'txt', 'json:photo.title', 'npz:features', 'jpg;png'."""

import functools
import json
from typing import Any

from mmjax.data.arrays import NPZ, Npz
from mmjax.data.sources.base import BadSample, Record

__all__ = ["LONGEST_TEXT", "Reader", "places_of"]

LONGEST_TEXT = 1 << 24  # bytes; transforms cut captions, this only keeps a bomb from being split


class Reader:
    """Finds places in one record; each member that holds JSON or arrays is opened once.

    A place is a member's name, or a member and what is meant in it: a field of its JSON, nested
    with dots, or an array of its `.npz`. Several with ';' between them are tried in order.

    Args:
      record: of a source.
    """

    def __init__(self, record: Record):
        self.record = record
        self.parsed: dict[str, Any] = {}

    def where(self, name: str) -> str:
        """What errors call a place."""
        shard = self.record.get("__shard__")
        key = self.record.get("__key__", "?")
        return f"{shard}: {key}.{name}" if shard else f"{key}.{name}"

    def find(self, option: str, places: str) -> tuple[str, Any]:
        """(place, value) of the first place that is there.

        Args:
          option: whose places they are, for the error.
          places: see above.

        Raises:
          BadSample: 'missing' with the members found, or a member that is damaged.
        """
        for member, path in places_of(places):
            if member not in self.record:
                continue
            if path is None:
                return member, self.record[member]
            inside = self.inside(member)
            value = inside.get(path) if isinstance(inside, Npz) else _field(inside, path)
            if value is not None:
                return f"{member}:{path}", value
        raise BadSample(
            "missing", f"{self.where('*')}: {option}={places!r}, found {self.members()}."
        )

    def inside(self, member: str) -> Any:
        """A member's arrays, or its JSON parsed."""
        if member not in self.parsed:
            value = self.record[member]
            if isinstance(value, bytes) and value.startswith(NPZ):
                value = Npz(value, self.where(member))
            elif isinstance(value, bytes | str):
                if len(value) > LONGEST_TEXT:
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
        """The members found, with what is in those that were opened or come so."""
        names = self.record.get("__members__") or [
            name for name in self.record if not name.startswith("__")
        ]
        shown = []
        for name in names[:20]:
            inside = self.parsed.get(name, self.record.get(name))  # a row of a table is a dict
            fields = inside.names if isinstance(inside, Npz) else inside
            fields = list(fields)[:20] if isinstance(fields, dict | tuple) else []
            shown += [f"{name}:{field}" for field in fields] or [name]
        return ", ".join(shown) or "no members"


@functools.lru_cache(maxsize=256)
def places_of(option: str) -> tuple[tuple[str, str | None], ...]:
    """The places of an option: 'jpg;json:a.b' as (('jpg', None), ('json', 'a.b'))."""
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
