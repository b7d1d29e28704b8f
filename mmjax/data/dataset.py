"""What a stream draws from: sources with their fields and transforms, alone or mixed by weight."""

import dataclasses
import glob
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mmjax.data.fields import Fields
from mmjax.data.sources import patterns
from mmjax.data.sources.base import Source
from mmjax.data.sources.fetching import FETCHING, Fetching

_SPREAD_BLOCKS = 8  # that a tokenizer is trained on, or every shard would be fetched for it
_LARGEST_WEIGHT = 1e100  # shares of sums of them are still numbers
_TABLES = (".jsonl", ".ndjson", ".csv", ".tsv")
_COMPRESSED = {".gz": "gunzip -k", ".tgz": "gunzip -k", ".bz2": "bunzip2 -k"}
_COMPRESSED |= {".xz": "unxz -k", ".zst": "unzstd"}
Transform = Callable[[dict[str, Any], np.random.Generator], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One source, what its records mean, and what is done to a sample.

    Attributes:
      path: where the samples lie, see `open_source`; or '' where `source` is given.
      source: the source itself.
      fields: which members of a record are picture, caption, group, label.
      transforms: applied in order; each random draw is keyed by (seed, sample index).
      weight: share of the samples where several datasets are mixed.
      fetching: how shards are brought here where `path` is an address.
    """

    path: str = ""
    source: Any = None
    fields: Fields = dataclasses.field(default_factory=Fields)
    transforms: tuple[Transform, ...] = ()
    weight: float = 1.0
    fetching: Fetching = dataclasses.field(default_factory=Fetching)

    def __post_init__(self) -> None:
        if bool(self.path) == (self.source is not None):
            has = "both" if self.path else "neither"
            raise ValueError(
                "give a dataset either path=... (shards, a table or a folder) or source=...; it "
                f"has {has}."
            )
        if not 0 < self.weight <= _LARGEST_WEIGHT:
            raise ValueError(
                f"weight={str(self.weight)[:20]}: a dataset's weight is above 0 and at most "
                f"{_LARGEST_WEIGHT:.0e}."
            )
        if self.source is None:
            object.__setattr__(self, "source", open_source(self.path, self.fetching))
        if len(self.source) == 0:
            raise ValueError(f"no samples: {self.source.describe()}.")

    def captions(self, most: int) -> Iterator[str]:
        """Captions of up to `most` samples, spread evenly; unusable samples are passed over."""
        from mmjax.data.sources.base import BadSample

        for position in _spread(self.source, most):
            try:
                yield from self.fields(self.source[position]).get("captions", ())
            except BadSample:
                continue


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Several datasets in one stream, each repeating at its own epoch."""

    members: tuple[Dataset, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("a mixture needs at least one dataset in members=(...).")


def members_of(data: Dataset | Mixture) -> tuple[Dataset, ...]:
    """The datasets of a stream, a single one as a mixture of one."""
    return data.members if isinstance(data, Mixture) else (data,)


def _spread(source: Source, most: int) -> list[int]:
    """Up to `most` positions spread evenly; over a few blocks where a source has blocks."""
    if source.blocks is None:
        return np.unique(np.linspace(0, len(source) - 1, most).astype(np.int64)).tolist()
    ends, sizes = source.blocks.ends, source.blocks.sizes
    chosen = np.unique(np.linspace(0, len(sizes) - 1, _SPREAD_BLOCKS).astype(np.int64)).tolist()
    share = -(-most // len(chosen))
    spread = [np.linspace(ends[n] - sizes[n], ends[n] - 1, share).astype(np.int64) for n in chosen]
    return np.unique(np.concatenate(spread)).tolist()


def _far(path: str, fetching: Fetching) -> Source:
    from mmjax.data.sources import remote

    words = tuple(path.split())
    for word in words:
        if not patterns.is_address(word):
            raise ValueError(f"{word!r} is no address, the others of {path!r} are; mix datasets.")
    return remote.RemoteShards(words, fetching)


def open_source(path: str, fetching: Fetching = FETCHING) -> Source:
    """The source that a path means, by its ending.

    Args:
      path: `.tar` shards (globs, {000..009} braces, several separated by spaces), `.array_record`
        or `.arrayrecord` files, `.parquet` files, a `.jsonl`, `.ndjson`, `.csv` or `.tsv` table, or
        a folder of pictures. A text with spaces that finds files as a whole is one pattern; '~' is
        the home folder.

      fetching: how shards are brought here: `.tar` and `.array_record` files may also be at
        addresses that fsspec knows, such as gs:// and s3://.

    Raises:
      ValueError: a blank path, LMDB, a compressed file, or the ending names no kind of source.
      FileNotFoundError: a table or shards that are not there.
    """
    from mmjax.data.sources import array_record, folder, webdataset

    if not path.strip():
        raise ValueError(f"{path!r} is a blank path; name shards, a table or a folder of pictures.")
    whole = os.path.expanduser(path)
    words = (whole,) if os.path.exists(whole) else patterns.split(path)
    first = words[0]
    if any(map(patterns.is_address, words)):
        return _far(path, fetching)
    patterns.refuse_address(first)
    if first.rstrip("/").endswith(".lmdb") or os.path.exists(os.path.join(whole, "data.mdb")):
        raise ValueError(
            f"{path!r} is LMDB, which holds pickles for region features: reading one runs whatever "
            "is in it, so mmjax never does. Where you trust the file, unpickle it with the code "
            "that wrote it and write .tar shards with .npz members (docs/regions.md)."
        )
    if os.path.isdir(whole):
        return folder.Folder(whole)
    if whole.endswith(_TABLES):
        return folder.Table(whole)
    if first.endswith(".tar"):
        return webdataset.WebDataset(words)
    if ".array_record" in first or ".arrayrecord" in first:
        return array_record.ArrayRecordSource(words)
    if first.endswith(".parquet"):
        from mmjax.data.sources import parquet  # Arrow alone takes a fifth of a second to import

        return parquet.Parquet(words)
    if first.endswith(tuple(_COMPRESSED)):
        command = next(c for ending, c in _COMPRESSED.items() if first.endswith(ending))
        raise ValueError(
            f"{path!r} is compressed, and samples are read at random, from plain files. Unpack it "
            f"once, as with '{command} {first}', and give the file that this makes."
        )
    near = sorted(glob.glob(os.path.join(os.path.dirname(whole) or ".", "*")))[:5]
    raise ValueError(
        f"{path!r} is no data: give .tar, .array_record or .parquet files, a .jsonl, .ndjson, .csv "
        f"or .tsv table, or a folder. Nearby: {', '.join(near) or 'nothing'}."
    )
