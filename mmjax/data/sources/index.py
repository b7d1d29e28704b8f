"""A tar's index: which members make up each sample, where they lie, and the CRC of each.

It is made in one pass over the shard and kept beside it as 'X.tar.mmjax-index', or in the cache
folder where that cannot be written.
"""

import hashlib
import os
import stat
import tempfile
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
from isal.isal_zlib import crc32
from jaxtyping import Bool, Int, Integer

from mmjax.data.sources import tar
from mmjax.data.sources.index_file import StaleIndex, TarIndex, open_index, write_index

__all__ = ["SUFFIX", "cache_folder", "load_index"]

SUFFIX = ".mmjax-index"
_MOST_KINDS = 4096
_MOST_BYTES = tar.BLOCK << 32  # blocks are counted in 32 bits: 2 TiB
_PROBES = 16


def load_index(shard: str) -> TarIndex:
    """The index of a shard: opened where it lies, or made and kept.

    An index serves as long as the shard has its size and time. With another time (a copy) it still
    does when the tar headers it probes are the same: so damage done in copying is found by the CRCs
    taken before it. Otherwise it is made anew. Several processes may do so at once.

    Args:
      shard: path of a tar.

    Raises:
      ValueError: the shard is no sound tar, or holds no samples.
      OSError: the shard cannot be read, or the index cannot be kept anywhere.
    """
    if not stat.S_ISREG(os.stat(shard).st_mode):
        raise ValueError(f"{shard} is not a file; a shard is an uncompressed tar.")
    for place in _places(shard):
        try:
            index = open_index(place)
            _check_shard(index, shard)
        except (FileNotFoundError, PermissionError, NotADirectoryError, StaleIndex):
            continue
        return index
    header, columns = _make(shard)
    failures = []
    for place in _places(shard):
        try:
            _prepare_folder(place)
            write_index(place, header, columns)
        except OSError as error:
            failures.append(f"{place} ({error.strerror})")
            continue
        return open_index(place)
    raise OSError(
        f"The index of {shard} can be kept neither at {' nor at '.join(failures)}. Set MMJAX_CACHE "
        "to a folder that can be written."
    )


def cache_folder() -> str:
    """Where things are kept that can be made again; it is made when it is not there.

    $MMJAX_CACHE (then no other), $XDG_CACHE_HOME/mmjax, ~/.cache/mmjax, or a private folder among
    the temporary files: the first that can be written.

    Raises:
      OSError: none can be written.
    """
    candidates = _cache_candidates()
    for folder in candidates:
        try:
            _prepare_folder(os.path.join(folder, "any"))
        except OSError:
            continue
        return folder
    raise OSError(
        f"No cache folder can be written, of {', '.join(candidates)}. Set MMJAX_CACHE to one that "
        "can."
    )


