"""What share of a run's time goes into steps that count, when the run is killed three times.

    python benchmarks/goodput.py                             # about 4 minutes on 2 cores
    python benchmarks/goodput.py --kills save save --seconds 20
    python benchmarks/goodput.py --config=configs/vit_b16.py:smoke --steps 2000 --save-steps 200

`train.py` is run to its end twice, each time with an empty compilation cache: once undisturbed and
once with kill -9 at each moment of `--kills`, the same command starting again at once:
  between  halfway between two saves, so that steps are lost
  save     while a checkpoint is being written
  start    after the state was restored, before the first step
One JSON line: seconds and shares of both runs, and whether they ended bitwise equal (all arrays of
the last checkpoint, and the losses of all steps); where not, the exit code is 1.

  steps       of the final run, each number once, the last time it was made; their share is
              `goodput`
  redone      made, lost with a kill, and made again; the step under way at the kill included
  startup     from the process's start to its first step, which itself counts as a step
  saves       what a save adds to the steps around it, and the wait for the last one
  evaluation  by the run's own clock, the compilation of what it runs included
  rest        the report, the end of the process, and what fits nowhere else

Of each start-up `import` lasts until the run says its config (modules, the config's checks, first
samples), `compile` is what JAX says of its tracing, lowering, and compiling or reading from the
cache, `restore` is the rest until the run says from which step it goes on, `other` what is left
(such as the tokenizer's training). Steps around saves and evaluations count with the usual length,
which is the median of the others.

Source of the idea: goodput as Google's ml-goodput-measurement has it, productive over total time.
"""

import argparse
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Any

import jax
import numpy as np
from ledger import Life, Line, account
from start import lines_of

from mmjax.training import manifest, orbax_arrays

ROOT = pathlib.Path(__file__).resolve().parent.parent
KILLS = ("between", "save", "start")
STATE = ("params", "opt_state", "ema", "batch_stats", "objectives", "counters")
WATCH_SECONDS = 0.002


class Process:
    """A process of `train.py` whose lines are noted as they come."""

    def __init__(self, command: Sequence[str], cache: pathlib.Path):
        self.out: list[Line] = []
        self.err: list[Line] = []
        self.begun = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "MMJAX_CACHE": str(cache), "JAX_LOG_COMPILES": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._readers = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: IO[str], lines: list[Line]) -> None:
        for line in stream:
            lines.append((time.perf_counter(), line.rstrip("\n")))

    def until(self, come: Callable[[], bool]) -> bool:
        """Waits for something; False where the process ends before it."""
        while not come():
            if self.process.poll() is not None:
                return False
            time.sleep(WATCH_SECONDS)
        return True

    def end(self) -> float:
        """Waits for the end of the process and of its lines; when it was."""
        self.process.wait()
        ended = time.perf_counter()
        for reader in self._readers:
            reader.join()
        return ended


def moment(kind: str, process: Process, folder: pathlib.Path, seconds: float, every: int) -> Any:
    """A function that says whether the moment of a kill has come."""
    seen = {"lines": 0, "first": 0.0, "step": 0}

    def stepped() -> bool:
        """Reads the lines that are new; whether enough time was trained."""
        for when, text in process.err[seen["lines"] :]:
            seen["lines"] += 1
            if found := re.match(r"step (\d+)/", text):
                seen["first"], seen["step"] = seen["first"] or when, int(found[1])
        return bool(seen["first"]) and time.perf_counter() - seen["first"] >= seconds

    def come() -> bool:
        if kind == "start":
            return any(text.startswith("going on from step") for _, text in list(process.out))
        if not stepped():
            return False
        saving = bool(manifest.leftovers(folder))
        if kind == "save":
            return saving
        return not saving and seen["step"] > every and seen["step"] % every >= every // 2

    return come


