"""How well one GPU is used by the training step in bfloat16, beside open_clip with torch.compile.

    pip install -e '.[cuda,peers]'              # this script's own extras
    python benchmarks/step_gpu.py --profile=profile
    python benchmarks/step_gpu.py --models b16 --sides ours --largest 256 --turns 3
    python benchmarks/step_gpu.py --device=cpu --trial --profile=profile    # proves that it works

First a JSON line of the card: what it reaches in products of large square bfloat16 matrices, by
JAX and by torch; the better of the two is the measured rate. Then one for each model and batch,
which is doubled from 64 until no side fits: images a second of both sides, their ratio turn by
turn, the share of the measured and of the published rate (MFU), peak memory. Useful operations are
counted from shapes as `train.py` counts them, and are the same for both sides. Wanted for B/16:
55 % of the measured rate, and ahead of open_clip.

Ours is the step that training runs, with nothing computed twice and each block written out (--remat
and --scan, for less memory or a shorter compilation); open_clip's is its `CLIP` under
`torch.compile` and autocast, its `ClipLoss` and torch's AdamW, as its trainer builds them. They
take turns, a block of steps each, in processes of their own, of which none takes memory ahead.
Where two do not fit beside each other, each block has a process of its own, which begins when the
other is gone; then "together" is false. Both keep compiled programs on disk, so only the first
process of a shape says how long compiling takes.

With --profile a trace of our step at the last model's largest batch is written to that folder (for
XProf or Perfetto), and the last line says which operations took the device's time.

Without a GPU the script ends in one line with exit code 2. With --device=cpu --trial it goes
through tiny sizes, and there a batch above 8 does not fit, by decree.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any, NoReturn

import card
import peer
from sides import (
    PAUSE_SECONDS,
    OutOfMemory,
    Side,
    Step,
    in_turn,
    our_compiled,
    our_step,
    ratios,
    serve,
    spread,
    steps_of_a_block,
    their_step,
)

SIDES = ("ours", "open_clip")
CLIP = {"length": 77, "text_depth": 12}
MODELS = {
    "b32": peer.Size(224, 32, image_width=768, text_width=512, depth=12, embed_dim=512, **CLIP),
    "b16": peer.Size(224, 16, image_width=768, text_width=512, depth=12, embed_dim=512, **CLIP),
    "l14": peer.Size(224, 14, image_width=1024, text_width=768, depth=24, embed_dim=768, **CLIP),
}
TINY = peer.Size(32, 16, 64, 64, depth=1, length=8, embed_dim=32, vocab_size=64, eos_id=63)
TRIAL = {"tiny": TINY}
TRIAL_FITS = 8
TARGETS = {"b16": 0.55}  # of the measured rate
MATRICES = (4096, 8192, 16384)
TRIAL_MATRICES = (64, 128)
BATCHES = 2  # on the device, in turn
TRACED = 3  # steps


def environment(device: str) -> dict[str, str]:
    """That of a side's process: JAX takes memory as it needs it, and as much as there is."""
    ours = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}
    if device == "cpu":
        return {**os.environ, **ours, "JAX_PLATFORMS": "cpu"}
    names = [plugin.name for plugin in importlib.metadata.entry_points(group="jax_plugins")]
    found = [kind for kind in ("cuda", "rocm") if any(kind in name for name in names)]
    if not found:
        refuse("no GPU can be used, since JAX's plugin is missing: pip install -e '.[cuda]'")
    return {"JAX_PLATFORMS": f"{found[0]},cpu", **os.environ, **ours}


def step_of(side: str, size: peer.Size, batch: int, options: argparse.Namespace) -> Step:
    """A side's step in this process."""
    if options.trial and batch > TRIAL_FITS:
        raise MemoryError(f"the trial takes batches up to {TRIAL_FITS}")
    if side == "open_clip":
        device = "cuda" if options.device == "gpu" else "cpu"
        return their_step(size, batch, "bfloat16", BATCHES, device, options.compile)
    from mmjax.parallel.compilation import use_cache

    use_cache()  # a block in a process of its own need not compile again
    towers = {"scan": options.scan, "remat": options.remat}
    return our_step(size, batch, "bfloat16", BATCHES, towers)


