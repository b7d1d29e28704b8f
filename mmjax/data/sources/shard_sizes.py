"""How many samples each shard at an address has, known before any of them is read."""

import json
import os
import posixpath
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from mmjax.data.sources import addresses, base, index, index_file
from mmjax.data.sources.addresses import FarFile

__all__ = ["Counts", "find_indexes", "told"]

_LISTING = "sizes.json"
_MOST_BYTES = 1 << 26  # of a listing
_HEADER_BYTES = 1 << 16  # of an index, in which its header ends
_ASKING = 16


def told(files: Sequence[FarFile], indexes: dict[str, FarFile]) -> dict[str, tuple[int, str]]:
    """{address: (samples, who says so)} of the shards whose folder tells it.

    Args:
      files: the shards.
      indexes: of `find_indexes`; they come before a sizes.json.

    Raises:
      ValueError: a sizes.json that is none.
      FetchError: the store cannot be reached.
    """
    found: dict[str, tuple[int, str]] = {}
    for folder in dict.fromkeys(posixpath.dirname(file.url) for file in files):
        url = f"{folder}/{_LISTING}"
        data = addresses.read_small(url, _MOST_BYTES)
        sizes = _parse(url, data) if data is not None else {}
        for file in files:
            if posixpath.dirname(file.url) == folder and file.name in sizes:
                found[file.url] = (sizes[file.name], url)
    with ThreadPoolExecutor(_ASKING) as pool:
        indexed = [file for file in files if file.url in indexes]
        samples = pool.map(lambda file: _samples(file, indexes[file.url]), indexed)
        for file, count in zip(indexed, samples):
            if count:
                found[file.url] = (count, indexes[file.url].url)
    return found


def find_indexes(files: Sequence[FarFile]) -> dict[str, FarFile]:
    """{address of a shard: the index that lies beside it}, for those that have one."""
    folders = dict.fromkeys(posixpath.dirname(file.url) for file in files)
    there: dict[str, FarFile] = {}
    for folder in folders:
        there |= addresses.list_folder(folder)
    beside = {file.url: there.get(file.url + index.SUFFIX) for file in files}
    return {url: found for url, found in beside.items() if found is not None}


class Counts:
    """What was counted at an earlier start, kept in the cache folder.

    Args:
      files: the shards; replaced ones are counted anew.
    """

    def __init__(self, files: Sequence[FarFile]):
        facts = [(file.url, file.size, file.version) for file in files]
        folder = os.path.join(index.cache_folder(), "counts")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._path = os.path.join(folder, f"{base.digest(facts)}.json")
        self.known: dict[str, int] = {}
        try:
            with open(self._path, encoding="utf-8") as file:
                self.known = _parse(self._path, file.read().encode())
        except (OSError, ValueError):  # none yet, or a damaged one: counted again
            pass

    def keep(self) -> None:
        """Writes all that is known by now."""
        temporary = f"{self._path}.{uuid.uuid4().hex[:8]}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(self.known, file)
        os.replace(temporary, self._path)


def _samples(file: FarFile, beside: FarFile) -> int:
    """By a shard's index; 0 where that is of another shard, or damaged."""
    try:
        data = addresses.read_small(beside.url, _HEADER_BYTES) or b""
        shard_bytes, samples = index_file.read_counts(data)
    except index_file.StaleIndex:
        return 0
    return samples if shard_bytes == file.size else 0


def _parse(where: str, data: bytes) -> dict[str, int]:
    try:
        sizes = json.loads(data)
        if not isinstance(sizes, dict):
            raise ValueError("it is no object")
        for name, count in sizes.items():
            if type(count) is not int or count < 1:
                raise ValueError(f"{name!r} has {count!r} samples, a whole number above 0 is one")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f'{where} does not read {{"shard.tar": samples, ...}}: {error}. Correct or remove it.'
        ) from None
    return sizes
