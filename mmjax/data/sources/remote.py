"""Shards at addresses: whole ones are fetched ahead into a local cache, and read there.

Single samples are never asked of a store: a request costs as much as a megabyte. So an epoch goes
through the shards in a drawn order, the samples of a window of them mixed (`data.block_order`), and
the shards of the next window are fetched while this one is read.

How many samples a shard has must be known before step 1. It is told by, in this order, an index
beside the shard ('X.tar.mmjax-index', as local shards get one), a 'sizes.json' in the shards'
folder ({"X.tar": 9873, ...}, as open_clip has it), or what an earlier start on this host has
counted; otherwise every shard is fetched once and counted.
"""

import concurrent.futures
import logging
import os
import posixpath
import threading
import time
from typing import Any

from mmjax.data.sources import (
    addresses,
    array_record,
    base,
    index,
    patterns,
    shard_sizes,
    webdataset,
)
from mmjax.data.sources.fetching import FETCHING, FetchError, Fetching
from mmjax.data.sources.shard_cache import Held, ShardCache

__all__ = ["RemoteShards"]

_FETCHERS = 2
_NOTED_SECONDS = 30.0  # between two lines, and two notes on the disk, while shards are counted
_IN_ORDER = -1  # the lane of reads that nobody has foretold


class _Opened:
    """A shard that is held in the cache, and the source that reads it."""

    def __init__(self, held: Held, source: base.Source):
        self.held, self.source = held, source