def trace(size: peer.Size, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Writes a profile of our step and adds up what took the device's time."""
    import jax

    step = step_of("ours", size, batch, options)
    step.run(2)
    detail = jax.profiler.ProfileOptions()
    detail.python_tracer_level = 0  # the calls in Python would hide the operations
    with jax.profiler.trace(options.profile, profiler_options=detail):
        step.run(TRACED)
    return {"measured": "profile", **card.longest(options.profile, TRACED)}


@dataclasses.dataclass
class Blocks:
    """Images a second of a side's blocks, and its most memory."""

    rates: list[float] = dataclasses.field(default_factory=list)
    peak: int = 0


class Bench:
    """The parent, which computes nothing itself and leaves the card alone."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.models = TRIAL if options.trial else MODELS
        self._rest = ["--device", options.device, "--turns", str(options.turns)]
        self._rest += ["--trial"] if options.trial else []
        self._rest += [] if options.compile else ["--no-compile"]
        self._rest += ["--profile", options.profile] if options.profile else []
        self._rest += ["--scan" if options.scan else "--no-scan", "--remat", options.remat]
        self._environment = environment(options.device)
        self.measured, self.published = 0.0, None

    def command(self, *work: str) -> list[str]:
        """That of a process which does one thing."""
        return [sys.executable, os.path.abspath(__file__), *self._rest, "--work", *work]

    def ask(self, *work: str) -> dict[str, Any]:
        """What a process answers in its one line.

        Raises:
          SystemExit: it failed.
        """
        done = subprocess.run(
            self.command(*work),
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(work)} ended with exit code {done.returncode}.")
        return json.loads(done.stdout.splitlines()[-1])

    def card(self) -> dict[str, Any]:
        """What the card is and reaches; ends the script where there is none."""
        from mmjax.parallel.chips import find_chip

        rates = {}
        for side in dict.fromkeys(("ours", *self.options.sides)):
            if side == "open_clip":
                peer.check_installed()
            rates[side] = answer = self.ask("rate", side)
            if "missing" in answer:
                refuse(answer["missing"])
        ours = rates["ours"]
        chip = find_chip(ours["device_kind"])
        self.published = None if chip is None else chip.flops
        self.measured = max(max(one["flops_per_second"].values()) for one in rates.values())
        return {
            "measured": "card",
            "device": ours["device_kind"],
            "usable_bytes": ours["usable_bytes"],
            **{
                f"{side}_bfloat16_flops_per_second": {
                    size: float(f"{rate:.4g}") for size, rate in one["flops_per_second"].items()
                }
                for side, one in rates.items()
            },
            "measured_flops_per_second": float(f"{self.measured:.4g}"),
            "published_flops_per_second": self.published,
        }

    def side(self, side: str, model: str, batch: int) -> Side:
        """A process of a side."""
        return Side(self.command("step", side, model, str(batch)), self._environment)

    def measure(self, model: str, batch: int) -> tuple[dict[str, Any], bool]:
        """The line of a model and batch, and whether any side fitted."""
        running: dict[str, Side] = {}
        try:
            steps, found, together = self._begin(model, batch, running)
            rates, together = self._rates(model, batch, running, steps, together)
        finally:
            close_all(running)
        flops = useful_flops(self.models[model], batch)
        line: dict[str, Any] = {"model": model, "batch": batch, "flops": flops}
        for side in self.options.sides:
            line[side] = found[side]
            if side in rates:
                median = statistics.median(rates[side].rates)
                line[side] |= {
                    "peak_bytes": rates[side].peak,
                    "images_per_second": spread(rates[side].rates, 1),
                    "mfu_measured": round(flops * median / batch / self.measured, 4),
                    "mfu_published": self.published
                    and round(flops * median / batch / self.published, 4),
                }
        if len(rates) == len(SIDES):
            line["ours_over_open_clip"] = ratios(rates["ours"].rates, rates["open_clip"].rates)
        line |= {"target_mfu_measured": TARGETS.get(model), "together": together}
        return line | {"turns": self.options.turns}, bool(rates)

    def _begin(
        self, model: str, batch: int, running: dict[str, Side]
    ) -> tuple[dict[str, int], dict[str, dict[str, Any]], bool]:
        """Starts the sides; (steps of a block, what was found, whether they fit together)."""
        steps: dict[str, int] = {}
        found: dict[str, dict[str, Any]] = {}
        together = True
        for side in self.options.sides:
            if not together:
                close_all(running)
            while side not in found:
                try:
                    one = self.side(side, model, batch)
                    steps[side] = steps_of_a_block(one, self.options.block_seconds)
                    running[side] = one
                    found[side] = {"first_step_seconds": round(one.first, 1)}
                except OutOfMemory as error:
                    if not running:  # it had the device for itself
                        found[side] = {"out_of_memory": str(error)}
                    else:
                        together = False
                        close_all(running)
        return steps, found, together

    def _rates(
        self,
        model: str,
        batch: int,
        running: dict[str, Side],
        steps: dict[str, int],
        together: bool,
    ) -> tuple[dict[str, Blocks], bool]:
        """(what the blocks of each side gave, whether all had their processes side by side)."""
        while True:
            blocks = {side: Blocks() for side in steps}
            try:
                for turn in range(self.options.turns):
                    for side in in_turn(list(steps), turn):
                        if not together:
                            close_all(running)
                        if side not in running:
                            running[side] = self.side(side, model, batch)
                        seconds = running[side].seconds(steps[side])
                        blocks[side].rates.append(batch * steps[side] / seconds)
                        blocks[side].peak = max(blocks[side].peak, running[side].peak)
                        time.sleep(PAUSE_SECONDS)
                return blocks, together
            except OutOfMemory:  # perhaps only because of the other
                if not together:
                    raise
                together = False


def close_all(running: dict[str, Side]) -> None:
    """Ends all processes, which give their memory back."""
    while running:
        running.popitem()[1].close()


def refuse(why: str) -> NoReturn:
    """Ends the script in one line."""
    print(f"step_gpu.py: {why}", file=sys.stderr)
    raise SystemExit(2)


def useful_flops(size: peer.Size, batch: int) -> float:
    """Operations of a step from shapes, as `train.py` counts them; on no device."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # this process leaves the card to the sides
    return our_compiled(size, batch, "bfloat16").flops


def work(what: list[str], options: argparse.Namespace) -> None:
    """One of this script's own processes."""
    kind, side, *more = what
    if kind == "rate":
        sizes = TRIAL_MATRICES if options.trial else MATRICES
        measure = card.our_rate if side == "ours" else card.their_rate
        print(json.dumps(measure(sizes, options.device)))
        return
    size, batch = (TRIAL if options.trial else MODELS)[more[0]], int(more[1])
    if kind == "step":
        serve(lambda: step_of(side, size, batch, options), warm_up=1)
    else:
        print(json.dumps(trace(size, batch, options)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--smallest", type=int, help="batch to begin with, 64")
    parser.add_argument("--largest", type=int, default=1 << 20, help="batch to end with")
    parser.add_argument("--turns", type=int, default=5, help="blocks of steps of each side")
    parser.add_argument("--block-seconds", type=float, default=3.0, help="length of a block")
    parser.add_argument("--profile", default="", help="folder for a trace of our step")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--trial", action="store_true", help="tiny sizes, with --device=cpu")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="the peer's model"
    )
    parser.add_argument(
        "--scan", action=argparse.BooleanOptionalAction, default=False, help="our blocks in a loop"
    )
    parser.add_argument("--remat", default="none", help="what our blocks make again")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trial != (options.device == "cpu"):
        refuse("--trial and --device=cpu go together.")
    if options.work:
        work(options.work, options)
        return
    if options.trial:
        options.models, options.block_seconds = list(TRIAL), 0.05
    options.smallest = options.smallest or (TRIAL_FITS // 2 if options.trial else 64)
    if min(options.smallest, options.turns) < 1 or options.largest < options.smallest:
        refuse("give 1 <= --smallest <= --largest and --turns >= 1.")
    bench = Bench(options)

    def show(line: dict[str, Any]) -> None:
        print(json.dumps({"benchmark": "step_gpu", **line}), flush=True)

    show(bench.card())
    for model in options.models:
        batch, fitted = options.smallest, 0
        while batch <= options.largest:
            line, fits = bench.measure(model, batch)
            show(line)
            if not fits:
                break
            if "images_per_second" in line.get("ours", {}):
                fitted = batch
            batch *= 2
    if options.profile and fitted:
        show({"model": model, "batch": fitted, **bench.ask("trace", "ours", model, str(fitted))})


if __name__ == "__main__":
    main()
