"""What loading a model costs beside a plain copy of its arrays: seconds, and memory for a while.

    python benchmarks/load_weights.py                            # some minutes on 2 cores
    python benchmarks/load_weights.py --size tiny --turns 1      # proves that it works

A CLIP of the size asked for is made with random numbers, as a folder in Hugging Face layout
('published') and as a checkpoint of ours ('workdir'). One JSON line for each:
  bytes                      of the arrays
  memory_over_largest_array  highest resident memory during `mmjax.load`, less what is resident when
                             it is done, divided by the largest array of ours (a stack of layers is
                             one); wanted: 1.3 at most
  time_over_copy             seconds of `mmjax.load`, divided by those in which the safetensors
                             library gives all arrays of the published file, nothing done with
                             them; wanted: 2 at most
  time_over_bytes            the same, divided by the seconds of reading the files' bytes into
                             memory, which nothing can undercut
A checkpoint of ours is verified byte by byte, which is part of its seconds. Each turn is a fresh
process that has imported everything and started JAX. It takes each of the three three times, in
turn: the first load is the one whose memory is told, the best of three is the turn's time for each,
and what is printed are medians (lowest to highest) over turns.
"""

import argparse
import ctypes
import gc
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from safetensors import safe_open

import mmjax
from mmjax import paths
from mmjax.config import spec, to_json
from mmjax.interop.families import clip
from mmjax.interop.reading import abstract
from mmjax.interop.rows import write
from mmjax.interop.tensors import save_safetensors
from mmjax.models.dual.two_tower import TwoTower, clip_vit_b32, clip_vit_l14
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.preprocess import Contract
from mmjax.training.checkpoint import Checkpoints

LOADS = 3  # a turn
SIZES = ("tiny", "b32", "l14")
FORMS = ("published", "workdir")
MOST_MEMORY, MOST_TIME = 1.3, 2.0  # what is wanted


def fields_of(size: str) -> dict[str, Any]:
    """Fields of a CLIP and of its two towers."""
    fields = clip_vit_l14() if size == "l14" else clip_vit_b32()
    if size == "tiny":
        small = {"dim": 64, "depth": 2, "num_heads": 2, "mlp_dim": 128}
        fields["image"] |= {**small, "image_size": 32, "patch_size": 8}
        fields["text"] |= {**small, "vocab_size": 512, "eos_id": 511, "length": 16}
    return fields


def make(folder: pathlib.Path, size: str) -> None:
    """Writes the model in both forms below a folder."""
    fields = fields_of(size)
    towers = {
        "image": spec(ViT, **fields["image"]),
        "text": spec(TextTransformer, **fields["text"]),
    }
    built = {"image": ViT(**fields["image"]), "text": TextTransformer(**fields["text"])}
    model = TwoTower(**built, **fields["model"])
    generator = np.random.default_rng(0)
    arrays = {
        path: generator.standard_normal(shape, np.float32) / 50
        for path, shape in abstract(model).items()
    }
    published = folder / "published"
    published.mkdir(parents=True)
    (published / "config.json").write_text(json.dumps(clip.FAMILY.config(model)))
    save_safetensors(published / "model.safetensors", write(clip.table(model), arrays))
    state = paths.unflatten({path: jax.numpy.asarray(array) for path, array in arrays.items()})
    config = ConfigDict({"model": spec(TwoTower, **towers, **fields["model"])})
    files = {
        "config.json": to_json(config).encode(),
        "preprocess.json": Contract(image_size=model.image.image_size).to_json().encode(),
    }
    checkpoints = Checkpoints(folder / "workdir" / "checkpoints")
    checkpoints.save(1, state, files)
    checkpoints.wait()


def copied(file: pathlib.Path) -> list[np.ndarray]:
    """All arrays of a .safetensors file, by the format's own library."""
    with safe_open(str(file), framework="numpy") as handle:
        return [handle.get_tensor(name) for name in handle.offset_keys()]


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes; what it returns is let go."""
    begun = time.perf_counter()
    held = call()
    taken = time.perf_counter() - begun
    del held
    give_back()
    return taken


def resident(word: str) -> int:
    """Bytes that /proc/self/status tells: VmRSS is now, VmHWM the most since it was set back."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(word))


def give_back() -> None:
    """Frees what nobody holds, down to the system."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def measured(source: pathlib.Path) -> dict[str, float]:
    """One turn, in this process."""
    files = [file for file in source.rglob("*") if file.is_file()]
    published = source.parent / "published" / "model.safetensors"
    load = mmjax.load  # imports what it needs
    jax.block_until_ready(jax.device_put(np.zeros(8)))
    times: dict[str, list[float]] = {"copy": [], "bytes": [], "load": []}
    found: dict[str, float] = {}
    for turn in range(LOADS):
        times["copy"].append(seconds(lambda: copied(published)))
        times["bytes"].append(seconds(lambda: [np.fromfile(file, np.uint8) for file in files]))
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the highest is now
        begun = time.perf_counter()
        loaded = load(source)
        times["load"].append(time.perf_counter() - begun)
        if not turn:
            highest = resident("VmHWM")
            give_back()
            sizes = [leaf.nbytes for leaf in jax.tree.leaves(loaded.params)]
            found = {"size": sum(sizes), "largest": max(sizes)}
            found["memory"] = (highest - resident("VmRSS")) / max(sizes)
        del loaded
        give_back()
    return {**found, **{name: min(values) for name, values in times.items()}}


def spread(values: list[float]) -> dict[str, float]:
    """The median with the lowest and highest."""
    found = {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="b32", help="CLIP ViT-B/32 or ViT-L/14")
    parser.add_argument("--turns", type=int, default=5, help="fresh processes for each form")
    parser.add_argument("--one", metavar="SOURCE", help="one turn in this process, for the others")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(pathlib.Path(options.one))))
        return
    command = [sys.executable, __file__, "--one"]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        make(folder, options.size)
        turns: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
        for _ in range(options.turns):
            for form in FORMS:
                source = str(folder / form)
                done = subprocess.run([*command, source], stdout=subprocess.PIPE, check=True)
                turns[form].append(json.loads(done.stdout))
    for form, found in turns.items():
        line = {
            "benchmark": "load_weights",
            "form": form,
            "size": options.size,
            "bytes": found[0]["size"],
            "largest_array_bytes": found[0]["largest"],
            "memory_over_largest_array": spread([one["memory"] for one in found]),
            "target_memory": MOST_MEMORY,
            "load_seconds": spread([one["load"] for one in found]),
            "time_over_copy": spread([one["load"] / one["copy"] for one in found]),
            "target_time": MOST_TIME,
            "time_over_bytes": spread([one["load"] / one["bytes"] for one in found]),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
