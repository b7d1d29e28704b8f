"""XLA's compilation cache on disk, in a folder that only fitting machines share."""

import contextlib
import errno
import hashlib
import os
import pathlib
import platform
import shutil
import time
from collections.abc import Iterator

import jax
import jaxlib
from jax.experimental.compilation_cache import compilation_cache

_ROOM = 1 << 24  # bytes that a disk has to have free, or programs would be cut short there
_WRITING_SECONDS = 60.0


def cache_root() -> pathlib.Path:
    """Where this package keeps what can be made again: $MMJAX_CACHE, or the user's cache folder."""
    given = os.environ.get("MMJAX_CACHE")
    if given:
        return pathlib.Path(given)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(home) / "mmjax"


def cpu_features() -> str:
    """A short hash of what the processor can do: code compiled for another one may crash here."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        flags = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {flags}".encode()).hexdigest()[:12]


def use_cache() -> str:
    """Turns the cache on for this process, after the backend is known.

    Returns:
      '' where it is on, or one line that says why the run goes on without it.
    """
    name = f"{jaxlib.__version__}-{jax.default_backend()}-{cpu_features()}"
    folder = cache_root() / "xla" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
        if shutil.disk_usage(folder).free < _ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _remove_cut(folder)
    except OSError as error:
        return f"no compilation cache in {folder} ({error.strerror}); each start compiles anew."
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return ""


def _remove_cut(folder: pathlib.Path) -> None:
    """Removes entries that a full disk or a process's end cut short: JAX never writes them again.

    Looks at those that have come since the last time, but for the last minute's, of which another
    process may still be writing one.
    """
    from jax._src.compilation_cache import decompress_executable  # there is no public word for it

    mark, until = folder / ".looked-at", time.time() - _WRITING_SECONDS
    since = mark.stat().st_mtime if mark.exists() else 0.0
    for entry in folder.glob("*-cache"):
        if since <= entry.stat().st_mtime < until:
            try:
                decompress_executable(entry.read_bytes())
            except Exception:  # of whichever library has packed it
                entry.unlink(missing_ok=True)
    mark.touch()
    os.utime(mark, (until, until))


@contextlib.contextmanager
def no_cache() -> Iterator[None]:
    """Compiles anew inside, whatever cache this process has.

    Programs for chips that are not here can be written to a cache, yet not be read back.
    """
    before = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # whether there is one is asked once
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
