"""The manifest of a checkpoint: the CRC and size of every file, and the commit.

A step folder is a checkpoint if and only if it holds `manifest.json`. A save writes into a folder
of its own, `unfinished-<step>-<token>`, since what a failed save left running in the background may
go on writing there for a while. When all is written that folder gets the step's name, and last
comes the commit: the rename of `manifest.unfinished` to `manifest.json`. The first act of a
deletion is the rename back. So at every instant a folder says by itself whether it is a step, a
leftover to be removed, or a step that lost its manifest. This module knows files only: no arrays,
no processes.
"""

import concurrent.futures
import dataclasses
import json
import math
import os
import pathlib
import shutil
from collections.abc import Mapping

from isal.isal_zlib import crc32

MANIFEST = "manifest.json"
UNFINISHED = "manifest.unfinished"
WORKPLACE = "unfinished-"
DAMAGED = "damaged-"
_CHUNK_BYTES = 1 << 20
_READERS = 4  # checksums and read() release the interpreter's lock


class Damaged(Exception):
    """A checkpoint that is not what was written; the message names the file."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a committed step holds.

    Attributes:
      step: the training step, the folder's name.
      metrics: numbers measured at this very step; a non-finite one is None.
      files: {path inside the folder: (CRC32, bytes)}.
    """

    step: int
    metrics: Mapping[str, float | None]
    files: Mapping[str, tuple[int, int]]

    @property
    def total_bytes(self) -> int:
        """The size of all files together, in bytes."""
        return sum(size for _, size in self.files.values())


