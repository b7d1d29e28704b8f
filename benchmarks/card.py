"""What a card reaches in matrix products, and what took its time; for `step_gpu.py`."""

import os
import pathlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

PRODUCTS = 32  # one after the other in a measurement
REPEATS = 5


def our_rate(sizes: Sequence[int], device: str) -> dict[str, Any]:
    """What JAX reaches in matrix products, and what the device is."""
    import jax
    import jax.numpy as jnp

    from mmjax.parallel.accelerator import require

    try:
        require("gpu" if device == "gpu" else "")
    except ValueError as error:
        return {"missing": str(error)}

    @jax.jit
    def products(x: Any, y: Any) -> Any:
        return jax.lax.fori_loop(0, PRODUCTS, lambda _, z: z @ y, x)

    rates = {}
    for size in sizes:
        x, y = jax.random.normal(jax.random.key(0), (2, size, size), jnp.bfloat16)
        y = y * size**-0.5  # so that products stay of one size
        rates[size] = best_rate(size, lambda x=x, y=y: jax.block_until_ready(products(x, y)))
    first = jax.devices()[0]
    known = first.memory_stats() or {}
    return {
        "device_kind": first.device_kind,
        "flops_per_second": rates,
        "usable_bytes": known.get("bytes_limit"),
    }


def their_rate(sizes: Sequence[int], device: str) -> dict[str, Any]:
    """What torch reaches in matrix products."""
    import torch

    place = "cuda" if device == "gpu" else "cpu"
    if place == "cuda" and not torch.cuda.is_available():
        return {"missing": "torch finds no GPU; is it a build without CUDA?"}
    rates = {}
    for size in sizes:
        x, y = torch.randn(2, size, size, dtype=torch.bfloat16, device=place)
        y = y * size**-0.5

        def products(x: Any = x, y: Any = y) -> None:
            for _ in range(PRODUCTS):
                x = x @ y
            x[0, 0].item()  # waits

        rates[size] = best_rate(size, products)
    return {"flops_per_second": rates, "torch": torch.__version__}


def best_rate(size: int, products: Callable[[], Any]) -> float:
    """FLOP/s of the best of some measurements, after one that warms up."""
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        products()
        seconds.append(time.perf_counter() - start)
    return PRODUCTS * 2.0 * size**3 / min(seconds[1:])


def longest(folder: str, steps: int) -> dict[str, Any]:
    """The newest trace in a folder, and which operations took the device's time in it.

    Args:
      folder: as given to `jax.profiler`.
      steps: how many were traced.

    Raises:
      SystemExit: there is no trace.
    """
    import jax

    files = sorted(pathlib.Path(folder).rglob("*.xplane.pb"), key=os.path.getmtime)
    if not files:
        raise SystemExit(f"JAX wrote no profile to {folder}.")
    planes = list(jax.profiler.ProfileData.from_file(str(files[-1])).planes)
    # A GPU's plane has a line for each stream beside lines that sum these up; a CPU's programs
    # run in the host's threads, where what calls is counted beside what is called.
    on_device = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    lines = [
        line
        for plane in on_device or planes
        for line in plane.lines
        if not on_device or line.name.startswith("Stream")
    ]
    spent: Counter[str] = Counter()
    for line in lines:
        for event in line.events:
            spent[event.name.split("(")[0][:80]] += event.duration_ns / 1e6 / steps
    return {
        "file": str(files[-1]),
        "milliseconds_a_step": round(sum(spent.values()), 3),
        "longest": {name: round(took, 3) for name, took in spent.most_common(15)},
    }
