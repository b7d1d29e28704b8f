"""How arrays lie on the mesh: path rules for the state, axis words for activations.

Rules are ordered (path pattern, spec) over the whole state. A spec is a tuple of mesh axes (or
None) for the array's trailing dimensions, so a rule is the same for one layer and for a stack.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.paths import Rules, map_with_path, match

WHOLE: Rules = ((".*", ()),)  # each array whole on each device

# Words that models use for the dimensions of activations, and the mesh axes they mean.
ACTIVATIONS: Mapping[str, tuple[str, ...]] = {"batch": ("data", "fsdp")}

_mesh: contextvars.ContextVar[tuple[Mesh, Mapping[str, tuple[str, ...]]] | None] = (
    contextvars.ContextVar("mesh", default=None)
)


@contextlib.contextmanager
def activations(mesh: Mesh, words: Mapping[str, tuple[str, ...]] = ACTIVATIONS) -> Iterator[None]:
    """Within it, `constrain` means this mesh; wrap the tracing of a step in it."""
    token = _mesh.set((mesh, words))
    try:
        yield
    finally:
        _mesh.reset(token)


def constrain(x: Any, *words: str | None) -> Any:
    """`x` laid out by one word a dimension; a no-op where no mesh is set.

    Args:
      x: an array.
      words: for each dimension a word such as 'batch', or None for whole. Words that the run
        gives no axis mean whole.
    """
    current = _mesh.get()
    if current is None:
        return x
    mesh, axes = current
    if len(words) != x.ndim:
        raise ValueError(f"{len(words)} words {words} for an array of {x.ndim} dimensions.")
    spec = PartitionSpec(*(axes.get(word) if word else None for word in words))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def platform() -> str:
    """'cpu', 'gpu' or 'tpu': of the mesh being traced for, or of the default backend without one.

    The two differ where a step is compiled for devices that are not here.
    """
    current = _mesh.get()
    return jax.default_backend() if current is None else current[0].devices.flat[0].platform


def current_mesh() -> Mesh | None:
    """The mesh being traced for, or None where none is set."""
    current = _mesh.get()
    return None if current is None else current[0]


def batch_shards() -> int:
    """Over how many devices rows are cut, of the mesh being traced for; 1 without one."""
    current = _mesh.get()
    if current is None:
        return 1
    mesh, axes = current
    return math.prod(mesh.shape[axis] for axis in axes["batch"])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over the batch axes, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on each device."""
    return NamedSharding(mesh, PartitionSpec())


def shardings(tree: Any, mesh: Mesh, rules: Rules = WHOLE) -> Any:
    """A NamedSharding for each array of a state.

    Args:
      tree: arrays or their shapes (`jax.eval_shape`).
      mesh: the run's mesh.
      rules: ordered (path pattern, spec of the trailing dimensions).

    Raises:
      ValueError: an array that no rule matches, or a spec that does not fit its array.
    """

    def place(path: str, leaf: Any) -> NamedSharding:
        try:
            spec = tuple(match(rules, path))
        except KeyError:
            raise ValueError(
                f"sharding rules: none matches {path!r}. End the list with ('.*', ())."
            ) from None
        if len(spec) > len(leaf.shape):
            raise ValueError(
                f"sharding rules: {spec} has {len(spec)} dimensions, {path!r} has "
                f"{len(leaf.shape)} {tuple(leaf.shape)}."
            )
        spec = (None,) * (len(leaf.shape) - len(spec)) + spec
        for size, axis in zip(leaf.shape, spec):
            if axis is not None and size % mesh.shape[axis]:
                raise ValueError(
                    f"sharding rules: {axis}={mesh.shape[axis]} does not divide {size} in "
                    f"{path!r} {tuple(leaf.shape)}."
                )
        return NamedSharding(mesh, PartitionSpec(*spec))

    return map_with_path(place, tree)


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
    mesh, axes = current
    spec = PartitionSpec(*(axes.get(word) if word else None for word in words))
    return jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
