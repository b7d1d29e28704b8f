"""Our training step and open_clip's, each in a process of its own, which take turns.

Only benchmarks import this. A side's process builds its step, says how long the first one took,
and then takes as many steps as it is asked to, so never two compute at once.
"""

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import peer

BATCHES = 4  # different ones, in turn
PAUSE_SECONDS = 0.1  # in which the other's idle threads stop spinning
Run = Callable[[int], None]  # takes so many steps and waits for the last


class OutOfMemory(RuntimeError):
    """A step does not fit into the memory that there is; the message is the library's."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A side's step and what can be asked of it.

    Attributes:
      run: takes so many steps and waits for the last.
      peak_bytes: the most memory that was in use on the device, or by the process on a CPU.
      free: gives away what is kept for the next step, while the other side computes.
    """

    run: Run
    peak_bytes: Callable[[], int]
    free: Callable[[], None] = lambda: None


def made_up(size: peer.Size, batch: int, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of random pictures and texts of random lengths, the same for every side."""
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(number):
        image = rng.integers(0, 256, (batch, size.image_size, size.image_size, 3), np.uint8)
        tokens = rng.integers(1, size.eos_id, (batch, size.length), np.int32)
        for row, end in zip(tokens, rng.integers(size.length // 2, size.length, batch)):
            row[end], row[end + 1 :] = size.eos_id, 0
        batches.append((image, tokens))
    return batches


def our_batch(image: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """A batch as the trainer's feed makes it."""
    from mmjax.data.sources.base import CAUSES

    rows = len(image)
    return {
        "image": image,
        "token_ids": tokens,
        "text_mask": tokens > 0,
        "row": np.arange(rows, dtype=np.int32),
        "valid": np.ones(rows, bool),
        "sample_id": np.stack([np.zeros(rows), np.arange(rows)], -1).astype(np.int32),
        "bad_samples": np.zeros((rows, len(CAUSES)), np.int32),
    }


def our_compiled(
    size: peer.Size, batch: int, dtype: str, towers: Mapping[str, Any] = peer.PLAIN
) -> Any:
    """The `Compiled` that training would run on the first device; nothing is compiled yet."""
    import jax

    from mmjax.parallel.layout import WHOLE
    from mmjax.parallel.mesh import make_mesh
    from mmjax.training.compiled import Compiled
    from mmjax.training.schedules import cosine

    row = our_batch(*made_up(size, 1, 1)[0])
    shapes = {word: ((batch, *value.shape[1:]), value.dtype) for word, value in row.items()}
    recipe = peer.our_recipe(size, cosine(peak=1e-3, steps=10_000), dtype, towers=towers)
    return Compiled(recipe, make_mesh(devices=jax.devices()[:1]), {"main": shapes}, WHOLE)


def our_step(
    size: peer.Size,
    batch: int,
    dtype: str,
    batches: int = BATCHES,
    towers: Mapping[str, Any] = peer.PLAIN,
) -> Step:
    """Ours: preprocessing, norms, counters and the skip of bad updates included."""
    import jax

    from mmjax.data.device import to_devices
    from mmjax.parallel.sharding import batch_sharding

    compiled = our_compiled(size, batch, dtype, towers)
    place = batch_sharding(compiled.mesh)
    made = made_up(size, batch, batches)
    placed = [{"main": to_devices(our_batch(*one), place)} for one in made]
    stop = jax.numpy.zeros((1,), jax.numpy.int32)
    held = {"state": compiled.init()}

    def run(steps: int) -> None:
        state = held.pop("state")
        for number in range(steps):
            state, metrics = compiled.step(state, placed[number % batches], stop)
        jax.block_until_ready((state, metrics))
        if not np.isfinite(metrics["loss"]):
            raise SystemExit("our loss is not finite")
        held["state"] = state

    def peak() -> int:
        known = jax.devices()[0].memory_stats()
        return known["peak_bytes_in_use"] if known else resident_bytes()

    return Step(run, peak)


def their_step(
    size: peer.Size,
    batch: int,
    dtype: str,
    batches: int = BATCHES,
    device: str = "cpu",
    compiled: bool = False,
) -> Step:
    """open_clip's, in a loop like its trainer's.

    Args:
      size: of the model.
      batch: rows.
      dtype: see `peer.TheirStep`.
      batches: different ones, in turn.
      device: 'cpu' or 'cuda'.
      compiled: whether the model goes through `torch.compile`.
    """
    step = peer.TheirStep(size, dtype=dtype, device=device, compiled=compiled)
    made = [step.batch(*one) for one in made_up(size, batch, batches)]

    def run(steps: int) -> None:
        for number in range(steps):
            loss = step(*made[number % batches], rate=1e-3)
        if not np.isfinite(loss.item()):
            raise SystemExit("open_clip's loss is not finite")

    if device == "cuda":
        return Step(run, step.peak_bytes, step.free)
    return Step(run, resident_bytes)


def resident_bytes() -> int:
    """The largest size that this process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(make: Callable[[], Step], warm_up: int = 0) -> None:
    """A side's process: takes as many steps as each line of its input says.

    Args:
      make: builds the step.
      warm_up: steps before these that are not timed, where memory was given away in between.
    """
    start = time.perf_counter()
    try:
        step = make()
        step.run(1)
        _answer(first_step_seconds=time.perf_counter() - start)
        for line in sys.stdin:
            if warm_up:
                step.run(warm_up)
            start, cpu = time.perf_counter(), time.process_time()
            step.run(int(line))
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            step.free()
            _answer(seconds=seconds, cpu_seconds=cpu, peak_bytes=step.peak_bytes())
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        _answer(out_of_memory=" ".join(str(error).split())[:300])


def is_out_of_memory(error: Exception) -> bool:
    """Whether JAX, torch or Python says that memory is at its end."""
    names = {kind.__name__ for kind in type(error).__mro__}
    said = ("RESOURCE_EXHAUSTED", "out of memory", "_ALLOC_FAILED")  # XLA; CUDA; its libraries
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or any(x in str(error) for x in said)


def _answer(**values: Any) -> None:
    print(json.dumps(values), flush=True)


class Side:
    """A process that computes only when asked to.

    Args:
      command: of a process that calls `serve`.
      environment: of the process; None for this one's.

    Raises:
      OutOfMemory: the first step did not fit.
      SystemExit: the process ended otherwise.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None):
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first = self._answer()["first_step_seconds"]
        self.peak = 0
        self.cpu_seconds = 0.0  # of all its threads, in the last block

    def seconds(self, steps: int) -> float:
        """Seconds for so many steps.

        Raises:
          OutOfMemory: they did not fit.
        """
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.peak, self.cpu_seconds = answer["peak_bytes"], answer["cpu_seconds"]
        return answer["seconds"]

    def close(self) -> None:
        """Ends the process, which gives its memory back."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        # Whatever a library says on standard output is no answer.
        line = next((one for one in self.process.stdout if one.startswith("{")), "")
        if not line:
            raise SystemExit(f"a side ended with exit code {self.process.wait()}")
        answer = json.loads(line)
        if "out_of_memory" in answer:
            self.close()
            raise OutOfMemory(answer["out_of_memory"])
        return answer


def steps_of_a_block(side: Side, block_seconds: float) -> int:
    """How many steps fill a block, after two that warm up."""
    side.seconds(2)
    return max(1, round(block_seconds / (side.seconds(2) / 2)))


def in_turn(sides: Sequence[str], turn: int) -> list[str]:
    """The order of a turn; each side comes first as often as last."""
    return list(sides if turn % 2 else reversed(sides))


def spread(values: Sequence[float], digits: int) -> dict[str, float]:
    """Median, lowest and highest."""
    return {
        "median": round(statistics.median(values), digits),
        "lowest": round(min(values), digits),
        "highest": round(max(values), digits),
    }


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The spread of the ratios, turn by turn."""
    return spread([a / b for a, b in zip(ours, theirs)], 3)
