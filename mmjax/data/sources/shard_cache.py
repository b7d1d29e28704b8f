"""A bounded folder of whole shards, fetched from addresses: shared by the processes of a host.

A shard is written under a temporary name and renamed when its size, its checksum where the store
tells one, and the store's word that it is still the same have been seen. So what has a shard's name
is whole, whatever was killed meanwhile, and a shard that was replaced in the store has another name
here. Locks are the kernel's (`flock`): they end with the process that holds them.
"""

import base64
import contextlib
import fcntl
import hashlib
import logging
import os
import pathlib
import time
import uuid
import weakref
from collections.abc import Iterator

from mmjax.data.sources import addresses
from mmjax.data.sources.addresses import FarFile
from mmjax.data.sources.fetching import FetchError
from mmjax.data.sources.index import SUFFIX

__all__ = ["Held", "NoRoom", "ShardCache"]

_CHUNK = 1 << 24
_ROOM_TRIES, _ROOM_WAIT = 60, 0.5  # seconds; for room that other readers are about to leave
_FIRST_WAIT = 1.0  # seconds before the second try, doubled for each further one


class NoRoom(FetchError):
    """The cache folder cannot take a shard: its limit, or the disk."""


class Held:
    """A shard in the cache that stays there while this object lives.

    Attributes:
      path: the file; what is written beside it as 'path.*' goes with it.
      release: lets others remove it at once; twice does no harm.
    """

    def __init__(self, path: str, lock: int):
        self.path = path
        self.release = weakref.finalize(self, os.close, lock)


