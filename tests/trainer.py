"""Runs train.py as a person would, on tars made here: for tests that stop, kill or starve it."""

import dataclasses
import io
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import simplejpeg

from mmjax.training import manifest, orbax_arrays

ROOT = pathlib.Path(__file__).parents[1]
TINY = ROOT / "tests" / "tiny.py"
PARTS = ("params", "opt_state", "ema", "batch_stats", "objectives", "counters")


def jpeg(seed: int, size: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    return simplejpeg.encode_jpeg(pixels)


def write_tar(path: pathlib.Path, samples: Sequence[Mapping[str, bytes]]) -> str:
    """A shard of samples given as {extension: bytes}."""
    with tarfile.open(path, "w") as tar:
        for number, members in enumerate(samples):
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{number:05}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return str(path)


def good_samples(number: int, first: int = 0) -> list[dict[str, bytes]]:
    return [
        {"jpg": jpeg(n), "txt": f"picture {n}\nnumber {n * 7}".encode()}
        for n in range(first, first + number)
    ]


@dataclasses.dataclass
class Run:
    """One process of train.py; what it says goes to files, so that it never waits for a reader."""

    process: subprocess.Popen
    out_path: pathlib.Path
    err_path: pathlib.Path

    @property
    def out(self) -> str:
        return self.out_path.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self.err_path.read_text(errors="replace")

    @property
    def lines(self) -> list[str]:
        """What is on standard error, without progress."""
        return [line for line in self.err.splitlines() if line and not line.startswith("step ")]

    @property
    def going(self) -> bool:
        return self.process.poll() is None

    def wait(self, seconds: float = 240.0) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            raise AssertionError(f"still running after {seconds} s:\n{self.err[-3000:]}") from None

    def step(self) -> int:
        """The last step that was shown."""
        shown = re.findall(r"^step (\d+)/", self.err, re.MULTILINE)
        return int(shown[-1]) if shown else 0

    def until_step(self, step: int, seconds: float = 240.0) -> None:
        self.until(lambda: self.step() >= step, seconds)

    def until(self, seen: Any, seconds: float = 240.0) -> None:
        """Waits for something while the process lives; an end before it is an error."""
        deadline = time.monotonic() + seconds
        while not seen():
            assert self.going, f"ended with {self.process.returncode}:\n{self.err[-3000:]}"
            assert time.monotonic() < deadline, f"not within {seconds} s:\n{self.err[-3000:]}"
            time.sleep(0.005)

    def resumed_from(self) -> int:
        found = re.search(r"^going on from step (\d+)\.$", self.out, re.MULTILINE)
        return int(found[1]) if found else 0


class Trainer:
    """Starts runs of the tiny config; all of them share one compilation cache.

    Args:
      folder: for tars, caches and output.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.cache = folder / "cache"
        self.train = write_tar(folder / "train.tar", good_samples(60))
        self.val = write_tar(folder / "val.tar", good_samples(10, first=1000))
        self._started: list[Run] = []

    def environment(self, **changes: str | None) -> dict[str, str]:
        """That of a run; None takes a variable away."""
        made: dict[str, Any] = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("MMJAX_", "PYTEST"))},
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
            "MMJAX_CACHE": str(self.cache),
            **changes,
        }
        return {k: v for k, v in made.items() if v is not None}

    def start(
        self,
        workdir: pathlib.Path,
        *flags: str,
        config: pathlib.Path = TINY,
        data: str | None = None,
        **environment: str | None,
    ) -> Run:
        """Starts a run and returns at once."""
        data = self.train if data is None else data
        paths = [f"--config.data.path={data}", f"--config.eval_data.path={self.val}"]
        paths = paths if config == TINY else []
        command = [f"--config={config}", f"--workdir={workdir}", *paths, *flags]
        return self.command("train.py", *command, **environment)

    def command(self, script: str, *arguments: str, **environment: str | None) -> Run:
        """Starts a script of the repository."""
        number = len(self._started)
        out, err = self.folder / f"{number}.out", self.folder / f"{number}.err"
        with open(out, "wb") as stdout, open(err, "wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / script), *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=self.environment(**environment),
                start_new_session=True,
            )
        run = Run(process, out, err)
        self._started.append(run)
        return run

    def pair(
        self,
        workdir: pathlib.Path,
        *flags: str,
        apart: Mapping[int, Mapping[str, Any]] | None = None,
        **how: Any,
    ) -> list[Run]:
        """One run of two processes on this machine; `apart` is how a process alone is started."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        job = {"MMJAX_COORDINATOR": f"127.0.0.1:{port}", "MMJAX_PROCESSES": "2"}
        return [
            self.start(
                workdir,
                *flags,
                **{**how, **(apart or {}).get(process, {})},
                **job,
                MMJAX_PROCESS=str(process),
            )
            for process in range(2)
        ]

    def finish(self, workdir: pathlib.Path, *flags: str, **how: Any) -> Run:
        """A run to its end, which must be a good one."""
        run = self.start(workdir, *flags, **how)
        status = run.wait()
        assert status == 0, f"ended with {status}:\n{run.err[-3000:]}"
        return run

    def close(self) -> None:
        """Ends what a failed test has left."""
        for run in self._started:
            if run.going:
                os.killpg(run.process.pid, signal.SIGKILL)
                run.process.wait()


def steps(workdir: pathlib.Path) -> list[int]:
    """The committed checkpoints."""
    return manifest.steps(workdir / "checkpoints")


def state(workdir: pathlib.Path, step: int | None = None) -> dict[str, np.ndarray]:
    """{path: array} of a verified checkpoint, the newest by default."""
    step = steps(workdir)[-1] if step is None else step
    folder = workdir / "checkpoints" / str(step)
    manifest.verify(folder)
    found = {"folder": np.array(step)}
    for part in PARTS:
        arrays = orbax_arrays.read_numpy(folder / "state", part)
        found |= {f"{part}/{name}": value for name, value in arrays.items()}
    return found


def assert_same(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """Bit for bit."""
    assert not found.keys() ^ wanted.keys()
    different = [
        name
        for name in wanted
        if found[name].dtype != wanted[name].dtype
        or found[name].tobytes() != wanted[name].tobytes()
    ]
    assert not different, different


def log(workdir: pathlib.Path, kind: str = "train") -> list[dict[str, Any]]:
    """The lines of one kind of metrics.jsonl."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def losses(workdir: pathlib.Path) -> dict[int, float]:
    """{step: loss}; a step that is there twice is an error."""
    entries = log(workdir)
    assert len({entry["step"] for entry in entries}) == len(entries)
    return {entry["step"]: entry["loss"] for entry in entries}
