"""`--plan`: a config's step on devices that need not be here, as a table and as JSON."""

import json
import pathlib
from typing import Any

from ml_collections import ConfigDict

from mmjax.config import ConfigError
from mmjax.parallel.accelerator import leave_out_tpu
from mmjax.parallel.topologies import Topology, check_name, open_topology, table
from mmjax.run.console import refusing, say
from mmjax.run.plan_numbers import compiled_for, numbers, usable_bytes
from mmjax.run.plan_text import GIB, plan_text, search_text
from mmjax.run.searching import cheapest_switch, search


def plan(
    config: ConfigDict,
    name: str,
    json_file: str = "",
    price: float = 0.0,
    compiles: int = 0,
) -> dict[str, Any]:
    """Compiles a config's step for a topology, and says and returns its numbers.

    Where it does not fit, the cheapest change that makes it fit is looked for as well.

    Args:
      config: locked, with all overrides applied; its data need not be there.
      name: of the topology, or 'list', which says what there is.
      json_file: where the numbers are written as well; '' nowhere.
      price: of one device and hour; 0 leaves costs out.
      compiles: above 0 ranks micro-batches, recomputation and meshes instead, of which at most
        so many are compiled.

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
        if json_file:
            _check_writable(pathlib.Path(json_file).absolute())
        topology = open_topology(name)
        if compiles:
            made: dict[str, Any] = {"topology": name, "search": search(config, topology, compiles)}
        else:
            compiled = compiled_for(config, topology)
    if compiles:
        say(search_text(made["search"]))
        best = made["search"][0]
        if best["fits"]:
            say(f"the best of them: {best['changes'] or 'the config as it is'}")
        else:
            say("none that was compiled fits.")
    else:
        made = numbers(config, compiled, topology, price)
        say(plan_text(made))
        if made["fits"] is False and usable_bytes(topology) is not None:
            made["switch"] = _switch(config, topology)
    if json_file:
        with refusing():
            pathlib.Path(json_file).write_text(json.dumps(made, indent=1), encoding="utf-8")
    return made


def _check_writable(file: pathlib.Path) -> None:
    """Raises ConfigError where the numbers could not be written, before anything compiles."""
    if not file.parent.is_dir():
        raise ConfigError(f"--plan-json={file}: there is no such folder.")
    there = file.exists()
    try:
        with file.open("ab"):
            pass
    except OSError as error:
        raise ConfigError(f"--plan-json={file} cannot be written: {error.strerror}.") from None
    if not there:
        file.unlink()


def _switch(config: ConfigDict, topology: Topology) -> dict[str, Any] | None:
    say("looking for the cheapest switch that makes it fit ...")
    found = cheapest_switch(config, topology)
    if found is None:
        say("none was found. Take more devices, or a smaller batch; --search shows what was near.")
        return None
    say(
        f"it fits with {found['changes']}\n"
        f"  {found['peak_bytes'] / GIB:.2f} GiB, {found['seconds']:.4f} s a step, "
        f"useful / executed {found['useful']:.2f}"
    )
    return found
