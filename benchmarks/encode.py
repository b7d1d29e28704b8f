"""How many pictures and texts a loaded model encodes in a second, beside open_clip.

    pip install -e '.[peers]'                   # this script's own extra
    python benchmarks/encode.py
    python benchmarks/encode.py --sides ours ours_bfloat16 open_clip open_clip_bfloat16 --batch 1

One JSON line. A ViT-B/32 with random weights is written as an open_clip folder, which both sides
read: `mmjax.load` and open_clip's `CLIP`. Ours are `encode_image` and `encode_text` as anybody
calls them, with arrays of pixels and strings; open_clip's are its tokenizer, its model and unit
length. Pictures have the model's size already, and open_clip's are scaled as its transform scales
them, of which the rest needs torchvision. Each side lives in a process of its own and they take
turns; rates are medians over the turns, ratios medians of each turn's, with lowest and highest. On
a machine that does other things too, look at the seconds that the processes had (by_cpu), on one
core: who has more threads gets a larger part of the clock's.
"""

import argparse
import gzip
import importlib.util
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import peer
import same_tokens
from sides import (
    PAUSE_SECONDS,
    Side,
    Step,
    in_turn,
    ratios,
    resident_bytes,
    serve,
    spread,
    steps_of_a_block,
)

SIDES = ("ours", "ours_bfloat16", "open_clip", "open_clip_bfloat16")
BASE = peer.Size(224, 32, image_width=768, text_width=512, depth=12, length=77, embed_dim=512)
WORDS = "a the two dog cat man woman child red green blue runs sits jumps on over under grass water"
PEERS = {"ours": "open_clip", "ours_bfloat16": "open_clip_bfloat16"}
KINDS = ("image", "text")
Encode = Callable[[], np.ndarray]  # embeddings of the batch


