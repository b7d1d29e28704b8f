"""Which micro-batches, recomputation and mesh: candidates told from shapes, the likeliest compiled.

A compile takes minutes, a look at shapes a second. So the arithmetic that a candidate executes
(exact, a bound on its time from below) and the bytes that its towers keep (without a compiler's
padding) order and thin the candidates before anything compiles.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from mmjax.config import ConfigError, lock, override, plain
from mmjax.parallel.plan import state_bytes
from mmjax.parallel.topologies import Topology
from mmjax.run.console import say
from mmjax.run.options import COMPILES
from mmjax.run.plan_numbers import compiled_for, numbers, usable_bytes
from mmjax.run.plan_text import GIB
from mmjax.training.compiled import Compiled
from mmjax.training.estimates import kept_bytes

MICRO_BATCHES = (1, 2, 4, 8, 16)
REMAT = ("none", "attention", "dots_no_batch", "full")
_HOPELESS = 1.3  # by shapes, of what can be used: XLA makes some things again by itself


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One choice.

    Attributes:
      overrides: {key of the config: value} that makes it.
      mesh: sizes of the axes.
      micro_batches: parts of the batch.
      remat: policy of the towers, or '' where they have none.
      flops: that it executes, and the useful ones among them.
      kept: bytes on a device, from shapes: state, gradients, batch, and what the towers keep.
    """

    overrides: Mapping[str, str]
    mesh: Mapping[str, int]
    micro_batches: int
    remat: str
    flops: tuple[float, float]
    kept: int

    @property
    def changes(self) -> str:
        """The overrides as they are typed."""
        return " ".join(f"--config.{key}={value}" for key, value in self.overrides.items())


def search(
    config: ConfigDict, topology: Topology, compiles: int = COMPILES
) -> list[dict[str, Any]]:
    """Ranks micro-batches × recomputation × mesh for a config; the best that fits comes first.

    Args:
      config: locked, with all overrides applied.
      topology: whose chip's figures are known.
      compiles: how many candidates are compiled at most.

    Raises:
      ConfigError: a topology of unknown chips.
      ValueError: a config that none of them can run.
    """
    room = _room(topology)
    found = sorted(candidates(config, topology), key=lambda one: (*_dearness(one), one.kept))
    if not found:
        compiled_for(config, topology)  # which says what else is wrong with it
        raise ConfigError(
            f"no number of micro-batches out of {', '.join(map(str, MICRO_BATCHES))} divides the "
            f"batch over {len(topology.devices)} devices."
        )
    likely = [one for one in found if one.kept <= _HOPELESS * room]
    say(
        f"{len(found)} candidates, {len(likely)} of them likely to fit in {room / GIB:.2f} GiB; "
        f"compiling up to {compiles}."
    )
    rows, best = {}, math.inf
    for one in likely[:compiles]:
        if _least_seconds(one, topology) >= best:
            break  # so are all that come after it
        row = rows[one.changes] = _compile(config, one, topology)
        if row["fits"]:
            best = min(best, row["seconds"])
    made = [rows.get(one.changes) or _row(one, topology) for one in found]
    return sorted(made, key=_rank)


def cheapest_switch(
    config: ConfigDict, topology: Topology, compiles: int = COMPILES
) -> dict[str, Any] | None:
    """The change of a config that does not fit which makes it fit for the least arithmetic more.

    Args:
      config: that does not fit.
      topology: whose chip's figures are known.
      compiles: how many changes are compiled at most.

    Returns:
      A row as `search` has them, or None where none of those tried fits.
    """
    room, found = _room(topology), list(candidates(config, topology))
    # A config of mixed policies is none of the candidates; then all of them are changes.
    now = next((one.kept for one in found if not one.overrides), math.inf)
    better = [one for one in found if one.kept < now and one.kept <= room and one.overrides]
    better.sort(key=lambda one: (*_dearness(one), len(one.overrides), one.kept))
    for one in _falling(better, compiles):
        row = _compile(config, one, topology)
        if row["fits"]:
            return row
    return None


def candidates(config: ConfigDict, topology: Topology) -> Iterator[Candidate]:
    """All choices that can run, with what shapes say of them."""
    arithmetic: dict[tuple[str, bool], float] = {}
    whole: dict[str, int] = {}
    useful = 0.0
    for mesh in _meshes(config, topology):
        try:
            placed = _compiled(config, _changes(config, mesh, "", 1), topology)
        except ValueError:
            continue  # it divides nothing here
        ways = placed.mesh.shape["data"] * placed.mesh.shape["fsdp"]
        given = state_bytes(placed.layout, placed.batches, placed.mesh)
        useful = useful or placed.flops
        for remat in REMAT if _remat(config) else ("",):
            for parts in MICRO_BATCHES:
                overrides = _changes(config, mesh, remat, parts)
                try:
                    if (remat, parts > 1) not in arithmetic:
                        looked = _compiled(config, overrides, topology)
                        arithmetic[remat, parts > 1] = looked.executed_flops
                        if remat not in whole:
                            whole[remat] = kept_bytes(looked) * ways * parts
                except ValueError:
                    continue  # such parts or such a policy cannot run here
                if any(w["valid"].shape[0] % (ways * parts) for w in placed.batches.values()):
                    continue
                yield Candidate(
                    overrides,
                    dict(placed.mesh.shape),
                    parts,
                    remat,
                    (arithmetic[remat, parts > 1], useful),
                    sum(given.values()) + given["parameters"] + whole[remat] // (ways * parts),
                )


