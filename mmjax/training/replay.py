"""A step computed twice and compared bit for bit, for chips that compute wrongly in silence."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from mmjax.parallel.sharding import replicated
from mmjax.paths import flatten
from mmjax.training.failing import Failed

_SHOWN = 5


class Replay:
    """Takes every N-th step a second time, from the same state and batch.

    The step must be deterministic, which XLA's programs are on CPUs and TPUs; on GPUs with
    `--xla_gpu_deterministic_ops=true` in XLA_FLAGS. Costs the memory of a second state at these
    steps, and a N-th more time.

    Args:
      every: N; 0 checks nothing.
      mesh: of the run.

    Raises:
      ValueError: `every` is below 0.
    """

    def __init__(self, every: int, mesh: Mesh):
        if every < 0:
            raise ValueError(f"--replay-check={every}: a number of steps, or 0 for no check.")
        self._every = every
        self._mesh = mesh

    def wrap(self, take_step: Callable[..., Any], start: int) -> Callable[..., Any]:
        """The step, with the check in every N-th; it raises `Failed` on all processes alike.

        Args:
          take_step: (state, batches, stop word) -> (state, metrics); may donate the state.
          start: the step from which on it is taken.
        """
        if not self._every:
            return take_step
        done = start

        def checked(state: Any, batches: Any, stop: Any) -> Any:
            nonlocal done
            done += 1
            if done % self._every:
                return take_step(state, batches, stop)
            spare = _copy(state)
            first = take_step(state, batches, stop)
            second = take_step(spare, batches, stop)
            self._compare(done, first, second)
            return first

        return checked

    def _compare(self, step: int, first: Any, second: Any) -> None:
        one, two = (_named(*result) for result in (first, second))
        names = sorted(one)
        specs = tuple(_spec(one[name]) for name in names)
        count = _counter(self._mesh, specs)
        found = jax.device_get(count([one[n] for n in names], [two[n] for n in names]))
        if not found.any():
            return
        wrong = [
            f"{names[row]} ({found[row].max():,} of {one[names[row]].size:,} elements)"
            for row in np.flatnonzero(found.any(axis=1))
        ]
        devices = [self._mesh.devices.flat[place] for place in np.flatnonzero(found.any(axis=0))]
        rest = len(wrong) - _SHOWN
        raise Failed(
            f"step {step}, computed twice from the same state and batch, differs in {len(wrong)} "
            f"of {len(names)} arrays on {_places(devices)}: {', '.join(wrong[:_SHOWN])}"
            f"{f' and {rest} more' if rest > 0 else ''}. Nothing of it is saved. A device or its "
            "memory computes wrongly, or the program is not deterministic. Leave that machine out; "
            f"checkpoints up to step {step - self._every} lie before the last good check."
        )


@jax.jit
def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def _named(state: Any, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """{name: array} of all that a step gives."""
    return {**flatten(state), **{f"metrics/{name}": value for name, value in metrics.items()}}


def _spec(array: Any) -> PartitionSpec:
    return getattr(array.sharding, "spec", PartitionSpec())


@functools.cache
def _counter(mesh: Mesh, specs: tuple[PartitionSpec, ...]) -> Callable[..., Any]:
    """(arrays, arrays) -> how many elements of each differ on each device, each by its own copy."""

    def count(one: Any, two: Any) -> Any:
        unlike = [jnp.sum(_bits(a) != _bits(b), dtype=jnp.int32) for a, b in zip(one, two)]
        return jnp.stack(unlike)[:, None]  # -> [arrays, 1] a device

    # An array that all devices hold is compared on each: so no check that the copies agree.
    mapped = jax.shard_map(
        count,
        mesh=mesh,
        in_specs=(list(specs), list(specs)),
        out_specs=PartitionSpec(None, mesh.axis_names),
        check_vma=False,
    )
    return jax.jit(mapped, out_shardings=replicated(mesh))


def _bits(x: Any) -> Any:
    """As integers, since NaN is not NaN and 0 is -0."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")


def _places(devices: list[Any]) -> str:
    by_process: dict[int, list[str]] = {}
    for device in devices:
        by_process.setdefault(device.process_index, []).append(str(device))
    return "; ".join(
        f"{', '.join(names)} of process {process}" for process, names in by_process.items()
    )