def config_of(size: peer.Size) -> dict[str, Any]:
    """The open_clip_config.json of a size."""
    vision = {"layers": size.depth, "width": size.image_width, "patch_size": size.patch_size}
    text = {"layers": size.depth, "width": size.text_width, "heads": size.text_width // 64}
    return {
        "model_cfg": {
            "embed_dim": size.embed_dim,
            "vision_cfg": {**vision, "image_size": size.image_size},
            "text_cfg": {**text, "context_length": size.length, "vocab_size": size.vocab_size},
        },
        "preprocess_cfg": {},
    }


def write_folder(folder: pathlib.Path, trial: bool) -> None:
    """A model with random weights, and CLIP's tokenizer (of bytes alone for a trial)."""
    from mmjax.interop.families.open_clip import FAMILY
    from mmjax.interop.reading import abstract
    from mmjax.interop.rows import write
    from mmjax.interop.tensors import save_safetensors

    pairs: list[tuple[str, ...]] = []
    size = peer.Size(32, 16, 64, 64, 1, 16, 32, vocab_size=514, eos_id=513) if trial else BASE
    if not trial:
        found = importlib.util.find_spec("open_clip")
        file = pathlib.Path(found.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
        lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
        pairs = [tuple(line.split()) for line in lines[1 : same_tokens.PAIRS + 1]]
    config = config_of(size)
    model = FAMILY.model(config)
    rng, flat = np.random.default_rng(0), {}
    for path, shape in abstract(model).items():
        spread_of = 0.02 if len(shape) > 1 else 0.1
        flat[path] = (spread_of * rng.standard_normal(shape, np.float32)).astype(np.float32)
        if path.endswith("scale") and len(shape):
            flat[path] += 1
    save_safetensors(folder / "open_clip_model.safetensors", write(FAMILY.table(model), flat))
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    made = json.dumps(same_tokens.published(pairs))
    (folder / "tokenizer.json").write_text(made, encoding="utf-8")


def inputs(folder: pathlib.Path, kind: str, batch: int) -> list[Any]:
    """The same pictures or captions for every side."""
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    side, rng = config["vision_cfg"]["image_size"], np.random.default_rng(0)
    if kind == "image":
        return list(rng.integers(0, 256, (batch, side, side, 3), np.uint8))
    words = WORDS.split()
    return [" ".join(rng.choice(words, rng.integers(6, 16))) for _ in range(batch)]


def our_encode(folder: pathlib.Path, kind: str, batch: int, dtype: str) -> Encode:
    """Ours, as anybody calls it."""
    import mmjax

    loaded = mmjax.load(folder, dtype=dtype)
    given = inputs(folder, kind, batch)
    encode = loaded.encode_image if kind == "image" else loaded.encode_text
    return lambda: encode(given)


def their_encode(folder: pathlib.Path, kind: str, batch: int, dtype: str) -> Encode:
    """open_clip's, in inference mode."""
    open_clip = peer.load_open_clip()
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    model = open_clip.CLIP(**config)
    model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    precision = getattr(torch, dtype)
    model = model.to(precision).eval()
    tokenizer = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in (peer.CLIP_MEAN, peer.CLIP_STD))
    given = inputs(folder, kind, batch)

    @torch.inference_mode()
    def encode() -> np.ndarray:
        if kind == "text":
            return model.encode_text(tokenizer(given), normalize=True).float().numpy()
        pixels = torch.from_numpy(np.stack(given)).permute(0, 3, 1, 2).float().div_(255)
        pixels = pixels.sub_(mean).div_(std).to(precision)
        return model.encode_image(pixels, normalize=True).float().numpy()

    return encode


def work(options: argparse.Namespace) -> None:
    """A side's process: it also leaves what it made of the inputs beside the weights."""
    folder, kind, side = pathlib.Path(options.folder), options.kind, options.work
    dtype = "bfloat16" if side.endswith("bfloat16") else "float32"
    make = our_encode if side.startswith("ours") else their_encode

    def step() -> Step:
        encode = make(folder, kind, options.batch, dtype)
        np.save(folder / f"{kind}_{side}.npy", encode())

        def run(steps: int) -> None:
            for _ in range(steps):
                encode()

        return Step(run, resident_bytes)

    serve(step)


def measure(kind: str, folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """The rates of all sides for pictures or texts."""
    command = [sys.executable, os.path.abspath(__file__), "--folder", folder, "--kind", kind]
    command += ["--batch", str(options.batch), "--work"]
    running = {side: Side([*command, side]) for side in options.sides}  # one after the other
    rates: dict[str, list[float]] = {side: [] for side in options.sides}
    by_cpu: dict[str, list[float]] = {side: [] for side in options.sides}
    steps = {side: steps_of_a_block(one, options.block_seconds) for side, one in running.items()}
    for turn in range(options.turns):
        for side in in_turn(options.sides, turn):
            seconds = running[side].seconds(steps[side])
            rows = options.batch * steps[side]
            rates[side].append(rows / seconds)
            by_cpu[side].append(rows / running[side].cpu_seconds)
            time.sleep(PAUSE_SECONDS)
    for process in running.values():
        process.close()
    result: dict[str, Any] = {}
    for side in options.sides:
        rate = spread(rates[side], 2)
        result[side] = {
            "per_second": rate.pop("median"),
            **rate,
            "per_cpu_second": spread(by_cpu[side], 2)["median"],
            "peak_rss": running[side].peak,
        }
    if "open_clip" in options.sides:
        theirs = np.load(os.path.join(folder, f"{kind}_open_clip.npy"))
        for side in set(options.sides) - {"open_clip"}:
            ours = np.load(os.path.join(folder, f"{kind}_{side}.npy"))
            result[side]["largest_difference"] = float(np.abs(ours - theirs).max())
    for side, peer_of in PEERS.items():
        if {side, peer_of} <= set(options.sides):
            result[f"{side}_over_{peer_of}"] = {
                "by_clock": ratios(rates[side], rates[peer_of]),
                "by_cpu": ratios(by_cpu[side], by_cpu[peer_of]),
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["ours", "open_clip"])
    parser.add_argument("--batch", type=int, default=32, help="pictures or texts of a call")
    parser.add_argument("--turns", type=int, default=9, help="blocks of calls of each side")
    parser.add_argument("--block-seconds", type=float, default=3.0, help="length of a block")
    parser.add_argument("--cores", type=int, nargs="*", help="of the machine, for all sides")
    parser.add_argument("--trial", action="store_true", help="a tiny model: proves that it works")
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--work", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options)
        return
    if options.cores:
        os.sched_setaffinity(0, options.cores)
    if not options.trial:
        peer.check_installed()
    with tempfile.TemporaryDirectory() as folder:
        write_folder(pathlib.Path(folder), options.trial)
        line: dict[str, Any] = {"benchmark": "encode", "batch": options.batch}
        line |= {kind: measure(kind, folder, options) for kind in KINDS}
    line |= {"cores": len(os.sched_getaffinity(0)), "turns": options.turns}
    print(json.dumps(line | {"load_average": round(os.getloadavg()[0], 1)}), flush=True)


if __name__ == "__main__":
    main()
