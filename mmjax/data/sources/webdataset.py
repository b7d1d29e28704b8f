"""WebDataset shards: plain tars whose neighbouring members with one key are a sample.

Read at random and in place: a shard's index (`mmjax.data.sources.index`) says where each member
lies, so a sample costs one `pread`, and nothing is ever extracted, unpickled or run.
"""

import bisect
import collections
import concurrent.futures
import itertools
import os
import threading
import weakref
from typing import Any, NamedTuple

from isal.isal_zlib import crc32

from mmjax.data.sources import base, index, index_file, patterns

__all__ = ["WebDataset"]

_SMALL_GAP = 16 * 1024  # bytes that are cheaper to read along than to read around


class _Shard(NamedTuple):
    """What is kept of a shard when it is not open."""

    path: str
    index: str
    body: int
    samples: int
    content: int
    shard_bytes: int


class _Open:
    """An open shard: its file and its index. Closed when nobody reads it any more."""

    def __init__(self, shard: _Shard, members: tuple[str, ...]):
        self.index = index_file.open_index(shard.index, shard.body)
        self.wanted = [not members or kind in members for kind in self.index.kinds]
        self.file = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC)
        self.closing = weakref.finalize(self, os.close, self.file)
        self.closing.atexit = False  # decoding threads may still read then