def write_atomic(path: pathlib.Path, data: bytes) -> None:
    """Writes a file that is there whole or not at all, and survives a loss of power.

    Args:
      path: the file; its folder must exist.
      data: all of its bytes.

    Raises:
      OSError: the disk refused; the old file is untouched and nothing new is left.
    """
    temporary = path.with_name(
        f".{path.name}.tmp"
    )  # one name, so that killed writes do not pile up
    try:
        write_synced(temporary, data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno:
            error.filename = str(path)  # a write that fails does not know of what
        raise
    sync_folder(path.parent)


def write_synced(path: pathlib.Path, data: bytes) -> None:
    """Writes a file in place and waits until the disk has it."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: pathlib.Path) -> None:
    """Waits until the disk has the names in a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def workplace(parent: pathlib.Path, step: int, token: str) -> pathlib.Path:
    """The folder in which one save is written; the token tells two saves of a step apart."""
    return parent / f"{WORKPLACE}{step}-{token}"


def begin(parent: pathlib.Path, step: int, token: str) -> pathlib.Path:
    """Makes the folder of a save that is under way, and room for its step.

    Returns:
      The folder, see `workplace`.

    Raises:
      OSError: the disk refused.
    """
    if is_leftover(parent / str(step)):
        remove(parent / str(step))
    folder = workplace(parent, step, token)
    folder.mkdir(parents=True)
    return folder


def commit(folder: pathlib.Path, step: int, metrics: Mapping[str, float] | None = None) -> Manifest:
    """Reads back every file, writes the manifest and so makes the folder a step.

    Args:
      folder: made by `begin`; every file in it is complete.
      step: the training step, the folder's name from now on.
      metrics: numbers measured at this step.

    Returns:
      The manifest as written.

    Raises:
      OSError: the disk refused; what is there is a leftover.
    """
    names = _names(folder)
    for below, _, _ in os.walk(folder):
        sync_folder(pathlib.Path(below))
    manifest = make(step, metrics or {}, _sums(folder, names, sync=True))
    write_synced(folder / UNFINISHED, encode(manifest))
    final = folder.with_name(str(step))
    os.rename(folder, final)
    os.replace(final / UNFINISHED, final / MANIFEST)  # the commit
    sync_folder(final)
    sync_folder(final.parent)
    return manifest


def make(
    step: int, metrics: Mapping[str, float | None], files: Mapping[str, tuple[int, int]]
) -> Manifest:
    """A manifest of files whose (CRC32, bytes) are known; metrics may be non-finite."""
    finite = {
        name: None if value is None or not math.isfinite(value) else float(value)
        for name, value in sorted(metrics.items())
    }
    return Manifest(step=step, metrics=finite, files=files)


def sums(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """{path: (CRC32, bytes)} of every file below a folder but the manifest, read to its end."""
    return _sums(folder, _names(folder))


def read(folder: pathlib.Path) -> Manifest:
    """The manifest of a step, itself checked, the other files not yet.

    Raises:
      Damaged: it is missing, changed, or another step's.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise Damaged(f"{path} is missing") from None
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error})") from None
    manifest = parse(data, path)
    if str(manifest.step) != folder.name:
        raise Damaged(f"{path} says that it is step {manifest.step}, not {folder.name}")
    return manifest


def parse(data: bytes, where: object) -> Manifest:
    """A manifest from its bytes.

    Raises:
      Damaged: they are not as they were written; the message names `where`.
    """
    try:
        body = json.loads(data)
        files = {name: (int(entry[0], 16), entry[1]) for name, entry in body["files"].items()}
        manifest = Manifest(step=body["step"], metrics=body["metrics"], files=files)
        intact = encode(manifest) == data  # covers the bytes that JSON would forgive
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise Damaged(f"{where} is not as it was written ({len(data):,} bytes)")
    return manifest


def verify(folder: pathlib.Path) -> Manifest:
    """Reads every byte of a step and compares it with the manifest.

    Orbax restores flipped bits silently and lists a truncated step as the newest; this does not.

    Returns:
      The manifest.

    Raises:
      Damaged: a file is missing, changed, cut or was not there; the message names it.
    """
    manifest = read(folder)
    try:
        names = _names(folder)
    except OSError as error:
        raise Damaged(f"{folder} cannot be listed ({error})") from None
    missing = sorted(manifest.files.keys() - set(names))
    if missing:
        raise Damaged(f"{folder / missing[0]} is missing{_more(missing)}")
    extra = sorted(set(names) - manifest.files.keys())
    if extra:
        raise Damaged(f"{folder / extra[0]} was not written by the save{_more(extra)}")
    try:
        sums = _sums(folder, names)
    except OSError as error:
        raise Damaged(f"{folder} cannot be read ({error})") from None
    changed = sorted(name for name in names if sums[name] != manifest.files[name])
    if changed:
        (_, found), (_, size) = sums[changed[0]], manifest.files[changed[0]]
        why = "its CRC differs" if found == size else f"{found:,} bytes, not {size:,}"
        raise Damaged(f"{folder / changed[0]} is not as it was written: {why}{_more(changed)}")
    return manifest


def steps(parent: pathlib.Path) -> list[int]:
    """The steps that are committed in a folder of checkpoints, ascending; not yet verified."""
    return [number for number in numbered(parent) if (parent / str(number) / MANIFEST).exists()]


def numbered(parent: pathlib.Path) -> list[int]:
    """The numbers that name folders, ascending, whatever these hold."""
    if not parent.is_dir():
        return []
    names = (entry.name for entry in os.scandir(parent) if entry.is_dir(follow_symlinks=False))
    return sorted(int(n) for n in names if n.isascii() and n.isdigit() and str(int(n)) == n)


def leftovers(parent: pathlib.Path) -> list[pathlib.Path]:
    """The folders that dead or failed saves and interrupted deletions left behind."""
    if not parent.is_dir():
        return []
    return sorted(entry for entry in parent.iterdir() if is_leftover(entry))


def is_leftover(folder: pathlib.Path) -> bool:
    """True for a folder that is no step and never was a whole one, or is half deleted."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    if folder.name.startswith(WORKPLACE):
        return True
    if not folder.name.isdigit() or (folder / MANIFEST).exists():
        return False
    return (folder / UNFINISHED).exists() or not any(folder.iterdir())


def remove(folder: pathlib.Path) -> None:
    """Deletes a step or a leftover; killed at any point, what remains is a leftover.

    Raises:
      OSError: the disk refused; what remains is a leftover.
    """
    if (folder / MANIFEST).exists():
        os.replace(folder / MANIFEST, folder / UNFINISHED)  # needs no space on a full disk
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != UNFINISHED:
            entry.unlink()
    (folder / UNFINISHED).unlink(missing_ok=True)
    folder.rmdir()


def set_aside(folder: pathlib.Path) -> pathlib.Path:
    """Renames a damaged step to `damaged-<step>-<number>`; nothing is deleted.

    Returns:
      The new folder.
    """
    number = 1
    while (target := folder.with_name(f"{DAMAGED}{folder.name}-{number}")).exists():
        number += 1
    os.rename(folder, target)
    return target


def _more(names: list[str]) -> str:
    return f", and {len(names) - 1} more files" if len(names) > 1 else ""


def _names(folder: pathlib.Path) -> list[str]:
    """Every file below the folder but the manifest itself, as POSIX paths."""
    found = []
    for root, _, names in os.walk(folder, onerror=_reraise):
        relative = pathlib.Path(root).relative_to(folder)
        found += [(relative / name).as_posix() for name in names]
    return sorted(set(found) - {MANIFEST, UNFINISHED})


def _reraise(error: OSError) -> None:
    raise error


def _sums(folder: pathlib.Path, names: list[str], sync: bool = False) -> dict[str, tuple[int, int]]:
    with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
        found = readers.map(lambda name: _sum(folder / name, sync), names)
        return dict(zip(names, found, strict=True))


def _sum(path: pathlib.Path, sync: bool) -> tuple[int, int]:
    crc, size = 0, 0
    with open(path, "rb") as file:
        if sync:
            os.fsync(file.fileno())  # Orbax leaves its own metadata to the kernel
        while chunk := file.read(_CHUNK_BYTES):
            crc, size = crc32(chunk, crc), size + len(chunk)
    return crc, size


def encode(manifest: Manifest) -> bytes:
    """A manifest's bytes, with a CRC of their own."""
    body = {
        "step": manifest.step,
        "metrics": dict(manifest.metrics),
        "files": {name: [f"{crc:08x}", size] for name, (crc, size) in manifest.files.items()},
    }
    seal = f"{crc32(json.dumps(body, sort_keys=True).encode()):08x}"
    text = json.dumps({**body, "crc32": seal}, sort_keys=True, indent=1, allow_nan=False)
    return (text + "\n").encode()
