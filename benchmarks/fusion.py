"""How fast the cross-modal models train, beside the same models of transformers.

    pip install -e '.[peers]'                   # this script's own extra
    python benchmarks/fusion.py                 # three models, float32, about 10 minutes on 2 cores

One JSON line for each model. A side is the whole training step of question answering: forward,
backward, the gradient cut to a length of one, AdamW. Both sides are made of one config of
transformers at the published base size, without dropout, and get the same random questions,
regions or pictures and answers; the loss is the class's own, which `Answering` equals. Ours is the
step that training runs (preprocessing, norms, counters and the skip of bad updates included). Each
side lives in a process of its own and they take turns, a block of steps each; rates are medians
over the blocks, ratios medians over the turns, with the lowest and highest beside.
"""

import argparse
import json
import os
import statistics
import sys
import time
from typing import Any

import numpy as np
from sides import (
    BATCHES,
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

SIDES = ("ours", "transformers")
RATE, DECAY = 1e-4, 0.01
WORDS, LENGTH, REGIONS = 30_522, 20, 36
SMALL = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 200}
PLAIN = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "vocab_size": WORDS}
# Fields of transformers' config, the rows of a batch, and the form of the loss.
MODELS: dict[str, dict[str, Any]] = {
    "visualbert": {
        "class": "VisualBert",
        "config": {**PLAIN, "visual_embedding_dim": 2048, "num_labels": 3129},
        "small": {**SMALL, "visual_embedding_dim": 16, "num_hidden_layers": 1, "num_labels": 9},
        "batch": 8,
        "form": "kl",
    },
    "lxmert": {
        "class": "Lxmert",
        "config": {**PLAIN, "num_qa_labels": 3129, "visual_feat_dim": 2048},
        "small": {**SMALL, "l_layers": 1, "x_layers": 1, "r_layers": 1, "visual_feat_dim": 16}
        | {"num_qa_labels": 9},
        "batch": 8,
        "form": "kl",
    },
    "vilt": {
        "class": "Vilt",
        "config": {**PLAIN, "image_size": 384, "patch_size": 32, "num_labels": 3129},
        "small": {**SMALL, "image_size": 64, "num_hidden_layers": 1, "num_labels": 9},
        "batch": 4,
        "form": "binary",
    },
}


def config_of(name: str, trial: bool) -> dict[str, Any]:
    """The fields of transformers' config."""
    known = MODELS[name]
    return {**known["config"], **(known["small"] if trial else {})}