class RemoteShards(base.Source):
    """WebDataset tars or ArrayRecord files at addresses that fsspec knows (gs://, s3://, ...).

    A shard that cannot be fetched ends the run with its address; it is never left out silently. A
    member that is damaged in the copy here is fetched once more, and is a bad sample if it stays.

    Args:
      path: one address or several, with globs and braces: 'gs://bucket/cc3m-{000000..000331}.tar'.
      fetching: cache and order.
      members: of tars, see `WebDataset`.

    Raises:
      ValueError: shards of unlike kinds or of none, an unknown protocol, a cache that is too small,
        a sizes.json that cannot be read.
      FileNotFoundError: addresses where nothing is.
      FetchError: a store that cannot be reached, a shard that cannot be fetched or is damaged.
    """

    def __init__(
        self,
        path: str | tuple[str, ...],
        fetching: Fetching = FETCHING,
        members: tuple[str, ...] = (),
    ):
        urls = (path,) if isinstance(path, str) else tuple(path)
        self._fetching, self._members = fetching, tuple(members)
        names = list(patterns.names(urls))
        for name in names:
            if not _kind(name) or _kind(name) != _kind(names[0]):
                raise ValueError(
                    f"{name}: what is read from addresses are .tar or .array_record files, all of "
                    "one kind. Mount or copy other data."
                )
        self._files = addresses.find(urls, leave_out=(index.SUFFIX, ".tmp"))
        window = min(fetching.window, len(self._files))
        self._check_room(window)
        self._forget()
        self._indexes = shard_sizes.find_indexes(self._files)
        self._told = shard_sizes.told(self._files, self._indexes)
        self._count_others()
        sizes = tuple(self._told[file.url][0] for file in self._files)
        self._blocks = base.Blocks(sizes, window, fetching.lanes)

    def __len__(self) -> int:
        return self._blocks.ends[-1]

    def __getitem__(self, position: int) -> base.Record:
        if not 0 <= position < len(self):
            raise IndexError(f"Sample {position} of {len(self):,} was asked for.")
        number, inside = self._blocks.find(position)
        self._notice(number, inside)
        opened, url = self._opened(number), self._files[number].url
        try:
            record = opened.source[inside]
        except base.BadSample as problem:
            if problem.cause not in ("checksum", "read"):
                raise self._named(number, problem) from None
            record = self._read_again(number, inside, opened, problem)
        return {**record, "__shard__": url}

    def fingerprint(self) -> str:
        shards = [(file.name, file.size, n) for file, n in zip(self._files, self._blocks.sizes)]
        order = (self._blocks.window, self._blocks.lanes)
        return base.digest(["RemoteShards", shards, order, self._members])

    def describe(self) -> str:
        files = f"{len(self._files):,} shard{'s' if len(self._files) > 1 else ''}"
        where = posixpath.dirname(self._files[0].url)
        return f"{files} at {where}, {len(self):,} samples"

    @property
    def blocks(self) -> base.Blocks:
        return self._blocks

    @property
    def retries(self) -> int:
        """Fetches that this process had to begin again."""
        return self._cache.retries

    def expect(self, lane: int, blocks: tuple[int, ...]) -> None:
        if self._process != os.getpid():  # forked: threads and locks are the parent's
            self._forget()
        if blocks in self._lanes.get(lane, ()):
            return
        with self._lock:
            lanes = {**self._lanes, lane: (*self._lanes.get(lane, ()), blocks)[-2:]}
            if lane != _IN_ORDER:  # a run has begun; what was looked at before it may go
                lanes.pop(_IN_ORDER, None)
            self._lanes = lanes
            self._wanted = {n for recent in lanes.values() for near in recent for n in near}
            for number in [number for number in self._shards if number not in self._wanted]:
                del self._shards[number]
            self._queue = [number for number in self._queue if number in self._wanted]
            self._queue += [
                number
                for number in blocks
                if number not in self._shards and number not in self._queue
            ]
            while self._queue and self._threads < _FETCHERS:
                self._threads += 1
                threading.Thread(target=self._fetch_ahead, daemon=True, name="fetch").start()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_fetching", "_members", "_files", "_indexes", "_told", "_blocks")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        folder = self._fetching.folder or os.path.join(index.cache_folder(), "shards")
        folder = os.path.abspath(os.path.expanduser(folder))
        self._cache = ShardCache(folder, self._fetching.cache_bytes, self._fetching.tries)
        self._lock, self._again = threading.Lock(), threading.Lock()
        self._shards: dict[int, concurrent.futures.Future] = {}
        self._lanes: dict[int, tuple[tuple[int, ...], ...]] = {}  # the last two of each
        self._wanted: set[int] = set()
        self._queue: list[int] = []
        self._threads = 0
        self._replaced: set[int] = set()
        self._process = os.getpid()

    def _check_room(self, window: int) -> None:
        largest = max(file.size for file in self._files)
        needed = min(3 * window, len(self._files)) * largest
        if needed > self._fetching.cache_bytes:
            raise ValueError(
                f"fetching: window={window} with shards of up to {largest:,} bytes needs "
                f"cache_bytes={needed:,} (this window, the one before and the one ahead); "
                f"{self._fetching.cache_bytes:,} are allowed. Raise it, or lower the window."
            )

    def _count_others(self) -> None:
        """Fetches and counts the shards that nothing tells of, and keeps what was counted."""
        if all(file.url in self._told for file in self._files):
            return
        counts = shard_sizes.Counts(self._files)
        for url, number in counts.known.items():
            self._told.setdefault(url, (number, "an earlier count"))
        left = [n for n, file in enumerate(self._files) if file.url not in self._told]
        noted, log = -_NOTED_SECONDS, logging.getLogger("mmjax")
        with concurrent.futures.ThreadPoolExecutor(_FETCHERS) as pool:
            for done, (number, samples) in enumerate(zip(left, pool.map(self._measure, left))):
                url = self._files[number].url
                counts.known[url] = samples
                self._told[url] = (samples, "an earlier count")
                if time.monotonic() - noted >= _NOTED_SECONDS:
                    noted = time.monotonic()
                    counts.keep()
                    log.warning(
                        "no index or sizes.json tells the samples of %d shards at %s, so each is "
                        "fetched and counted: %d done.",
                        len(left),
                        posixpath.dirname(url),
                        done + 1,
                    )
        if left:
            counts.keep()

    def _measure(self, number: int) -> int:
        return len(self._open(number).source)

    def _notice(self, number: int, inside: int) -> None:
        """Reads that nobody foretold go on with the next shard, once this one is half read."""
        if number not in self._wanted:
            self.expect(_IN_ORDER, (number,))
        elif _IN_ORDER in self._lanes and 2 * inside >= self._blocks.sizes[number]:
            self.expect(_IN_ORDER, tuple(range(number, min(number + 2, len(self._files)))))

    def _fetch_ahead(self) -> None:
        """Has the shards at hand that are expected; what fails is said when one is needed."""
        while True:
            with self._lock:
                if not self._queue:
                    self._threads -= 1
                    return
                number = self._queue.pop(0)
            try:
                self._opened(number)
            except (OSError, ValueError):
                continue

    def _opened(self, number: int) -> _Opened:
        """The shard, opened by the first who asks while the others wait."""
        if self._process != os.getpid():
            self._forget()
        with self._lock:
            kept = self._shards.get(number)
            first = kept is None
            if first:
                kept = self._shards[number] = concurrent.futures.Future()
        if first:
            try:
                opened = self._open(number)
                self._check_count(number, opened)
                kept.set_result(opened)
            except BaseException as error:
                with self._lock:  # whoever asks next tries anew
                    if self._shards.get(number) is kept:
                        del self._shards[number]
                kept.set_exception(error)
        return kept.result()

    def _open(self, number: int) -> _Opened:
        file = self._files[number]
        beside = (self._indexes[file.url],) if file.url in self._indexes else ()
        held = self._cache.hold(file, beside)
        try:
            return _Opened(held, self._source(held.path))
        except (ValueError, FileNotFoundError):  # the copy may be at fault, or was discarded
            held.release()
        self._cache.discard(file)
        held = self._cache.hold(file, beside)
        try:
            return _Opened(held, self._source(held.path))
        except (ValueError, FileNotFoundError) as error:
            self._cache.discard(file)
            raise FetchError(self._speak(number, str(error))) from None

    def _source(self, path: str) -> base.Source:
        if _kind(path) == "tar":
            return webdataset.WebDataset((path,), self._members)
        return array_record.ArrayRecordSource((path,))

    def _check_count(self, number: int, opened: _Opened) -> None:
        samples, who = self._told[self._files[number].url]
        if len(opened.source) != samples:
            raise FetchError(
                f"{self._files[number].url} has {len(opened.source):,} samples, {who} says "
                f"{samples:,}. Correct or remove that, and start again."
            )

    def _read_again(
        self, number: int, inside: int, opened: _Opened, problem: base.BadSample
    ) -> base.Record:
        """A sample once more, from another copy of its shard: this disk may have damaged it."""
        with self._again:
            if number not in self._replaced:
                self._replaced.add(number)
                self._cache.discard(self._files[number])
                with self._lock:
                    self._shards.pop(number, None)
        another = self._opened(number)
        if another is opened:  # it was fetched anew before
            raise self._named(number, problem)
        try:
            return another.source[inside]
        except base.BadSample as still:
            raise self._named(number, still) from None

    def _named(self, number: int, problem: base.BadSample) -> base.BadSample:
        return base.BadSample(problem.cause, self._speak(number, problem.message))

    def _speak(self, number: int, message: str) -> str:
        """A message that names the shard's address and not its copy."""
        file = self._files[number]
        return message.replace(str(self._cache.path_of(file)), file.url)


def _kind(name: str) -> str:
    """'tar', 'array_record' or '' for what cannot be read."""
    if name.endswith(".tar"):
        return "tar"
    return "array_record" if ".array_record" in name or ".arrayrecord" in name else ""
