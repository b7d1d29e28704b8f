"""Whether our training learns as much from the same samples as open_clip's model and loss.

    pip install -e '.[peers]'                   # this script's own extra
    python benchmarks/quality.py --flickr8k=DIR --emoji=DIR --results=quality.jsonl
    python benchmarks/quality.py --flickr8k=DIR --emoji=DIR --trial   # minutes, proves it works

A folder holds WebDataset tars with 'train' and 'val' in their names. Both sides are a CLIP of 6
layers, width 192, at 64 pixels, and are fed the same crops, the same tokens (of open_clip's BPE)
in the same order, with the same rates: AdamW, cosine, batch 128, float32. First each side's peak
rate is chosen: the best of three after 2 epochs of one seed on flickr8k. Then three seeds, 10
epochs on flickr8k and 5 on emoji; about two hours on 2 cores. One JSON line a run is appended to
the results and runs that are there are not made again; the last line printed is the summary.

The number is text→image R@10 on val, over all captions: right is the caption's photo (flickr8k) or
any picture of its concept (emoji), ties count against the model, and what a random order would
reach for the same positives stands beside it. Wanted: five times chance on flickr8k, twice on
emoji, and a mean no lower than open_clip's less the standard error of the difference.
"""

import argparse
import dataclasses
import glob
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import peer

from mmjax.data.dataset import Dataset
from mmjax.data.fields import Fields
from mmjax.data.pipeline import BatchMaker, Reading, batches
from mmjax.data.rows import training_rows
from mmjax.data.tokenizers.base import Tokenizer
from mmjax.data.transforms.captions import PickCaption, clean_caption
from mmjax.data.transforms.image import RandomResizedCrop
from mmjax.data.transforms.resize import Resize
from mmjax.data.transforms.text import Tokenize
from mmjax.evaluation.metrics import retrieval
from mmjax.training.schedules import cosine

SIDES = ("ours", "open_clip")
RATES = (5e-4, 1e-3, 2e-3)
SEEDS = (0, 1, 2)
BATCH = 128
EPOCHS = {"flickr8k": 10, "emoji": 5}
TIMES_CHANCE = {"flickr8k": 5.0, "emoji": 2.0}
GROUPS = {"flickr8k": "__key__", "emoji": "json:unified"}
SIZE = peer.Size(64, 8, image_width=192, text_width=192, depth=6, length=32, embed_dim=192)
MEASURED = "text_to_image_R@10"