def train(
    command: list[str],
    workdir: pathlib.Path,
    cache: pathlib.Path,
    kills: Sequence[str],
    **when: Any,
) -> list[Life]:
    """Runs the command until it has ended by itself, after all kills."""
    lives: list[Life] = []
    folder = workdir / "checkpoints"
    for kill in (*kills, ""):
        known = events(workdir)
        process = Process([*command, f"--workdir={workdir}"], cache)
        try:
            if kill and not process.until(moment(kill, process, folder, **when)):
                process.end()
                last = "\n".join(text for _, text in process.err[-5:])
                raise SystemExit(
                    f"the run ended before the kill {kill!r} ({len(lives) + 1} of {len(kills)}); "
                    "give more --steps, or kill it 'between' or with more --seconds first, so that "
                    f"there is a checkpoint to start from. Its last lines:\n{last}"
                )
            if kill:
                process.process.kill()
            ended = process.end()
        finally:
            process.process.kill()
        code = process.process.returncode
        if not kill and code:
            last = "\n".join(text for _, text in process.err[-10:])
            raise SystemExit(f"{' '.join(command)}\nended with {code}:\n{last}")
        life = Life(process.begun, ended, process.out, process.err, [], kill)
        life.hit = bool(manifest.leftovers(folder)) if folder.is_dir() else False
        life.metrics = [
            line
            for line in lines_of(workdir)
            if line["kind"] != "event" and line["step"] > life.resumed
        ] + events(workdir)[len(known) :]
        lives.append(life)
    return lives


def events(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Events so far; unlike the other lines they stay when a run goes on."""
    return [line for line in lines_of(workdir) if line["kind"] == "event"]


def arrays(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint."""
    folder = workdir / "checkpoints" / str(step)
    manifest.verify(folder)
    return {
        f"{part}/{name}": value
        for part in STATE
        for name, value in orbax_arrays.read_numpy(folder / "state", part).items()
    }


def same(one: pathlib.Path, other: pathlib.Path, last: int) -> bool:
    """Whether two runs ended with the same bits and logged the same losses at the same steps."""
    first, second = arrays(one, last), arrays(other, last)
    if first.keys() != second.keys():
        return False
    losses = [
        {line["step"]: line["loss"] for line in lines_of(run) if line["kind"] == "train"}
        for run in (one, other)
    ]
    # A killed run's file may lack steps that were made, not logged and not made again.
    both = losses[0].keys() & losses[1].keys()
    return all(losses[0][step] == losses[1][step] for step in both) and all(
        first[name].dtype == second[name].dtype and first[name].tobytes() == second[name].tobytes()
        for name in first
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--steps", type=int, default=480, help="of the whole run")
    parser.add_argument("--save-steps", type=int, default=60, help="between two saves")
    parser.add_argument("--eval-steps", type=int, default=240, help="between two evaluations")
    parser.add_argument("--kills", nargs="*", choices=KILLS, default=list(KILLS))
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of training before a kill's moment is awaited"
    )
    options = parser.parse_args()
    if options.kills[:1] == ["start"]:
        parser.error("--kills: the first cannot be 'start', when nothing is there to be restored.")
    if not 4 <= options.save_steps <= options.steps // 2:
        parser.error(
            f"--save-steps {options.save_steps}: at least 4, and at most half of --steps "
            f"{options.steps}."
        )
    command = [sys.executable, str(ROOT / "train.py"), f"--config={options.config}"]
    command += ["--config.log_steps=1", "--config.tensorboard=False"]
    for name in ("steps", "save_steps", "eval_steps"):
        command.append(f"--config.{name}={getattr(options, name)}")
    jax.config.update("jax_platforms", "cpu")  # this process only compares files
    rhythm = {"seconds": options.seconds, "every": options.save_steps}
    result: dict[str, Any] = {"benchmark": "goodput", **vars(options)}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for run, kills in (("undisturbed", []), ("killed", options.kills)):
            lives = train(command, folder / run, folder / f"cache-{run}", kills, **rhythm)
            result[run] = account(lives, options.save_steps, options.steps)
        result["killed"]["kills"] = [
            {
                "moment": life.kill,
                "checkpoint_unfinished": life.hit,
                "step": max(life.shown, default=life.resumed),
                "resumed_from": after.resumed,
            }
            for life, after in itertools.pairwise(lives)
        ]
        result["bitwise_equal"] = same(folder / "undisturbed", folder / "killed", options.steps)
    result["killed_over_undisturbed_seconds"] = round(
        result["killed"]["wall_seconds"] / result["undisturbed"]["wall_seconds"], 2
    )
    print(json.dumps(result | {"load_average": round(os.getloadavg()[0], 1)}), flush=True)
    if not result["bitwise_equal"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