def _cache_candidates() -> list[str]:
    chosen = os.environ.get("MMJAX_CACHE")
    if chosen:
        return [os.path.abspath(chosen)]
    roots = [os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")]
    folders = [os.path.join(root, "mmjax") for root in roots if os.path.isabs(root)]
    private = os.path.join(tempfile.gettempdir(), f"mmjax-{os.getuid()}")
    # Among the temporary files anybody may have made the folder first.
    if not os.path.lexists(private) or os.lstat(private).st_uid == os.getuid():
        folders.append(private)
    return folders


def _places(shard: str) -> Iterator[str]:
    """Where a shard's index may lie: beside it, else in the cache."""
    yield shard + SUFFIX
    real = os.path.realpath(shard)
    name = hashlib.sha256(os.fsencode(real)).hexdigest()[:16]
    for folder in _cache_candidates():
        yield os.path.join(folder, "index", f"{name}-{os.path.basename(real)}{SUFFIX}")


def _prepare_folder(path: str) -> None:
    """Makes the folder of a file; one marked read-only stays untouched, even for root."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if not os.stat(folder).st_mode & 0o222 or not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(0, "read-only", folder)


def _check_shard(index: TarIndex, shard: str) -> None:
    """Refuses an index of another shard than this one."""
    found = os.stat(shard)
    if found.st_size != index.shard_bytes:
        raise StaleIndex(f"{index.path} is of a shard of {index.shard_bytes:,} bytes.")
    if found.st_mtime_ns == index.shard_mtime_ns:
        return
    if _probe(shard, index.columns["block"]) != index.probe:
        raise StaleIndex(f"{index.path} is of another shard of the same size.")


def _probe(shard: str, blocks: Integer[np.ndarray, " members"]) -> int:
    """CRC32 over a few tar headers spread over the shard (name, size, time of those members)."""
    crc = 0
    with open(shard, "rb", buffering=0) as file:
        for number in np.linspace(0, len(blocks) - 1, _PROBES).astype(int).tolist():
            header = os.pread(file.fileno(), tar.BLOCK, tar.BLOCK * (int(blocks[number]) - 1))
            crc = crc32(header, crc)
    return crc


def _make(shard: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """One pass over the shard: the header and columns of its index."""
    before = os.stat(shard)
    if before.st_size > _MOST_BYTES:
        raise ValueError(f"{shard}: {before.st_size:,} bytes; a shard may have {_MOST_BYTES:,}.")
    kinds: dict[str, int] = {}
    # Plain arrays, not lists: a million members stay under 100 MB.
    keys, key_at, key_size, key_hash = bytearray(), array("Q"), array("H"), array("Q")
    run, block, size, crc, kind = array("I"), array("I"), array("Q"), array("I"), array("H")
    last = None
    for name, offset, length, checksum in tar.scan(shard):
        key, extension = _split(name)
        if not key:
            continue
        if key != last:  # neighbours of one key are a run and share its name
            last = key
            key_at.append(len(keys))
            key_size.append(len(key))
            keys += key
            # 64 bits: two of a million keys agree by chance in one of 10⁷ shards.
            key_hash.append(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big"))
        if extension not in kinds and len(kinds) == _MOST_KINDS:
            raise ValueError(
                f"{shard}: more than {_MOST_KINDS:,} different extensions, such as {extension!r}. "
                "A sample's key ends at the first dot of its members' names: rename them."
            )
        run.append(len(key_at) - 1)
        kind.append(kinds.setdefault(extension, len(kinds)))
        block.append(offset // tar.BLOCK)
        size.append(length)
        crc.append(checksum)
    if not run:
        raise ValueError(f"{shard}: it holds no samples. Make the shard again or leave it out.")
    after = os.stat(shard)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ValueError(f"{shard}: it changed while it was read. Wait until it is written.")
    runs = np.frombuffer(run, np.uint32)
    order, first = _group(np.frombuffer(key_hash, np.uint64)[runs], np.frombuffer(kind, np.uint16))
    leaders = runs[order[first[:-1]]]
    columns = {
        "first": first,
        "key_at": np.frombuffer(key_at, np.uint64)[leaders],
        "key_size": np.frombuffer(key_size, np.uint16)[leaders],
        "block": np.frombuffer(block, np.uint32)[order],
        "size": np.frombuffer(size, np.uint64)[order],
        "crc": np.frombuffer(crc, np.uint32)[order],
        "kind": np.frombuffer(kind, np.uint16)[order],
        "keys": np.frombuffer(keys, np.uint8),
    }
    sizes = columns["size"].astype("<u8").data
    header = {
        "shard_bytes": after.st_size,
        "shard_mtime_ns": after.st_mtime_ns,
        "probe": _probe(shard, columns["block"]),
        "samples": len(first) - 1,
        "members": len(order),
        "key_bytes": len(keys),
        "kinds": list(kinds),
        "content": crc32(columns["crc"].astype("<u4").data, crc32(sizes)),
    }
    return header, columns


def _split(name: bytes) -> tuple[bytes, str]:
    """(key, extension) of a member; hidden files and names without an extension have none.

    Source: webdataset, webdataset/tariterators.py `base_plus_ext`: the key ends at the first dot
    of the name without its folders.
    """
    while name.startswith(b"./"):
        name = name[2:]
    begin = name.rfind(b"/") + 1
    dot = name.find(b".", begin)
    if dot <= begin or dot + 1 == len(name):
        return b"", ""
    return name[:dot], name[dot + 1 :].decode("utf-8", "backslashreplace").lower()


def _group(
    keys: Integer[np.ndarray, " members"], kinds: Integer[np.ndarray, " members"]
) -> tuple[Int[np.ndarray, " members"], Int[np.ndarray, " starts"]]:
    """Members of one key side by side, samples in the order of their first members.

    The n-th member of a kind belongs to the n-th sample of its key: where two sets with the same
    keys were joined in one tar, neither hides the other.

    Args:
      keys: a hash of each member's key.
      kinds: each member's extension number.

    Returns:
      The members' new order, and where in it each sample begins, with the end behind the last.
    """
    number = np.arange(len(keys))
    by_kind = np.lexsort((number, kinds, keys))
    new = _changes(keys[by_kind]) | _changes(kinds[by_kind])
    copy = np.empty(len(keys), np.int64)
    copy[by_kind] = number - np.maximum.accumulate(np.where(new, number, 0))
    by_sample = np.lexsort((number, copy, keys))
    new = _changes(keys[by_sample]) | _changes(copy[by_sample])
    leader = np.empty(len(keys), np.int64)
    leader[by_sample] = by_sample[new][np.cumsum(new) - 1]
    order = np.lexsort((number, leader))
    return order, np.append(np.flatnonzero(_changes(leader[order])), len(keys))


def _changes(values: Integer[np.ndarray, " members"]) -> Bool[np.ndarray, " members"]:
    """True where a value differs from the one before it, and at the first."""
    return np.concatenate([[True], values[1:] != values[:-1]])
