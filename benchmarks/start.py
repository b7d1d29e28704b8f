"""How long a run takes to its first step, what memory it needs, and what its saves cost.

    python benchmarks/start.py                                   # some minutes on 2 cores
    python benchmarks/start.py --config=configs/vit_b16.py:smoke

Three JSON lines, all from `train.py` itself, which is run as anybody would:
  start cold   an empty compilation cache: seconds from the command to the end of the first step
  start warm   the same again, in a new workdir, with what the cold start left in the cache
  saves        a longer run that saves often: what a save adds to the steps around it, in seconds
               and as a share of the time between two saves at the config's own interval
               (wanted: 5 % at most)
Peak memory is the largest resident size of the process. The saves' cost is the time of all steps
from one save to the step by which it is on disk, less as many steps of the usual length (the
median of those with no save under way).
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from mmjax.run.config_file import load

ROOT = pathlib.Path(__file__).resolve().parent.parent


def train(
    config: str, folder: pathlib.Path, name: str, cache: pathlib.Path, **overrides: Any
) -> dict[str, Any]:
    """Runs `train.py` to its end: seconds to the first step and in all, peak memory, metrics."""
    workdir = folder / name
    command = [sys.executable, str(ROOT / "train.py"), f"--config={config}"]
    command += [f"--workdir={workdir}", "--config.tensorboard=False", "--config.log_steps=1"]
    command += [f"--config.{key}={value}" for key, value in overrides.items()]
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "MMJAX_CACHE": str(cache)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        first = None
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if first is None and steps_of(workdir):
                first = time.perf_counter() - begun
            if pid:
                break
            time.sleep(0.02)
        seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or first is None:
        raise SystemExit(f"{' '.join(command)}\nended with {process.returncode}:\n{tail(log)}")
    return {
        "first_step_seconds": round(first, 2),
        "whole_run_seconds": round(seconds, 1),
        "peak_rss_bytes": usage.ru_maxrss * 1024,
        "workdir": workdir,
    }


def tail(log: pathlib.Path) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-10:])


def lines_of(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """What the run logged so far; a line half written is left out."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(True) if line.endswith("\n")]


def steps_of(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Lines of training steps."""
    return [line for line in lines_of(workdir) if line["kind"] == "train"]


def cost_of_saves(workdir: pathlib.Path, saved_every: int, interval: int) -> dict[str, Any]:
    """What saves add, from the seconds of each step."""
    lines = lines_of(workdir)
    seconds = {
        line["step"]: line["step_seconds"]
        for line in lines
        if line["kind"] == "train" and "step_seconds" in line
    }
    ended = {
        line["saved_step"]: line["step"]
        for line in lines
        if line["kind"] == "event" and line.get("event") == "saved"
    }
    last = max(seconds)
    # Metrics are read a step late: a save after step s falls into the time logged for step s.
    windows = [range(s, ended.get(s, s) + 2) for s in range(saved_every, last, saved_every)]
    busy = {step for window in windows for step in window}
    settled = [value for step, value in seconds.items() if step not in busy and step > 3]
    if not settled:
        raise SystemExit(f"saves outlast the {saved_every} steps between them; raise --every.")
    usual = statistics.median(settled)
    added = [
        sum(seconds[step] - usual for step in window if step in seconds)
        for window in windows
        if window[-1] < last
    ]
    cost = statistics.median(added)
    return {
        "saves": len(added),
        "step_seconds": round(usual, 4),
        "added_seconds": round(cost, 4),
        "lowest": round(min(added), 4),
        "highest": round(max(added), 4),
        "default_interval_steps": interval,
        "share_at_default_interval": round(cost / (interval * usual), 4),
        "target_share": 0.05,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--saves", type=int, default=6, help="how many saves are measured")
    parser.add_argument("--every", type=int, default=8, help="steps between them")
    options = parser.parse_args()
    interval = load(str(ROOT / options.config)).save_steps
    common = {"benchmark": "start", "config": options.config}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        cache = folder / "cache"
        for phase in ("cold", "warm"):
            run = train(options.config, folder, phase, cache, steps=2)
            run.pop("workdir")
            print(json.dumps({**common, "measured": f"start {phase}", **run}), flush=True)
        steps = options.every * (options.saves + 1)
        run = train(options.config, folder, "saves", cache, steps=steps, save_steps=options.every)
        cost = cost_of_saves(run.pop("workdir"), options.every, interval)
        cost["peak_rss_bytes"] = run["peak_rss_bytes"]
        print(json.dumps({**common, "measured": "saves", **cost}), flush=True)


if __name__ == "__main__":
    main()