class OpenClipBpe(Tokenizer):
    """open_clip's BPE, whose vocabulary comes with that package."""

    def __init__(self) -> None:
        self._bpe = peer.load_open_clip().SimpleTokenizer()
        self.vocab_size = self._bpe.vocab_size
        self.bos_id, self.eos_id = self._bpe.sot_token_id, self._bpe.eot_token_id
        self.pad_id = 0

    def encode(self, text: str) -> list[int]:
        return self._bpe.encode(text)

    def content(self) -> bytes:
        return b"open_clip"

    def special_tokens(self) -> dict[str, int]:
        return {"<start_of_text>": self.bos_id, "<end_of_text>": self.eos_id}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training, and what makes it the same as one that is finished."""

    phase: str
    data: str
    side: str
    seed: int
    rate: float
    epochs: float

    def words(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def shards(folder: str, split: str) -> str:
    """The tars of a split, as a `Dataset` takes them."""
    found = sorted(glob.glob(os.path.join(folder, f"*{split}*.tar")))
    if not found:
        raise SystemExit(f"{folder!r} holds no tar with {split!r} in its name.")
    return " ".join(found)


def training_batches(
    run: Run, folder: str, tokenize: Tokenize
) -> tuple[BatchMaker, int, Iterator[Any]]:
    """The maker, the number of steps, and the batches; the same for both sides."""
    crop = RandomResizedCrop(SIZE.image_size, scale=(0.9, 1.0))
    dataset = Dataset(
        path=shards(folder, "train"),
        fields=Fields(group_from=GROUPS[run.data]),
        transforms=(PickCaption(), crop, tokenize),
    )
    maker = BatchMaker(training_rows((dataset,), run.seed, "main"), BATCH, 0, 1, threads=1)
    steps = max(2, int(run.epochs * len(dataset.source)) // BATCH)
    return maker, steps, batches(maker, 0, steps, Reading(threads=1))


def held_out(run: Run, folder: str, tokenize: Tokenize) -> dict[str, np.ndarray]:
    """Pictures, the tokens of all their captions, and the groups of both."""
    dataset = Dataset(path=shards(folder, "val"), fields=Fields(group_from=GROUPS[run.data]))
    resize, rng = Resize(SIZE.image_size, form="squash"), np.random.default_rng(0)
    numbers: dict[str, int] = {}
    image, image_group, tokens, text_group = [], [], [], []
    for position in range(len(dataset.source)):
        sample = dataset.fields(dataset.source[position])
        group = numbers.setdefault(str(sample["group"]), len(numbers))
        image.append(resize(sample, rng)["image"])
        image_group.append(group)
        for caption in sample["captions"]:
            tokens.append(tokenize.encode(clean_caption(caption))[0])
            text_group.append(group)
    return {
        "image": np.stack(image),
        "image_group": np.array(image_group),
        "token_ids": np.stack(tokens),
        "text_group": np.array(text_group),
    }


def train_ours(run: Run, maker: BatchMaker, steps: int, feed: Iterator[Any]) -> tuple[Any, float]:
    """(function that embeds, last loss)."""
    import jax

    from mmjax import preprocess
    from mmjax.data.device import to_devices
    from mmjax.parallel.cpu import keep_freed_memory
    from mmjax.parallel.layout import WHOLE
    from mmjax.parallel.mesh import make_mesh
    from mmjax.parallel.sharding import batch_sharding
    from mmjax.training.compiled import Compiled

    keep_freed_memory()
    schedule = cosine(run.rate, steps, warmup_steps=steps // 10)
    recipe = peer.our_recipe(SIZE, schedule, seed=run.seed, positives=("group",))
    mesh = make_mesh(devices=jax.devices()[:1])
    compiled = Compiled(recipe, mesh, {"main": maker.global_shapes}, WHOLE)
    state, metrics, stop = compiled.init(), None, jax.numpy.zeros((1,), jax.numpy.int32)
    for batch in feed:
        jax.block_until_ready(metrics)
        placed = to_devices(batch, batch_sharding(mesh))
        state, metrics = compiled.step(state, {"main": placed}, stop)
    loss, params = float(metrics["loss"]), {"params": state.params}

    @jax.jit
    def encode_image(image: Any) -> Any:
        words = preprocess.preprocess({"image": image}, recipe.contract)
        return recipe.model.apply(params, **words, method="encode_image").embedding

    @jax.jit
    def encode_text(token_ids: Any) -> Any:
        words = {"token_ids": token_ids, "text_mask": token_ids > 0}
        return recipe.model.apply(params, **words, method="encode_text").embedding

    def embeddings(image: np.ndarray, token_ids: np.ndarray) -> tuple[np.ndarray, ...]:
        made = []
        for encode, rows in ((encode_image, image), (encode_text, token_ids)):
            parts = []
            for start in range(0, len(rows), 256):
                part = rows[start : start + 256]
                filled = np.concatenate([part, np.repeat(part[-1:], 256 - len(part), 0)])
                parts.append(np.asarray(encode(filled))[: len(part)])
            made.append(np.concatenate(parts))
        return tuple(made)

    return embeddings, loss


def train_theirs(run: Run, steps: int, feed: Iterator[Any]) -> tuple[Any, float]:
    """(function that embeds, last loss)."""
    step = peer.TheirStep(SIZE, seed=run.seed)
    rates = np.asarray(cosine(run.rate, steps, warmup_steps=steps // 10)(np.arange(steps)))
    for batch, rate in zip(feed, rates, strict=True):
        loss = step(*step.batch(batch["image"], batch["token_ids"]), rate=float(rate))
    return step.embeddings, loss.item()


def work(run: Run, folder: str) -> dict[str, Any]:
    """Trains and measures one run."""
    tokenize = Tokenize(OpenClipBpe(), SIZE.length, bos=True, eos=True)
    maker, steps, feed = training_batches(run, folder, tokenize)
    start = time.perf_counter()
    if run.side == "ours":
        embeddings, loss = train_ours(run, maker, steps, feed)
    else:
        embeddings, loss = train_theirs(run, steps, feed)
    seconds = time.perf_counter() - start
    held = held_out(run, folder, tokenize)
    image, text = embeddings(held["image"], held["token_ids"])
    groups = held["text_group"], held["image_group"]
    found = retrieval.summary(
        retrieval.ranks(text, image, *groups), retrieval.positives(*groups), len(image)
    )
    return {
        "benchmark": "quality",
        **run.words(),
        "steps": steps,
        "samples": steps * BATCH,
        **{f"text_to_image_{name}": found[name] for name in sorted(found) if name[:2] == "R@"},
        "pictures": len(image),
        "texts": len(text),
        "last_loss": loss,
        "seconds": round(seconds, 1),
        "samples_per_second": round(steps * BATCH / seconds, 1),
    }


class Results:
    """The file of finished runs."""

    def __init__(self, path: pathlib.Path, folders: dict[str, str]):
        self.path, self.folders = path, folders
        lines = path.read_text().splitlines() if path.exists() else []
        self.lines = [json.loads(line) for line in lines]

    def get(self, run: Run) -> dict[str, Any]:
        """The line of a run, which is made now if it is not there."""
        words = run.words()
        for line in self.lines:
            if words.items() <= line.items():
                return line
        command = [sys.executable, os.path.abspath(__file__), "--work", json.dumps(words)]
        command += [f"--{name}={folder}" for name, folder in self.folders.items()]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{words} ended with exit code {done.returncode}.")
        line = json.loads(done.stdout.splitlines()[-1])
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)
        print(json.dumps(line), flush=True)
        return line


def summary(found: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """Means, standard errors and targets, from {data: {side: lines of its seeds}}."""
    result: dict[str, Any] = {"benchmark": "quality_summary", "measured": MEASURED}
    for data, sides in found.items():
        values = {side: [line[MEASURED] for line in lines] for side, lines in sides.items()}
        mean = {side: statistics.fmean(of) for side, of in values.items()}
        number = len(values["ours"])
        spread = {side: statistics.stdev(of) if number > 1 else 0.0 for side, of in values.items()}
        error = math.sqrt(sum(deviation**2 for deviation in spread.values()) / number)
        chance = sides["ours"][0][f"{MEASURED}_chance"]
        result[data] = {
            **{side: [round(value, 4) for value in of] for side, of in values.items()},
            **{f"{side}_mean": round(of, 4) for side, of in mean.items()},
            "chance": round(chance, 4),
            "ours_over_chance": round(mean["ours"] / chance, 2),
            "target_over_chance": TIMES_CHANCE[data],
            "difference": round(mean["ours"] - mean["open_clip"], 4),
            "standard_error_of_difference": round(error, 4),
            "passed": mean["ours"] >= TIMES_CHANCE[data] * chance
            and mean["ours"] >= mean["open_clip"] - error,
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flickr8k", required=True, help="folder of tars")
    parser.add_argument("--emoji", required=True, help="folder of tars")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("quality.jsonl"))
    parser.add_argument("--trial", action="store_true", help="a few steps of each kind of run")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folders = {"flickr8k": options.flickr8k, "emoji": options.emoji}
    if options.work:
        run = Run(**json.loads(options.work))
        print(json.dumps(work(run, folders[run.data])))
        return
    rates, seeds, share = (RATES[1:2], SEEDS[:1], 0.0) if options.trial else (RATES, SEEDS, 1.0)
    results = Results(options.results, folders)
    best = {}
    for side in SIDES:
        tried = [results.get(Run("rate", "flickr8k", side, 0, r, 2 * share)) for r in rates]
        best[side] = max(tried, key=lambda line: line[MEASURED])["rate"]
    found = {
        data: {
            side: [
                results.get(Run("full", data, side, seed, best[side], epochs * share))
                for seed in seeds
            ]
            for side in SIDES
        }
        for data, epochs in EPOCHS.items()
    }
    print(json.dumps({**summary(found), "rates": best}), flush=True)


if __name__ == "__main__":
    main()
