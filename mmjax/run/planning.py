"""A config planned for devices that need not be here: what a step needs, takes and costs."""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import jax
import jaxlib
from ml_collections import ConfigDict

from mmjax.config import build, plain
from mmjax.parallel import compilation
from mmjax.parallel.accelerator import leave_out_tpu
from mmjax.parallel.mesh import check_batch, make_mesh
from mmjax.parallel.plan import Facts, compile_facts, state_bytes, times
from mmjax.parallel.topologies import Topology, check_name, open_topology, table
from mmjax.parallel.traffic import Collective
from mmjax.run.console import refusing, say
from mmjax.run.shapes import recipe_and_shapes
from mmjax.training.compiled import Compiled

_READ_BY = 1  # raised when `Facts` are read from a text in another way


def plan(config: ConfigDict, name: str, json_file: str = "", price: float = 0.0) -> dict[str, Any]:
    """Compiles a config's step for a topology, and says and returns its numbers.

    Args:
      config: locked, with all overrides applied; its data need not be there.
      name: of the topology, or 'list', which says what there is.
      json_file: where the numbers are written as well; '' nowhere.
      price: of one device and hour; 0 leaves costs out.

    Raises:
      ConfigError: before anything compiles, in one line.
    """
    if name == "list":
        leave_out_tpu()  # `say` asks for this process's number
        say(table())
        return {}
    with refusing():
        check_name(name)
        if name != "gpu":
            leave_out_tpu()
        topology = open_topology(name)
        compiled = _step(config, topology)
    facts = _facts(compiled, topology)
    numbers = _numbers(config, compiled, topology, facts, price)
    say(_table(numbers))
    if json_file:
        with refusing():
            pathlib.Path(json_file).write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return numbers


def _step(config: ConfigDict, topology: Topology) -> Compiled:
    """The step that training would run, on the topology's devices."""
    recipe, shapes = recipe_and_shapes(config)
    mesh = make_mesh(**plain(config.mesh), devices=topology.devices)
    for words in shapes.values():
        check_batch(words["valid"][0][0], mesh, topology.processes)
    return Compiled(recipe, mesh, shapes, build(config.sharding_rules), config.whole_above_bytes)


def _facts(compiled: Compiled, topology: Topology) -> Facts:
    """What the compiler says of the step: kept on disk, by the lowered program."""
    lowered = compiled.step.lower(compiled.state, compiled.batches, compiled.stop)
    kind = topology.devices[0].client.platform_version
    key = f"{_READ_BY} {topology.name} {jaxlib.__version__} {kind}\n{lowered.as_text()}"
    folder = compilation.cache_root() / "plans"
    file = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        exchanged = tuple(
            Collective(**{**one, "axes": tuple(one["axes"])}) for one in kept.pop("collectives")
        )
        return Facts(**kept, collectives=exchanged)
    except (OSError, ValueError, TypeError, KeyError):
        say(f"compiling the step for {topology.name} ...")
    facts = compile_facts(lowered, compiled.mesh)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        half = file.with_suffix(f".{os.getpid()}")
        half.write_text(json.dumps(dataclasses.asdict(facts)), encoding="utf-8")
        half.replace(file)
    except OSError as error:
        say(f"the plan is not kept in {folder} ({error.strerror}).")
    return facts


def _numbers(
    config: ConfigDict, compiled: Compiled, topology: Topology, facts: Facts, price: float
) -> dict[str, Any]:
    """All numbers of a plan, as JSON has them; seconds, bytes, FLOP."""
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
    hbm = facts.available_bytes or (chip.hbm_bytes if chip and chip.hbm_bytes else None)
    fits = False if facts.error else (None if hbm is None else facts.peak_bytes <= hbm)
    return {
        "topology": topology.name,
        "devices": devices,
        "mesh": dict(compiled.mesh.shape),
        "batch": rows,
        "micro_batches": config.micro_batches,
        "parameters": sum(x.size for x in jax.tree.leaves(compiled.state.params)),
        "flops": {"useful": useful, "executed": executed},
        "bytes": {
            **state_bytes(compiled.layout, compiled.batches, compiled.mesh),
            "temporaries": facts.temporary_bytes,
            "peak": facts.peak_bytes,
            "hbm": hbm,
        },
        "fits": fits,
        "error": facts.error,
        "collectives": [dataclasses.asdict(one) for one in facts.collectives],
        "seconds": dataclasses.asdict(seconds),
        "by": by,
        "unknown_loops": facts.unknown_loops,
    }


def _table(plan: dict[str, Any]) -> str:
    """The numbers for people, at most 80 columns wide."""
    flops = plan["flops"]
    mesh = "x".join(map(str, plan["mesh"].values()))
    lines = [
        f"{plan['topology']}: {plan['devices']} devices, mesh {mesh} (data x fsdp x tensor), "
        f"batch {plan['batch']:,} in {plan['micro_batches']}",
        f"{'parameters':<34}{plan['parameters'] / 1e6:>14.1f} M",
        f"{'FLOPs a step, useful':<34}{flops['useful'] / 1e12:>14.2f} T",
        f"{'FLOPs a step, executed':<34}{flops['executed'] / 1e12:>14.2f} T"
        f"   useful / executed {flops['useful'] / flops['executed']:.2f}",
        "bytes a device",
    ]
    for kind, size in plan["bytes"].items():
        if size:
            lines.append(f"  {kind:<32}{size / (1 << 20):>14,.1f} MiB")
    verdict = {True: "yes", False: "NO", None: "not known"}[plan["fits"]]
    lines.append(f"{'fits':<34}{verdict:>14}")
    if plan["error"]:
        lines.append(f"  {plan['error'][:150]}")
    if plan["collectives"]:
        lines.append("sent by a device in a step")
    for one in plan["collectives"]:
        name = f"  {one['kind']} {'+'.join(one['axes'])}"
        lines.append(f"{name:<44}{one['times']:>6} x{one['sent_bytes'] / 1e6:>12,.2f} MB")
    lines.append("seconds a step by")
    for name, one in plan["seconds"].items():
        lines.append(f"  {name:<32}{'not known' if one is None else f'{one:.4f}':>14}")
    for how, one in plan["by"].items():
        cost = f", cost {one['cost']:,.0f}" if "cost" in one else ""
        lines.append(
            f"by {how.replace('_', ' ')}: {one['seconds']:.4f} s, MFU {one['mfu']:.2f}, "
            f"{one['images_per_second']:,.0f} images/s,"
        )
        lines.append(
            f"  the run: {one['hours']:,.1f} hours, {one['device_hours']:,.0f} device-hours{cost}"
        )
    if plan["unknown_loops"]:
        lines.append(f"{plan['unknown_loops']} loops of unknown length count once.")
    return "\n".join(lines)
