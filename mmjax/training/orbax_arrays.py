"""Arrays of a state to and from a folder, through Orbax: the only module that imports it.

Orbax is used for what it does well: the copy to the host, parallel writes by many processes, reads
into other shardings. Its own commit (temporary folders, barriers in background threads) is not:
a process that fails there leaves the others waiting, and it verifies nothing. So the bare handler
writes into a folder whose commit is the manifest's.

Source: orbax-checkpoint 0.12.8, orbax/checkpoint/_src/handlers/pytree_checkpoint_handler.py.
"""

import asyncio
import functools
import logging
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from mmjax import paths
from mmjax.parallel.cpu import aligned
from mmjax.training import manifest
from mmjax.typing import PyTree

_SHOWN = 5  # names in an error
_SLICE_BYTES = 2**20  # least that a device writes of an array that others hold as well


def named(tree: PyTree) -> dict[str, Any]:
    """{path: array} of a state, checked to be what can be saved.

    Raises:
      TypeError: a leaf is no jax.Array.
      ValueError: two arrays have one name, or one belongs to a single process of several.
    """
    leaves = len(jax.tree.leaves(tree))
    flat = paths.flatten(tree)
    if len({name.replace("/", ".") for name in flat}) < leaves:
        raise ValueError("two arrays of the state have one path; keep '/' and '.' out of its keys.")
    for name, leaf in flat.items():
        if not isinstance(leaf, jax.Array):
            raise TypeError(
                f"the state holds a {type(leaf).__name__} at {name!r}; only jax.Arrays are saved."
            )
        if jax.process_count() > 1 and leaf.is_fully_addressable:
            raise ValueError(
                f"{name!r} lies on one process alone; make the state with jit(out_shardings=...)."
            )
    return flat


def write(folder: pathlib.Path, flat: dict[str, Any], on_copied: Callable[[], None]) -> None:
    """Writes this process's part of the arrays; returns when it is on the disk.

    Runs in a thread of its own, since Orbax's coroutine needs one without an event loop.

    Args:
      folder: made by one process, before any of them writes.
      flat: {path: array}; arrays without elements are left out (Orbax refuses them).
      on_copied: called once the arrays may be given away (donated).

    Raises:
      Exception: whatever the write raised.
    """
    from etils import epath

    orbax = _orbax()
    tree = paths.unflatten({name: leaf for name, leaf in flat.items() if leaf.size})
    args = orbax.args.PyTreeSave(tree)
    futures = asyncio.run(_handler().async_save(epath.Path(folder), args=args))
    on_copied()
    for future in futures or ():
        future.result()


def finalize(folder: pathlib.Path) -> None:
    """Joins the parts that the processes wrote; for one process, after all have written."""
    from etils import epath

    _handler().finalize(epath.Path(folder))


def read(folder: pathlib.Path, like: PyTree) -> PyTree:
    """The state as `like` describes it; the devices may be others than those that wrote it.

    Args:
      folder: what `write` and `finalize` made.
      like: a tree of jax.ShapeDtypeStruct with shardings.

    Raises:
      ValueError: names, shapes or element types differ; all in one line.
    """
    wanted = paths.flatten(like)
    loose = [name for name, leaf in wanted.items() if getattr(leaf, "sharding", None) is None]
    if loose:
        raise ValueError(f"restore needs a sharding for each array; {_list(loose)} has none.")
    full = {name: leaf for name, leaf in wanted.items() if leaf.size}
    _compare(folder, _described(folder), full)
    structs = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for name, leaf in full.items()
    }
    found = _restore(
        folder,
        structs,
        lambda leaf: _orbax().ArrayRestoreArgs(
            sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype
        ),
    )
    for name, leaf in wanted.items():
        if not leaf.size:
            found[name] = jax.make_array_from_callback(
                leaf.shape, leaf.sharding, _nothing(leaf.shape, leaf.dtype)
            )
    return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in wanted])


def read_numpy(folder: pathlib.Path, prefix: str) -> dict[str, np.ndarray]:
    """{path below the prefix: array} of one part of a state, whole, on the host."""
    start = prefix + "/"
    chosen = {name: leaf for name, leaf in _described(folder).items() if name.startswith(start)}
    if not chosen:
        return {}
    found = _restore(folder, chosen, lambda _: _orbax().RestoreArgs(restore_type=np.ndarray))
    return {name.removeprefix(start): np.asarray(found[name]) for name in chosen}


def shapes(folder: pathlib.Path) -> dict[str, tuple[int, ...]]:
    """{path: shape} of all that a folder holds; nothing of the arrays is read."""
    return {name: tuple(leaf.shape) for name, leaf in _described(folder).items()}


