"""What the cross-modal models learn from small data, one JSON line a run.

    python benchmarks/cross_modal.py --results=RESULTS --tables scenes multitask
    python benchmarks/cross_modal.py --results=RESULTS --tables easy-vqa --easy-vqa='DIR/*.tar'
    python benchmarks/cross_modal.py --results=R --tables photos --nlvr=N --daquar=D --flickr8k=F
    python benchmarks/cross_modal.py --results=RESULTS --tables scenes --steps 4    # a trial

A run is a config of `cross_modal_config.py` through the trainer: small models of one width, trained
from nothing on 2 cores in at most 8 minutes (15 on easy-VQA). Runs whose line stands already are
not made again. On drawn scenes VisualBERT, LXMERT and ViLBERT read regions, one an object, as a
detector would give them; elsewhere their picture side is the grid of a small ResNet, 4 x 4 cells of
64 pixels, trained with them. ViLT has patches of 8 pixels. In the table 'scenes' statements start
with the weights of the answers' run. 'blind' runs are without the picture or without the text. In
the table 'multitask' a run of several tasks, with a stream of its own for each, takes as many steps
of each as the runs of one task beside it.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from cross_modal_config import (
    BLIND,
    FAMILIES,
    FOLDERS,
    SCENES,
    SLOWER,
    START,
    STEPS,
    Run,
    config_of,
)

from mmjax.run.options import Options
from mmjax.run.training import train

TOGETHER = 2000  # steps of each task in the table 'multitask'
TABLES = ("easy-vqa", "scenes", "multitask", "photos")
BLINDED = 1000  # steps on easy-VQA without picture or text: more change nothing


def runs_of(table: str, steps: int | None) -> Iterator[Run]:
    """The runs of a table, those of most weight first."""

    def run(task: str, model: str, seed: int = 0, blind: str = "") -> Run:
        number = steps or (TOGETHER if table == "multitask" else None)
        number = number or (BLINDED if blind and task == "easy-vqa" else None)
        number = number or SLOWER.get((model, task), STEPS[task.split("+")[0]])
        start = START.get(task, "") if table == "scenes" else ""
        return Run(table, task, model, seed, number, blind, start)

    if table == "easy-vqa":
        yield from (run("easy-vqa", family) for family in FAMILIES)
        yield from (run("easy-vqa", "visualbert", seed) for seed in (1, 2))
        yield from (run("easy-vqa", "visualbert", 0, blind) for blind in BLIND[1:])
    elif table == "scenes":
        yield from (run(task, "visualbert", s) for s in (0, 1, 2) for task in SCENES[:2])
        yield from (run("statements", "visualbert", 0, blind) for blind in BLIND[1:])
        yield from (run(task, family) for family in FAMILIES[1:] for task in SCENES[:2])
        yield from (run("matching", family) for family in FAMILIES)
        yield from (run(task, "visualbert", 0, b) for task in SCENES[::2] for b in BLIND[1:])
    elif table == "multitask":  # none starts with another's weights
        yield from (run(task, "visualbert") for task in ("+".join(SCENES), *SCENES))
    else:
        yield from (run("flickr8k", "visualbert", seed) for seed in (0, 1, 2))
        yield from (run(task, "visualbert", 0, b) for task in ("nlvr", "daquar") for b in BLIND)


def measure(run: Run, folders: dict[str, str], keep: pathlib.Path) -> dict[str, Any]:
    """Trains and evaluates in this process; a run that others may start with is kept."""
    if run.start:
        last = keep / run.first.name / "checkpoints" / str(run.first.steps)
        if not (last / "manifest.json").exists():
            measure(run.first, folders, keep)
    started = time.perf_counter()
    with contextlib.ExitStack() as left:
        if run.task in START.values() and not run.blind:
            workdir = str(keep / run.name)
        else:
            workdir = left.enter_context(tempfile.TemporaryDirectory())
        numbers = train(config_of(run, folders, keep), workdir, Options(overwrite=True))
    seconds = round(time.perf_counter() - started, 1)
    kept = {k: round(v, 4) for k, v in numbers.items() if not k.endswith("_chance")}
    return {"benchmark": "cross_modal", **dataclasses.asdict(run), **kept, "seconds": seconds}


def is_line_of(run: Run, line: dict[str, Any]) -> bool:
    """Whether a line of the results is of a run."""
    told = dataclasses.asdict(run)
    return {name: line.get(name, "") for name in told} == told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", required=True, help="a file of JSON lines, appended to")
    parser.add_argument("--tables", nargs="+", choices=TABLES)
    parser.add_argument("--easy-vqa", default="", help="pattern of easy-VQA's .tar shards")
    parser.add_argument("--daquar", default="", help="pattern of DAQUAR's .tar shards")
    parser.add_argument("--nlvr", default="", help="folder whose folders hold NLVR's files")
    parser.add_argument("--flickr8k", default="", help="folder of Flickr8k's .tar shards")
    parser.add_argument("--steps", type=int, default=None, help="of each run; for a trial")
    parser.add_argument("--only", nargs="*", default=[], help="models; by default all")
    keep = pathlib.Path(tempfile.gettempdir()) / "mmjax-cross-modal"
    parser.add_argument("--keep", default=str(keep), help="where runs that others start with stay")
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folders = {name: getattr(options, name.replace("-", "_")) for name in FOLDERS}
    results = pathlib.Path(options.results)
    if options.work:
        run = Run(**json.loads(options.work))
        line = json.dumps(measure(run, folders, pathlib.Path(options.keep)))
        with results.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        return
    if not options.tables:
        parser.error(f"--tables: name one or more of {', '.join(TABLES)}.")
    for run in (one for table in options.tables for one in runs_of(table, options.steps)):
        for task in run.tasks:
            if task in FOLDERS and not folders[task]:
                parser.error(f"--{task}: the table {run.table} needs it.")
    for run in (one for table in options.tables for one in runs_of(table, options.steps)):
        lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
        known = any(is_line_of(run, json.loads(line)) for line in lines)
        if known or (options.only and run.model not in options.only):
            continue
        command = [sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--work"]
        subprocess.run([*command, json.dumps(dataclasses.asdict(run))], check=True)
        print(results.read_text(encoding="utf-8").splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