def inputs(name: str, trial: bool, number: int) -> list[dict[str, np.ndarray]]:
    """Batches of words of ours, the same for every side."""
    config, rows = config_of(name, trial), MODELS[name]["batch"]
    answers = config.get("num_labels", config.get("num_qa_labels"))
    rng, made = np.random.default_rng(0), []
    for _ in range(number):
        lengths = rng.integers(LENGTH // 2, LENGTH + 1, rows)
        mask = np.arange(LENGTH) < lengths[:, None]
        ids = np.where(mask, rng.integers(1, config["vocab_size"], (rows, LENGTH)), 0)
        batch = {
            "token_ids": ids.astype(np.int32),
            "text_mask": mask,
            "answer_scores": np.eye(answers, dtype=np.float32)[rng.integers(0, answers, rows)],
        }
        if name == "vilt":
            side = config["image_size"]
            batch["image"] = rng.integers(0, 256, (rows, side, side, 3), np.uint8)
        else:
            width = config.get("visual_embedding_dim", config.get("visual_feat_dim"))
            batch["regions"] = rng.standard_normal((rows, REGIONS, width), np.float32)
            batch["region_mask"] = np.ones((rows, REGIONS), bool)
        if name == "lxmert":
            corners = np.sort(rng.random((rows, REGIONS, 2, 2), np.float32), axis=2)
            batch["boxes"] = corners.reshape(rows, REGIONS, 4)
        made.append(batch)
    return made


def our_step(name: str, trial: bool) -> Step:
    """Ours, compiled as a run compiles it."""
    import importlib

    import jax

    from mmjax.data.device import to_devices
    from mmjax.data.sources.base import CAUSES
    from mmjax.objectives.answering import Answering
    from mmjax.parallel.layout import WHOLE
    from mmjax.parallel.mesh import make_mesh
    from mmjax.parallel.sharding import batch_sharding
    from mmjax.preprocess import Contract
    from mmjax.training.compiled import Compiled
    from mmjax.training.optimizers.adamw import AdamW
    from mmjax.training.schedules import constant
    from mmjax.training.step import Goal, Recipe
    from mmjax.typing import View

    config = config_of(name, trial)
    labels = config.pop("num_labels", None)
    if labels is not None:
        config["id2label"] = {str(n): str(n) for n in range(labels)}
    kind = f"{MODELS[name]['class']}ForQuestionAnswering"
    family = importlib.import_module(f"mmjax.interop.families.{name}").FAMILY
    model = family.model({**config, "architectures": [kind]})
    plain = {"scan": False, "remat": "none"}  # XLA's CPU programs cut stacked arrays apart
    towers = ("stream",) if hasattr(model, "stream") else ("text", "image")
    changed = {tower: getattr(model, tower).clone(parent=None, **plain) for tower in towers}
    model = model.clone(parent=None, **changed)
    batches = inputs(name, trial, BATCHES)
    rows = MODELS[name]["batch"]
    for batch in batches:
        batch["row"] = np.arange(rows, dtype=np.int32)
        batch["valid"] = np.ones(rows, bool)
        batch["sample_id"] = np.zeros((rows, 2), np.int32)
        batch["bad_samples"] = np.zeros((rows, len(CAUSES)), np.int32)
    seen = [w for w in ("regions", "boxes", "region_mask", "image") if w in batches[0]]
    fuse = View("fuse", ("token_ids", "text_mask", *seen))
    recipe = Recipe(
        model,
        {"answers": Goal(Answering(fuse, MODELS[name]["form"]))},
        AdamW(constant(RATE), b2=0.999, weight_decay=DECAY, clip_norm=1.0),
        Contract(image_size=config.get("image_size", 224), sequence_length=LENGTH),
        seed=0,
    )
    shapes = {word: (value.shape, value.dtype) for word, value in batches[0].items()}
    mesh = make_mesh(devices=jax.devices()[:1])
    compiled = Compiled(recipe, mesh, {"main": shapes}, WHOLE)
    placed = [{"main": to_devices(batch, batch_sharding(mesh))} for batch in batches]
    stop = jax.numpy.zeros((1,), jax.numpy.int32)
    held = {"state": compiled.init()}

    def run(steps: int) -> None:
        state = held.pop("state")
        for number in range(steps):
            state, metrics = compiled.step(state, placed[number % BATCHES], stop)
        jax.block_until_ready((state, metrics))
        if not np.isfinite(metrics["loss"]):
            raise SystemExit("our loss is not finite")
        held["state"] = state

    return Step(run, resident_bytes)


def their_batch(name: str, batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """A batch by the names of transformers' arguments."""
    import torch

    made = {
        "input_ids": torch.from_numpy(batch["token_ids"]).long(),
        "attention_mask": torch.from_numpy(batch["text_mask"]).long(),
        "labels": torch.from_numpy(batch["answer_scores"]),
    }
    if name == "vilt":
        pixels = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).float() / 127.5 - 1
        side = batch["image"].shape[1]
        mask = torch.ones(len(pixels), side, side, dtype=torch.long)
        return made | {"pixel_values": pixels.contiguous(), "pixel_mask": mask}
    regions = torch.from_numpy(batch["regions"])
    mask = torch.from_numpy(batch["region_mask"]).long()
    if name == "visualbert":
        return made | {"visual_embeds": regions, "visual_attention_mask": mask}
    made["labels"] = made["labels"].argmax(1)
    return made | {
        "visual_feats": regions,
        "visual_pos": torch.from_numpy(batch["boxes"]),
        "visual_attention_mask": mask.float(),
    }


def their_step(name: str, trial: bool) -> Step:
    """The model of transformers in a plain loop."""
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    kind = MODELS[name]["class"]
    config = getattr(transformers, f"{kind}Config")(**config_of(name, trial))
    model = getattr(transformers, f"{kind}ForQuestionAnswering")(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, foreach=True)
    batches = [their_batch(name, batch) for batch in inputs(name, trial, BATCHES)]

    def run(steps: int) -> None:
        for number in range(steps):
            loss = model(**batches[number % BATCHES]).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        if not np.isfinite(loss.item()):
            raise SystemExit("the peer's loss is not finite")

    return Step(run, resident_bytes)


def work(side: str, name: str, trial: bool) -> None:
    """The side's process."""
    if side == "ours":
        from mmjax.parallel.cpu import keep_freed_memory

        keep_freed_memory()  # as the trainer does
    make = our_step if side == "ours" else their_step
    serve(lambda: make(name, trial))


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The rates of all sides of one model."""
    command = [sys.executable, os.path.abspath(__file__), "--models", name]
    command += ["--trial"] * options.trial + ["--work"]
    running = {side: Side([*command, side]) for side in options.sides}  # one after the other
    steps = {side: steps_of_a_block(one, options.block_seconds) for side, one in running.items()}
    rates: dict[str, list[float]] = {side: [] for side in options.sides}
    by_cpu: dict[str, list[float]] = {side: [] for side in options.sides}
    rows, load = MODELS[name]["batch"], []
    for turn in range(options.turns):
        for side in in_turn(options.sides, turn):
            seconds = running[side].seconds(steps[side])
            rates[side].append(rows * steps[side] / seconds)
            by_cpu[side].append(rows * steps[side] / running[side].cpu_seconds)
            time.sleep(PAUSE_SECONDS)
        load.append(os.getloadavg()[0])
    for process in running.values():
        process.close()
    result: dict[str, Any] = {"benchmark": "fusion", "model": name, "batch": rows}
    for side in options.sides:
        rate = spread(rates[side], 3)
        result[side] = {
            "examples_per_second": rate.pop("median"),
            **rate,
            "per_cpu_second": spread(by_cpu[side], 3)["median"],
            "first_step_seconds": round(running[side].first, 1),
            "peak_rss_bytes": running[side].peak,
        }
    if len(options.sides) == 2:
        result["ours_over_transformers"] = {
            "by_clock": ratios(rates["ours"], rates["transformers"]),
            "by_cpu": ratios(by_cpu["ours"], by_cpu["transformers"]),
        }
    cores = len(os.sched_getaffinity(0))
    return result | {
        "cores": cores,
        "turns": options.turns,
        "load_average": round(statistics.median(load), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--turns", type=int, default=7, help="blocks of steps of each side")
    parser.add_argument("--block-seconds", type=float, default=5.0, help="length of a block")
    parser.add_argument("--cores", type=int, nargs="*", help="of the machine, for all sides")
    parser.add_argument("--trial", action="store_true", help="tiny models: proves that it works")
    parser.add_argument("--work", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.models[0], options.trial)
        return
    if options.cores:
        os.sched_setaffinity(0, options.cores)
    for name in options.models:
        print(json.dumps(measure(name, options)), flush=True)


if __name__ == "__main__":
    main()
