"""How activations lie on the mesh, and a layer's parameters while it uses them.

Models say what a dimension is by a word; the run maps words to mesh axes. How the state lies
between steps is decided by rules, see `mmjax.parallel.layout`.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax import paths
from mmjax.typing import PyTree

# Words that models use for the dimensions of activations, and the mesh axes they mean.
ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "heads": ("tensor",),
    "mlp": ("tensor",),
}


class _Current(NamedTuple):
    mesh: Mesh
    words: Mapping[str, tuple[str, ...]]
    params: Mapping[str, PartitionSpec]


_mesh: contextvars.ContextVar[_Current | None] = contextvars.ContextVar("mesh", default=None)


@contextlib.contextmanager
def activations(
    mesh: Mesh,
    words: Mapping[str, tuple[str, ...]] = ACTIVATIONS,
    params: Mapping[str, PartitionSpec] | None = None,
) -> Iterator[None]:
    """Within it, `constrain` means this mesh; wrap the tracing of a step in it.

    Args:
      mesh: of the run.
      words: the mesh axes that each word of `constrain` means.
      params: {path of a parameter: how it is stored}, for `used_and_stored`.
    """
    token = _mesh.set(_Current(mesh, words, params or {}))
    try:
        yield
    finally:
        _mesh.reset(token)


def constrain(x: Any, *words: str | None) -> Any:
    """`x` laid out by one word a dimension; a no-op where no mesh is set.

    On a GPU the last dimension also lies closest together in memory. Left to itself the compiler
    lets one product or sum that prefers another order turn round all that comes before and after.

    Args:
      x: an array.
      words: for each dimension a word such as 'batch', or None for whole. Words that the run
        gives no axis mean whole.

    Raises:
      ValueError: another number of words than dimensions, or an axis that does not divide its
        dimension. Such a layer would be computed whole on each device and nobody would notice, so
        it is refused. The batch is let through: its size is checked at the start of the run, and
        parameters are made with a single row.
    """
    current = _mesh.get()
    if current is None:
        return x
    if len(words) != x.ndim:
        raise ValueError(f"{len(words)} words {words} for an array of {x.ndim} dimensions.")
    axes = [current.words.get(word) if word else None for word in words]
    for word, names, size in zip(words, axes, x.shape):
        if names and word != "batch":
            _check_ways(current.mesh, word, names, size)
    sharding = NamedSharding(current.mesh, PartitionSpec(*axes))
    x = jax.lax.with_sharding_constraint(x, sharding)
    return _in_rows(x, sharding) if platform() == "gpu" else x


def _in_rows(x: Any, sharding: NamedSharding) -> Any:
    """x with its last dimension closest together in memory; forwards and backwards."""

    def local(x: Any) -> Any:
        return with_layout_constraint(x, Layout(tuple(range(x.ndim))))

    mesh, spec = sharding.mesh, sharding.spec
    if mesh.size == 1:
        return local(x)
    if spec[0] and x.shape[0] % math.prod(mesh.shape[axis] for axis in spec[0]):
        return x  # the single row that parameters are made with
    # Each device says it of its own part: to say it of the whole, the array would be gathered.
    return jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec)(x)


def _check_ways(mesh: Mesh, word: str, names: tuple[str, ...], size: int) -> None:
    ways = math.prod(mesh.shape[name] for name in names)
    if size % ways:
        fitting = ", ".join(str(n) for n in range(1, 1 + min(size, 64)) if size % n == 0)
        raise ValueError(
            f"mesh: {' x '.join(names)} = {ways} does not divide the model's {size} {word!r}. "
            f"These sizes do: {fitting}."
        )


def stored(path: str, ndim: int) -> NamedSharding | None:
    """How a layer's parameter is stored between its uses.

    Args:
      path: of the parameter within the model, such as 'image/blocks/mlp/up/kernel'.
      ndim: dimensions of it that a layer sees: the last ones, without that of a stack.

    Returns:
      None where it is whole on each device.
    """
    current = _mesh.get()
    spec = current.params.get(path) if current is not None else None
    if spec is None or len(spec) < ndim:  # a spec without axes says that the array is whole
        return None
    return NamedSharding(current.mesh, PartitionSpec(*spec[-ndim:]))


def specs_of(params: PyTree) -> dict[str, PartitionSpec]:
    """{path: how it is stored} of parameters that lie on a mesh, for `activations`."""
    return {
        path: leaf.sharding.spec
        for path, leaf in paths.flatten(params).items()
        if isinstance(leaf.sharding, NamedSharding)
    }


def used_and_stored(path: str, ndim: int) -> tuple[NamedSharding, NamedSharding] | None:
    """How a layer's parameter lies while it is used, and how it is stored; see `stored`.

    Stored arrays are cut along `fsdp` too. For its use an array is gathered along that axis, and
    its gradient is given back cut. None where nothing is to be gathered.
    """
    kept = stored(path, ndim)
    if kept is None:
        return None
    used = PartitionSpec(*(_without_fsdp(axes) for axes in kept.spec))
    return None if used == kept.spec else (NamedSharding(kept.mesh, used), kept)


def _without_fsdp(axes: Any) -> Any:
    names = axes if isinstance(axes, tuple) else (axes,)
    left = tuple(name for name in names if name not in (None, "fsdp"))
    return (left if isinstance(axes, tuple) else left[0]) if left else None


def platform() -> str:
    """'cpu', 'gpu' or 'tpu': of the mesh being traced for, or of the default backend without one.

    The two differ where a step is compiled for devices that are not here.
    """
    current = _mesh.get()
    return jax.default_backend() if current is None else current.mesh.devices.flat[0].platform


def current_mesh() -> Mesh | None:
    """The mesh being traced for, or None where none is set."""
    current = _mesh.get()
    return None if current is None else current.mesh


def batch_shards() -> int:
    """Over how many devices rows are cut, of the mesh being traced for; 1 without one."""
    current = _mesh.get()
    if current is None:
        return 1
    return math.prod(current.mesh.shape[axis] for axis in current.words["batch"])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over the batch axes, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on each device."""
    return NamedSharding(mesh, PartitionSpec())


def on_each_device(function: Callable[..., Any], words: tuple[str | None, ...]) -> Any:
    """`function` run by each device on its own part; for kernels that XLA cannot divide.

    Args:
      function: takes arrays and returns one; all lie as `words` say.
      words: as in `constrain`; the function must work on a part of those dimensions as on the
        whole.

    Returns:
      The function of whole arrays; without a mesh, `function` itself.
    """
    current = _mesh.get()
    if current is None:
        return function
    spec = PartitionSpec(*(current.words.get(word) if word else None for word in words))
    return jax.shard_map(
        function, mesh=current.mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
