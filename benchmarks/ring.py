"""Contrastive losses over a ring beside the dense form, on simulated devices.

    python benchmarks/ring.py                    # 8 simulated CPU devices
    python benchmarks/ring.py --batches 8192 --losses softmax sigmoid

First, one JSON line for each loss, kind of embeddings and scale: how far value and gradients of
both forms are from float64, as the largest difference over the largest number. Then one for each
loss and batch: seconds of loss and gradient, and temporary memory of one device. The two forms take
turns; times are medians with the lowest and highest beside, the ratio is the median over the turns.
The devices share the machine's cores, so times compare the arithmetic and not the network.
"""

import argparse
import functools
import json
import os
import statistics
import time
from typing import Any

import jax
import numpy as np

from mmjax.objectives.contrastive import Contrastive
from mmjax.objectives.metric import Margin, Triplet
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations, batch_sharding, replicated
from mmjax.training.flops import step_flops

DEVICES = 8
LOSSES = {"softmax": Contrastive, "sigmoid": Sigmoid, "triplet": Triplet, "margin": Margin}
FORMS = ("ring", "gather")
BIAS = -10.0


def made_up(kind: str, batch: int, dim: int) -> dict[str, np.ndarray]:
    """Pairs of unit vectors, a seventh of the rows not real."""
    rng = np.random.default_rng(0)
    image, noise = rng.normal(size=(2, batch, dim))
    text = image + 0.3 * noise if kind == "aligned" else noise
    numbers = np.arange(batch, dtype=np.int32)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
    return {
        "image": unit[0].astype(np.float32),
        "text": unit[1].astype(np.float32),
        "valid": rng.permutation(batch) >= batch // 7,
        "sample_id": np.stack([numbers, numbers], axis=1),
    }


def exact(loss: str, given: dict[str, np.ndarray], log_scale: np.float32) -> dict[str, Any]:
    """Value and gradients in float64, for one positive a row."""
    valid = given["valid"]
    image, text = (np.float64(given[name])[valid] for name in ("image", "text"))
    scale, own = np.exp(np.float64(log_scale)), np.eye(len(image), dtype=bool)
    similarities = image @ text.T
    if loss == "sigmoid":
        wrong = np.where(own, -1, 1) * (scale * similarities + BIAS)
        value, slopes = np.logaddexp(0, wrong).sum(), np.where(own, -1, 1) / (1 + np.exp(-wrong))
    else:
        value, slopes = 0.0, 0.0
        for logits, turned in ((scale * similarities, False), (scale * similarities.T, True)):
            others = np.where(own, -np.inf, logits - np.diag(logits)[:, None])
            highest = others.max(1, keepdims=True)
            log_ratio = highest + np.log(np.exp(others - highest).sum(1, keepdims=True))
            value += np.logaddexp(0, log_ratio).sum() / 2
            share = 1 / (1 + np.exp(-log_ratio))
            by_logits = np.exp(others - log_ratio) * share - np.where(own, share, 0)
            slopes += (by_logits.T if turned else by_logits) / 2
    by_vectors = {"image": np.zeros(given["image"].shape), "text": np.zeros(given["text"].shape)}
    by_vectors["image"][valid] = scale * slopes @ text
    by_vectors["text"][valid] = scale * slopes.T @ image
    found = {"value": value, **by_vectors, "log_scale": scale * np.sum(slopes * similarities)}
    if loss == "sigmoid":
        found["bias"] = slopes.sum()
    return {name: x / len(image) for name, x in found.items()}


@functools.cache
def gradient(loss: str, form: str) -> Any:
    """(vectors, scalars, who the rows are) -> (value, gradients), jitted, on all devices."""
    mesh, objective = make_mesh(), LOSSES[loss](comparison=form)

    def mean(vectors: Any, scalars: Any, who: Any) -> Any:
        with activations(mesh):
            return objective.compare({**vectors, **who}, scalars, ()).mean()

    rows, whole = batch_sharding(mesh), replicated(mesh)
    return jax.jit(
        jax.value_and_grad(mean, argnums=(0, 1)),
        in_shardings=(rows, whole, rows),
        out_shardings=(whole, (rows, whole)),
    )


def arguments(given: dict[str, np.ndarray], scale: float) -> tuple[Any, Any, Any]:
    """The arguments of `gradient`, on the devices."""
    placed = jax.device_put(given, batch_sharding(make_mesh()))
    vectors = {name: placed.pop(name) for name in ("image", "text")}
    scalars = {"log_scale": np.float32(np.log(scale)), "bias": np.float32(BIAS)}
    return vectors, jax.device_put(scalars, replicated(make_mesh())), placed


def accuracy(loss: str, kind: str, scale: float, batch: int, dim: int) -> dict[str, Any]:
    """How far both forms are from float64."""
    given = made_up(kind, batch, dim)
    expected = exact(loss, given, np.float32(np.log(scale)))
    line: dict[str, Any] = {"benchmark": "ring", "loss": loss, "kind": kind, "scale": scale}
    line |= {"batch": batch, "dim": dim, "devices": DEVICES}
    for form in FORMS:
        value, (by_vectors, by_scalars) = gradient(loss, form)(*arguments(given, scale))
        found = {"value": value, **by_vectors, **by_scalars}
        line[form] = {
            name: float(f"{np.abs(np.float64(found[name]) - x).max() / np.abs(x).max():.1e}")
            for name, x in expected.items()
        }
    return line


def speed(loss: str, batch: int, dim: int, turns: int) -> dict[str, Any]:
    """Seconds and memory of both forms."""
    given = arguments(made_up("random", batch, dim), 1 / 0.07)
    line: dict[str, Any] = {"benchmark": "ring", "loss": loss, "batch": batch, "dim": dim}
    line |= {"devices": DEVICES, "turns": turns}
    programs = {form: gradient(loss, form).lower(*given).compile() for form in FORMS}
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for turn in range(turns + 1):
        for form in FORMS if turn % 2 else reversed(FORMS):
            start = time.perf_counter()
            jax.block_until_ready(programs[form](*given))
            if turn:  # the first warms up
                seconds[form].append(time.perf_counter() - start)
    for form in FORMS:
        line[form] = {
            "seconds": round(statistics.median(seconds[form]), 4),
            "lowest": round(min(seconds[form]), 4),
            "highest": round(max(seconds[form]), 4),
            "temporary_bytes": programs[form].memory_analysis().temp_size_in_bytes,
            "flops": step_flops(gradient(loss, form), *given),
        }
    ratios = [ring / gather for ring, gather in zip(*(seconds[form] for form in FORMS))]
    line["ring_over_gather_seconds"] = round(statistics.median(ratios), 2)
    memory = [line[form]["temporary_bytes"] for form in FORMS]
    line["ring_over_gather_bytes"] = round(memory[0] / memory[1], 4)
    return line | {"load_average": round(os.getloadavg()[0], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument("--dim", type=int, default=512, help="of the embeddings that are timed")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    if any(batch < 1 or batch % DEVICES for batch in options.batches):
        parser.error(f"--batches are multiples of the {DEVICES} devices, not {options.batches}")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    for loss in (name for name in options.losses if name in ("softmax", "sigmoid")):
        for kind in ("random", "aligned"):
            for scale in (1.0, 10.0, 100.0):
                print(json.dumps(accuracy(loss, kind, scale, batch=1000, dim=64)), flush=True)
    for loss in options.losses:
        for batch in options.batches:
            print(json.dumps(speed(loss, batch, options.dim, options.turns)), flush=True)


if __name__ == "__main__":
    main()
