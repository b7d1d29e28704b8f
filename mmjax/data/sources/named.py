"""Pictures that a dataset's own file names: found by name in a folder or in shards."""

import os
from collections.abc import Iterable
from typing import Any

from mmjax.data.sources import patterns
from mmjax.data.sources.base import BadSample, Record
from mmjax.data.sources.folder import PICTURES, Folder
from mmjax.data.sources.webdataset import WebDataset

__all__ = ["NamedPictures", "some"]

_SHOWN = 5  # names in a message


class NamedPictures:
    """The pictures of a folder (with its subfolders) or of `.tar` shards.

    Args:
      path: the folder, or one pattern of shards or several.

    Raises:
      ValueError: no pictures there, or an address.
      FileNotFoundError: there is no such folder or shard.
    """

    def __init__(self, path: str | tuple[str, ...]):
        if isinstance(path, str) and os.path.isdir(os.path.expanduser(path)):
            self.source: Folder | WebDataset = Folder(path)
        else:
            shards = patterns.split(path) if isinstance(path, str) else path
            self.source = WebDataset(shards, members=(";".join(PICTURES),))

    def __len__(self) -> int:
        return len(self.source)

    def name(self, position: int) -> str:
        """A picture's name without its folder and extension."""
        return self.source.key(position).rpartition("/")[2]

    def places(self) -> dict[str, int]:
        """Where each name stands.

        Raises:
          ValueError: several pictures have one name, in different subfolders or shards.
        """
        found: dict[str, int] = {}
        twice = set()
        for position in range(len(self)):
            name = self.name(position)
            if found.setdefault(name, position) != position:
                twice.add(name)
        if twice:
            raise ValueError(
                f"{len(twice):,} names of pictures stand there more than once, in several folders "
                f"or with several extensions, such as {some(twice)}; a name must be one picture's."
            )
        return found

    def read(self, position: int) -> tuple[str, bytes, dict[str, Any]]:
        """(extension, content, where it lies) of a picture.

        Raises:
          BadSample: it cannot be read.
        """
        record: Record = self.source[position]
        found = next((name for name in PICTURES if name in record), None)
        if found is None:
            raise BadSample("missing", f"{record['__key__']} has no picture.")
        return found, record[found], {k: v for k, v in record.items() if k == "__shard__"}

    def fingerprint(self) -> str:
        """A hash of what the pictures are, see `Source.fingerprint`."""
        return self.source.fingerprint()


def some(names: Iterable[Any]) -> str:
    """The first few of some names or numbers, for messages."""
    ordered = sorted(names)
    return ", ".join(map(str, ordered[:_SHOWN])) + (", ..." if len(ordered) > _SHOWN else "")