def _compiled(config: ConfigDict, overrides: Mapping[str, str], topology: Topology) -> Compiled:
    return compiled_for(_changed(config, overrides), topology)


def _changed(config: ConfigDict, overrides: Mapping[str, str]) -> ConfigDict:
    changed = lock(config.copy_and_resolve_references())
    for path, value in overrides.items():
        override(changed, path, value)
    return changed


def _compile(config: ConfigDict, one: Candidate, topology: Topology) -> dict[str, Any]:
    say(f"  {one.changes or 'as it is'}")
    changed = _changed(config, one.overrides)
    plan = numbers(changed, compiled_for(changed, topology), topology)
    seconds = max((x for x in plan["seconds"].values() if x), default=0.0)
    row = {
        **_row(one, topology),
        "compiled": True,
        "fits": plan["fits"],
        "peak_bytes": plan["bytes"]["peak"],
        "seconds": seconds,
    }
    need = row["peak_bytes"] / GIB
    say(f"    {need:.2f} GiB, " + (f"{seconds:.4f} s" if row["fits"] else "does not fit"))
    return row


def _row(one: Candidate, topology: Topology) -> dict[str, Any]:
    """What shapes say of a candidate that was not compiled."""
    return {
        "mesh": one.mesh,
        "micro_batches": one.micro_batches,
        "remat": one.remat,
        "overrides": dict(one.overrides),
        "changes": one.changes,
        "compiled": False,
        "fits": None,
        "peak_bytes": one.kept,
        "seconds": _least_seconds(one, topology),
        "useful": one.flops[1] / one.flops[0],
    }


def _rank(row: Mapping[str, Any]) -> tuple[int, float]:
    return {True: 0, None: 1, False: 2}[row["fits"]], row["seconds"]


def _least_seconds(one: Candidate, topology: Topology) -> float:
    return one.flops[0] / (topology.chip.flops * len(topology.devices))


def _dearness(one: Candidate) -> tuple[float, int]:
    """Less arithmetic first, then fewer cuts of the state, which have to be gathered."""
    return float(f"{one.flops[0]:.3g}"), one.mesh["fsdp"] * one.mesh["tensor"]


def _falling(found: Iterable[Candidate], most: int) -> Iterator[Candidate]:
    """Those that keep less than all before them, which turned out not to fit."""
    least, number = math.inf, 0
    for one in found:
        if one.kept < least and number < most:
            least, number = one.kept, number + 1
            yield one


def _room(topology: Topology) -> int:
    room = usable_bytes(topology)
    if room is None:
        raise ConfigError(
            f"--search: nothing is known of the memory and speed of {topology.name}; "
            "--plan=list names chips with figures."
        )
    return room


def _changes(config: ConfigDict, mesh: Mapping[str, int], remat: str, parts: int) -> dict[str, str]:
    """What to override so that a config has these; what it has already is left out."""
    wanted: dict[str, Any] = {"micro_batches": parts}
    wanted |= {f"mesh.{axis}": size for axis, size in mesh.items()}
    wanted |= dict.fromkeys(_remat(config) if remat else (), remat)
    return {key: str(value) for key, value in wanted.items() if _at(config, key) != value}


def _meshes(config: ConfigDict, topology: Topology) -> Sequence[dict[str, int]]:
    """The config's own mesh, and `fsdp` as nothing, one ring of a slice, and a whole slice."""
    sizes = [1, *_ring(topology), len(topology.devices) // _slices(topology)]
    own = plain(config.mesh)
    found = [own, *({**own, "data": -1, "fsdp": size} for size in sizes)]
    different = []
    for mesh in found:
        if mesh not in different:
            different.append(mesh)
    return different


def _slices(topology: Topology) -> int:
    return len({getattr(device, "slice_index", None) for device in topology.devices})


def _ring(topology: Topology) -> list[int]:
    """Devices along the last axis of a slice's torus."""
    places = [getattr(device, "coords", None) for device in topology.devices]
    return [] if None in places else [len({place[1] for place in places})]


def _remat(config: ConfigDict) -> dict[str, str]:
    """{key: policy} of each tower that has one."""
    return {f"model.{path}": value for path, value in _named(config.model, "remat")}


def _named(config: Any, name: str, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if key == name:
            yield f"{path}{key}", value
        elif isinstance(value, ConfigDict):
            yield from _named(value, name, f"{path}{key}.")


def _at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = config[name]
    return config
