"""A config planned for devices that need not be here: what a step needs, takes and costs."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jaxlib
from ml_collections import ConfigDict

from mmjax.config import build, plain
from mmjax.parallel import compilation
from mmjax.parallel.mesh import check_batch, make_mesh
from mmjax.parallel.plan import Facts, alone_bytes, compile_facts, state_bytes, times
from mmjax.parallel.topologies import Topology
from mmjax.parallel.traffic import Collective
from mmjax.parallel.xla_flags import wanted
from mmjax.run.console import say
from mmjax.run.shapes import recipe_and_shapes
from mmjax.training.compiled import Compiled
from mmjax.training.estimates import lowered_comparisons

_READ_BY = 2  # raised when `Facts` are read from a text in another way


def compiled_for(config: ConfigDict, topology: Topology) -> Compiled:
    """The step that training would run, on a topology's devices; nothing is compiled yet.

    Raises:
      ValueError: mesh, batch, micro-batches or rules that a run would refuse as well.
    """
    recipe, shapes = recipe_and_shapes(config)
    mesh = make_mesh(**plain(config.mesh), devices=topology.devices)
    for words in shapes.values():
        check_batch(words["valid"][0][0], mesh, topology.processes)
    return Compiled(recipe, mesh, shapes, build(config.sharding_rules), config.whole_above_bytes)


def numbers(
    config: ConfigDict, compiled: Compiled, topology: Topology, price: float = 0.0
) -> dict[str, Any]:
    """All numbers of a plan, as JSON has them; seconds, bytes, FLOP. Compiles, or reads what an
    earlier plan of the same program kept.

    Args:
      config: that `compiled` was made of.
      compiled: see `compiled_for`.
      topology: to compile for.
      price: of one device and hour; 0 leaves costs out.
    """
    facts, loss = _facts(compiled, topology), loss_bytes(compiled, topology)
    devices, chip = len(topology.devices), topology.chip
    executed, useful = compiled.executed_flops, compiled.flops
    seconds = times(facts, executed, chip, devices)
    rows = sum(words["valid"].shape[0] for words in compiled.batches.values())
    known = {"roofline": seconds.roofline, "estimated_cycles": seconds.cycles}
    by = {}
    for how, one in known.items():
        if one:
            hours = one * config.steps / 3600
            by[how] = {
                "seconds": one,
                "mfu": useful / (one * chip.flops * devices),
                "images_per_second": rows / one,
                "hours": hours,
                "device_hours": hours * devices,
            }
            if price:
                by[how]["cost"] = hours * devices * price
    given = state_bytes(compiled.layout, compiled.batches, compiled.mesh)
    hbm = facts.available_bytes or usable_bytes(topology)
    temporary = facts.temporary_bytes or facts.needed_bytes
    peak = facts.peak_bytes or (temporary + sum(given.values()) if temporary else 0)
    fits = False if facts.error else (None if hbm is None else peak <= hbm)
    return {
        "topology": topology.name,
        "devices": devices,
        "mesh": dict(compiled.mesh.shape),
        "batch": rows,
        "micro_batches": config.micro_batches,
        "parameters": sum(x.size for x in jax.tree.leaves(compiled.state.params)),
        "flops": {"useful": useful, "executed": executed},
        "bytes": {
            **given,
            "activations": max(0, temporary - loss),
            "loss": loss,
            "peak": peak,
            "usable": hbm,
        },
        "fits": fits,
        "error": facts.error,
        "collectives": [dataclasses.asdict(one) for one in facts.collectives],
        "seconds": dataclasses.asdict(seconds),
        "by": by,
        "unknown_loops": facts.unknown_loops,
    }


def usable_bytes(topology: Topology) -> int | None:
    """What a program may take of a device's memory, or None where that is not known."""
    chip = topology.chip
    return None if chip is None else chip.usable_bytes


def _facts(compiled: Compiled, topology: Topology) -> Facts:
    """What the compiler says of the step."""
    lowered = compiled.step.lower(compiled.state, compiled.batches, compiled.stop)

    def make() -> dict[str, Any]:
        say(f"compiling the step for {topology.name} ...")
        return dataclasses.asdict(compile_facts(lowered, compiled.mesh))

    kept = dict(_kept(lowered, topology, make))
    exchanged = tuple(
        Collective(**{**one, "axes": tuple(one["axes"])}) for one in kept.pop("collectives")
    )
    return Facts(**kept, collectives=exchanged)


def loss_bytes(compiled: Compiled, topology: Topology) -> int:
    """What the dearest comparison of a whole batch needs on a device, embeddings not counted."""
    return max(
        (
            _kept(lowered, topology, lambda lowered=lowered: alone_bytes(lowered))
            for lowered in lowered_comparisons(compiled).values()
        ),
        default=0,
    )


def _kept(lowered: Any, topology: Topology, make: Callable[[], Any]) -> Any:
    """What was made of a lowered program: kept on disk, by program, compiler and its flags."""
    client = topology.devices[0].client
    flags = json.dumps(wanted(client.platform), sort_keys=True)
    name = {"tpu": "libtpu"}.get(client.platform, "jaxlib")
    version = f"{jaxlib.__version__} {name} {importlib.metadata.version(name)}"
    given = [os.environ.get(variable, "") for variable in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    key = f"{_READ_BY} {topology.name} {version} {client.platform_version} {flags} {given}\n"
    folder = compilation.cache_root() / "plans"
    digest = hashlib.sha256((key + lowered.as_text()).encode()).hexdigest()[:32]
    file = folder / f"{digest}.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        made = make()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        half = pathlib.Path(f"{file}.{os.getpid()}")
        half.write_text(json.dumps(made), encoding="utf-8")
        half.replace(file)
    except OSError as error:
        say(f"the plan is not kept in {folder} ({error.strerror}).")
    return json.loads(json.dumps(made))