def stream(
    folder: pathlib.Path, wanted: Mapping[str, tuple[tuple[int, ...], Any]]
) -> Iterator[tuple[str, np.ndarray]]:
    """(path, array) of parts of a state, one after the other.

    Nothing but the array itself and what is read of its file is in memory for it; Orbax's own
    restore keeps about three times an array, and looks at the whole folder again for each.

    Args:
      folder: what `write` and `finalize` made, on a disk of this machine.
      wanted: {path: (shape, element type in which it is wanted)}; it is there, as of `shapes`.

    Raises:
      ValueError: an array cannot be read.
    """
    import tensorstore as ts

    # Mapped, since the files were verified a moment ago: a copy of each less, a third of the time.
    context = ts.Context({"file_io_mode": {"mode": "memmap"}})
    base = {"driver": "ocdbt", "base": f"{folder.absolute().as_uri()}/"}
    for name, (shape, kind) in wanted.items():
        kvstore = {**base, "path": name.replace("/", ".") + "/"}
        named = {"driver": "zarr", "kvstore": kvstore}
        stored = ts.open(named, open=True, read=True, context=context).result()
        made = aligned(shape, kind)
        dtype = ts.dtype(made.dtype)
        source = stored if stored.dtype == dtype else ts.cast(stored, dtype)
        ts.array(made, copy=False, write=True).write(source).result()
        yield name, made


def _restore(
    folder: pathlib.Path, chosen: dict[str, Any], arguments: Callable[[Any], Any]
) -> dict[str, Any]:
    from etils import epath

    args = _orbax().args.PyTreeRestore(
        item=paths.unflatten(chosen),
        restore_args=paths.unflatten({name: arguments(leaf) for name, leaf in chosen.items()}),
        partial_restore=True,
    )
    return paths.flatten(_handler().restore(epath.Path(folder), args=args))


def _described(folder: pathlib.Path) -> dict[str, Any]:
    """{path: something with shape and dtype} of what a folder holds."""
    from etils import epath

    return paths.flatten(_handler().metadata(epath.Path(folder)).tree)


def _compare(folder: pathlib.Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    missing = [name for name in wanted if name not in saved]
    extra = [name for name in saved if name not in wanted]
    differ = [
        f"{name} {_form(saved[name])} not {_form(leaf)}"
        for name, leaf in wanted.items()
        if name in saved and _form(saved[name]) != _form(leaf)
    ]
    complaints = [
        f"{what}: {_list(names)}"
        for what, names in (
            ("it lacks", missing),
            ("it holds besides", extra),
            ("it holds in another form", differ),
        )
        if names
    ]
    if complaints:
        raise ValueError(
            f"the checkpoint {folder.parent} is of another model or optimizer; "
            f"{'; '.join(complaints)}. Use the config beside it, or init_from for a warm start."
        )


def _form(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _list(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _nothing(shape: tuple[int, ...], dtype: Any) -> Callable[[Any], np.ndarray]:
    return lambda index: np.zeros(shape, dtype)[index]


def _handler() -> Any:
    """A handler of our own for each use: none of them shares a cache of what a folder held.

    An array that lies whole on several devices is written by all of them, each a slice, and each
    slice is a program to compile: small arrays are written by one.
    """
    orbax = _orbax()
    kinds = orbax.type_handlers
    arrays = kinds.ArrayHandler(min_slice_bytes_for_replica_parallel=_SLICE_BYTES)
    registry = kinds.create_type_handler_registry(
        (jax.Array, arrays), (np.ndarray, kinds.NumpyHandler())
    )
    return orbax.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=registry)


def _orbax() -> Any:
    import orbax.checkpoint

    _hush()
    return orbax.checkpoint


@functools.cache
def _hush() -> None:
    """Keeps a failed save to one line: Orbax and TensorStore print tracebacks of their own."""
    ours = ("orbax", manifest.WORKPLACE)
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)

    def foreign(record: logging.LogRecord) -> bool:
        # An OSError's repr names no file, so where it was raised is looked at as well.
        text = record.getMessage()
        if record.exc_info:
            text += "".join(traceback.format_exception(*record.exc_info))
        return not any(word in text for word in ours)

    logging.getLogger("asyncio").addFilter(foreign)
    show = sys.unraisablehook

    def hook(raised: Any) -> None:
        # TensorStore, on a thread of its own, to an event loop that ended with the failed save.
        if str(raised.exc_value) != "Event loop is closed":
            show(raised)

    sys.unraisablehook = hook