class WebDataset(base.Source):
    """Samples of WebDataset `.tar` shards, read at random from local or mounted files.

    Each shard is indexed on first use (one pass; kept beside it or in the cache folder). A cut,
    empty or missing shard is an error here, before any step; a byte that changes later is found by
    the CRC of each read and makes a bad sample.

    Args:
      path: one pattern or several: globs and braces, such as 'cc3m-{000000..000331}.tar'.
      members: the extensions to read, '' for all; 'jpg;jpeg;png' is one that has several names.
        Other members are never touched.
      max_member_bytes: a longer member is a bad sample, unread.
      open_shards: how many shards a process keeps open; each takes two file descriptors.

    Raises:
      ValueError: a damaged, cut or empty shard, an address instead of a path, members that no
        shard holds.
      FileNotFoundError: a pattern or a number of a range without a file.
    """

    def __init__(
        self,
        path: str | tuple[str, ...],
        members: tuple[str, ...] = (),
        max_member_bytes: int = 1 << 28,
        open_shards: int = 256,
    ):
        files = patterns.expand(path, leave_out=(index.SUFFIX, ".tmp"))
        self._members = tuple(name.lower() for group in members for name in group.split(";"))
        self._max_member_bytes = max_member_bytes
        self._open_shards = open_shards
        with concurrent.futures.ThreadPoolExecutor(min(8, len(files))) as pool:
            looked = list(pool.map(_look, files))
        self._shards = [shard for shard, _ in looked]
        self._ends = list(itertools.accumulate(shard.samples for shard in self._shards))
        self._kinds = tuple(dict.fromkeys(itertools.chain(*(kinds for _, kinds in looked))))
        for group in members:
            if not set(group.lower().split(";")) & set(self._kinds):
                raise ValueError(
                    f"No shard of {path!r} holds a member {group!r}; they hold "
                    f"{', '.join(self._kinds[:20])}."
                )
        self._forget()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, position: int) -> base.Record:
        if not 0 <= position < self._ends[-1]:
            raise IndexError(f"Sample {position} of {self._ends[-1]:,} was asked for.")
        number = bisect.bisect_right(self._ends, position)
        shard = self._shards[number]
        try:
            opened = self._opened(number)
            inside = position - self._ends[number] + shard.samples
            key, rows = opened.index.sample(inside)
            kinds, wanted = opened.index.kinds, opened.wanted
            read = [row for row in rows if wanted[row[0]]]
            record: base.Record = {"__key__": key, "__shard__": shard.path}
            if len(read) < len(rows):  # so that an error can say what else was there
                record["__members__"] = tuple(kinds[row[0]] for row in rows)
            for (kind, _, _, crc), data in zip(read, self._read(opened, read, shard, key)):
                if crc32(data) != crc:
                    raise base.BadSample(
                        "checksum",
                        f"{shard.path}: {key}.{kinds[kind]} is not what was indexed; get the "
                        f"shard again, or remove {shard.index} if it was replaced on purpose.",
                    )
                record[kinds[kind]] = data
        except (OSError, index_file.StaleIndex) as error:
            self._drop(number)  # a stale handle of a network file is opened anew next time
            raise base.BadSample("read", f"{shard.path}: sample {position}: {error}") from error
        return record

    def key(self, position: int) -> str:
        """The name of a record, told by the index alone; no shard is read.

        Args:
          position: 0 ... len - 1.
        """
        number = bisect.bisect_right(self._ends, position)
        inside = position - self._ends[number] + self._shards[number].samples
        return self._opened(number).index.sample(inside)[0]

    def fingerprint(self) -> str:
        shards = [
            (os.path.basename(shard.path), shard.shard_bytes, shard.samples, shard.content)
            for shard in self._shards
        ]
        return base.digest(["WebDataset", shards, self._members])

    def describe(self) -> str:
        kinds = [kind for kind in self._kinds if not self._members or kind in self._members]
        shown = " ".join(kinds[:8]) + (" ..." if len(kinds) > 8 else "")
        shards = f"{len(self._shards):,} shard{'s' if len(self._shards) > 1 else ''}"
        return f"{shards}, {len(self):,} samples of {shown}"

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_lock", "_handles", "_process")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._handles: collections.OrderedDict[int, _Open] = collections.OrderedDict()
        self._process = os.getpid()

    def _opened(self, number: int) -> _Open:
        """The open shard; the one unused for longest makes room, and closes after its readers."""
        if self._process != os.getpid():  # forked: the lock may be held by a thread not here
            self._forget()
        with self._lock:
            opened = self._handles.get(number)
            if opened is not None:
                self._handles.move_to_end(number)
                return opened
        opened = _Open(self._shards[number], self._members)
        with self._lock:
            opened = self._handles.setdefault(number, opened)
            while len(self._handles) > self._open_shards:
                self._handles.popitem(last=False)
        return opened

    def _drop(self, number: int) -> None:
        with self._lock:
            self._handles.pop(number, None)

    def _read(
        self, opened: _Open, rows: list[tuple[int, int, int, int]], shard: _Shard, key: str
    ) -> list[bytes]:
        """The members' bytes, by one read where they lie close together."""
        sizes = 0
        for _, _, size, _ in rows:
            sizes += size
            if size > self._max_member_bytes:
                raise base.BadSample(
                    "too_large",
                    f"{shard.path}: {key} has a member of {size:,} bytes; "
                    f"{self._max_member_bytes:,} are allowed (max_member_bytes).",
                )
        begin = min((row[1] for row in rows), default=0)
        end = max((row[1] + row[2] for row in rows), default=0)
        if end - begin <= sizes + _SMALL_GAP:
            data = self._read_range(opened, begin, end - begin, shard, key)
            return [data[at - begin : at - begin + size] for _, at, size, _ in rows]
        return [self._read_range(opened, at, size, shard, key) for _, at, size, _ in rows]

    def _read_range(self, opened: _Open, at: int, size: int, shard: _Shard, key: str) -> bytes:
        data = os.pread(opened.file, size, at)
        while len(data) < size:  # a mounted file may give less than asked for
            more = os.pread(opened.file, size - len(data), at + len(data))
            if not more:
                raise base.BadSample(
                    "read", f"{shard.path}: {key} runs past the end; the shard was cut."
                )
            data += more
        return data


def _look(path: str) -> tuple[_Shard, list[str]]:
    """What is kept of a shard, and its extensions."""
    opened = index.load_index(path)
    size = opened.shard_bytes
    shard = _Shard(path, opened.path, opened.body, len(opened), opened.content, size)
    return shard, opened.kinds