class ShardCache:
    """Fetches shards into a folder and keeps those used last.

    Args:
      folder: made where it is missing; nothing else may be in it.
      limit: bytes that all shards there may have together.
      tries: how often a fetch is begun before it is given up.

    Raises:
      FetchError: the folder cannot be made or written.
    """

    def __init__(self, folder: str, limit: int, tries: int):
        self._folder = pathlib.Path(folder)
        self._limit = limit
        self._tries = tries
        self.retries = 0  # fetches begun again, in this process
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._folder / f".{uuid.uuid4().hex}.probe").touch()
            for probe in self._folder.glob(".*.probe"):
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise FetchError(
                f"{folder}: shards cannot be kept there ({error.strerror}). Set fetching.folder or "
                "MMJAX_CACHE to a folder that can be written."
            ) from None

    def hold(self, file: FarFile, beside: tuple[FarFile, ...] = ()) -> Held:
        """The shard in the cache, fetched where it is not there.

        Args:
          file: as `addresses.find` found it.
          beside: small files to be laid beside a newly fetched one, by the same ending.

        Raises:
          NoRoom: the limit or the disk is too small.
          FetchError: it cannot be had; after `tries` of them where trying again makes sense.
        """
        path = self.path_of(file)
        held = Held(str(path), _lock(_lock_name(path), fcntl.LOCK_SH))
        if not _is_there(path, file.size):
            # A lock of its own: who still reads a discarded copy must not keep the new one out.
            fetching = _lock(_lock_name(path, "fetch"), fcntl.LOCK_EX)
            try:
                if not _is_there(path, file.size):
                    self._fetch(file, path, beside)
            finally:
                os.close(fetching)
        with contextlib.suppress(OSError):
            # The time of use alone: another process that makes the index just now would take a
            # shard with a new time for one that is being written.
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        return held

    def discard(self, file: FarFile) -> None:
        """Removes a copy that turned out to be damaged; who has it open keeps it open."""
        _remove(self.path_of(file))

    def path_of(self, file: FarFile) -> pathlib.Path:
        """Where the copy of a file lies, or would."""
        key = hashlib.sha256(f"{file.url}\n{file.size}\n{file.version}".encode()).hexdigest()[:20]
        return self._folder / f"{key}-{file.name}"

    def _fetch(self, file: FarFile, path: pathlib.Path, beside: tuple[FarFile, ...]) -> None:
        _remove(path)  # what a killed process has left; nobody else writes it
        wait = _FIRST_WAIT
        for attempt in range(1, self._tries + 1):
            temporary = path.with_name(f".{path.name[:20]}.{uuid.uuid4().hex[:8]}.tmp")
            try:
                self._take_room(file, temporary)
                _download(file, temporary)
                for small in beside:
                    ending = small.url.removeprefix(file.url)
                    _lay_beside(small, path.with_name(path.name + ending))
                os.replace(temporary, path)
                return
            except _Again as error:
                if attempt == self._tries:
                    raise FetchError(
                        f"{file.url} could not be fetched, {attempt} times tried: {error}. See to "
                        "the network and the store; the same command goes on."
                    ) from error.__cause__
                self.retries += 1
                if attempt == 1:
                    logging.getLogger("mmjax").warning(
                        "fetching %s failed (%s); it is tried %d times in all (%d fetches tried "
                        "again so far).",
                        file.url,
                        error,
                        self._tries,
                        self.retries,
                    )
                time.sleep(wait)
                wait *= 2
            finally:
                temporary.unlink(missing_ok=True)

    def _take_room(self, file: FarFile, temporary: pathlib.Path) -> None:
        """Waits a while for others to let go, as a window that has been read does."""
        for _ in range(_ROOM_TRIES):
            used = self._make_room(file, temporary)
            if not used:
                return
            time.sleep(_ROOM_WAIT)
        raise NoRoom(
            f"{file.url} has {file.size:,} bytes and {used:,} are in use in {self._folder} by this "
            f"and other processes; cache_bytes={self._limit:,} allows no more. Raise "
            "fetching.cache_bytes, or lower fetching.window."
        )

    def _make_room(self, file: FarFile, temporary: pathlib.Path) -> int:
        """Removes what was unused for longest, and takes the place at once; or says what is used.

        Indexes do not count: they come and go with their shards.
        """
        lock = _lock(self._folder / "room.lock", fcntl.LOCK_EX)
        try:
            used, old = 0, []
            for entry in os.scandir(self._folder):
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat()
                    partial = entry.name.endswith(".tmp")  # perhaps of a process that was killed
                    if partial or _is_shard(entry.name):
                        used += found.st_size
                        age = 0.0 if partial else found.st_atime
                        old.append((age, pathlib.Path(entry.path)))
            for _, path in sorted(old):
                if used + file.size <= self._limit:
                    break
                used -= self._evict(path)
            if used + file.size > self._limit:
                return max(used, 1)
            _reserve(temporary, file)
            return 0
        finally:
            os.close(lock)

    def _evict(self, path: pathlib.Path) -> int:
        """Removes a shard that no process holds, or fetches; the bytes won."""
        try:
            lock = _lock(_lock_name(path), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        try:
            won = _remove(path)
            for kind in ("fetch", "lock"):
                _lock_name(path, kind).unlink(missing_ok=True)
            return won
        finally:
            os.close(lock)


class _Again(Exception):
    """A fetch that failed in a way that may pass."""


def _download(file: FarFile, temporary: pathlib.Path) -> None:
    """Writes the whole file and makes sure of it.

    Raises:
      _Again: network or store; also where less came than the store had said.
      FetchError: it is gone, forbidden or replaced.
      NoRoom: the disk is full.
    """
    fs, path = addresses.open_store(file.url)
    sums, size = hashlib.md5(usedforsecurity=False), 0
    with open(temporary, "r+b", buffering=0) as out:
        for chunk in _chunks(fs, path, file.url):
            size += len(chunk)
            sums.update(chunk)
            try:
                out.write(chunk)
            except OSError as error:
                raise _no_room(temporary, file, error) from None
        out.truncate(size)
        os.fsync(out.fileno())
    if size != file.size:
        raise _Again(f"{size:,} bytes came instead of {file.size:,}")
    try:
        now = addresses.look(file.url)
    except OSError as error:
        raise _Again(str(error)) from error
    if not file.is_still(now):
        raise FetchError(
            f"{file.url} was replaced since this run began ({file.size:,} bytes, {file.version} "
            f"then; {now.size:,}, {now.version} now). Start the run again on the new data."
        )
    if now.md5 and base64.b64encode(sums.digest()).decode() != now.md5:
        raise _Again("the bytes that came do not have the store's MD5")


def _lay_beside(small: FarFile, path: pathlib.Path) -> None:
    """Fetches a file that helps; what is wrong with it is for its reader to find."""
    try:
        data = addresses.read_small(small.url, small.size)
    except FetchError as error:
        raise _Again(str(error)) from error
    try:
        path.write_bytes(data or b"")
    except OSError as error:
        raise _no_room(path, small, error) from None


def _chunks(fs: object, path: str, url: str) -> Iterator[bytes]:
    try:
        with fs.open(path, "rb", block_size=_CHUNK) as source:
            while chunk := source.read(_CHUNK):
                yield chunk
    except (FileNotFoundError, PermissionError) as error:
        kind = "not there" if isinstance(error, FileNotFoundError) else "not allowed"
        raise FetchError(f"{url} is {kind}: {error}") from error
    except Exception as error:  # each store has its own kinds
        raise _Again(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def _reserve(temporary: pathlib.Path, file: FarFile) -> None:
    try:
        with open(temporary, "xb") as out:
            if file.size:
                os.posix_fallocate(out.fileno(), 0, file.size)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _no_room(temporary, file, error) from None


def _no_room(temporary: pathlib.Path, file: FarFile, error: OSError) -> FetchError:
    return NoRoom(
        f"{file.url} ({file.size:,} bytes) cannot be kept in {temporary.parent}: {error.strerror}. "
        "Make room there, lower fetching.cache_bytes, or set fetching.folder to another disk."
    )


def _is_there(path: pathlib.Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _is_shard(name: str) -> bool:
    return name[20:21] == "-" and not name.endswith(SUFFIX)


def _lock_name(path: pathlib.Path, kind: str = "lock") -> pathlib.Path:
    return path.with_name(f"{path.name.removeprefix('.')[:20]}.{kind}")


def _lock(name: pathlib.Path, kind: int) -> int:
    """A lock as an open file; waits for it unless told not to."""
    while True:
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, kind)
            with contextlib.suppress(FileNotFoundError):
                if os.stat(name).st_ino == os.fstat(file).st_ino:
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # removed while we waited for it: that lock keeps nobody out


def _remove(path: pathlib.Path) -> int:
    """Removes a shard and what lies beside it; the bytes won."""
    won = 0
    key = path.name.removeprefix(".")[:20]
    for name in (*path.parent.glob(f"{key}-*"), *path.parent.glob(f".{key}.*.tmp")):
        with contextlib.suppress(FileNotFoundError):
            won += 0 if name.name.endswith(SUFFIX) else name.stat().st_size
            name.unlink()
    return won
