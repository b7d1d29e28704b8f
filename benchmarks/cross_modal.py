"""What the cross-modal models learn from small data, one JSON line a run.

    python benchmarks/cross_modal.py --results=docs/cross_modal.jsonl --tables scenes fusion
    python benchmarks/cross_modal.py --results=docs/cross_modal.jsonl --tables easy-vqa \
        --easy-vqa='DIR/*.tar'
    python benchmarks/cross_modal.py --results=/tmp/trial.jsonl --tables scenes --steps 4

A run is a config of this file through the trainer: small models of one width, trained from nothing
on 2 cores in at most 8 minutes (15 on easy-VQA). Runs whose line stands already are not made
again. The picture side of VisualBERT, LXMERT and ViLBERT is the grid of a small CNN, trained with
them; ViLT has patches of 8 pixels. 'blind' runs are without the picture or without the text.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from blinded import NoPicture, NoText
from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.data.answers import Answers
from mmjax.data.dataset import Dataset
from mmjax.data.datasets.easy_vqa import EASY_VQA_ANSWERS, EasyVQA
from mmjax.data.datasets.scene_questions import SceneQuestions, scene_answers
from mmjax.data.datasets.scene_statements import SceneStatements
from mmjax.data.datasets.scenes import Scenes
from mmjax.data.fields import Fields
from mmjax.data.transforms.answers import AnswerScores
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.pictures import EachPicture
from mmjax.data.transforms.resize import Resize
from mmjax.data.transforms.text import Tokenize
from mmjax.evaluation.objectives import Objectives
from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.cnn import Cnn
from mmjax.models.encoders.regions import RegionTower
from mmjax.models.fusion.general import GeneralFusion
from mmjax.models.fusion.lxmert import Lxmert
from mmjax.models.fusion.pictured import Pictured
from mmjax.models.fusion.vilbert import Vilbert
from mmjax.models.fusion.vilt import Vilt, ViltStream
from mmjax.models.fusion.visualbert import VisualBert, VisualBertStream
from mmjax.objectives.answering import Answering
from mmjax.objectives.matching import Matching
from mmjax.objectives.reasoning import Reasoning
from mmjax.preprocess import Contract
from mmjax.run.options import Options
from mmjax.run.settings import base_config
from mmjax.run.training import train
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import cosine
from mmjax.training.step import Goal

FAMILIES = ("visualbert", "lxmert", "vilbert", "vilt")
FORMS = ("early", "late", "hierarchical")
TASKS = {"answers": "answer", "statements": "reasoning", "matching": "matching"}  # and the head
SIZE, LENGTH, WORDS, BATCH = 64, 24, 512, 64
WIDTH, HEADS = 128, 4
STEPS = {"answers": 2000, "statements": 2000, "matching": 2000, "easy-vqa": 3000}
FUSE = ("fuse", ("token_ids", "text_mask", "image"))
BLIND = ("", "picture", "text")  # what is taken away


@dataclasses.dataclass(frozen=True)
class Run:
    """One line of the results.

    Attributes:
      table: which it belongs to.
      task: of `STEPS`.
      model: of `FAMILIES` or `FORMS`.
      seed: of the run.
      steps: of the run.
      blind: of `BLIND`.
    """

    table: str
    task: str
    model: str
    seed: int
    steps: int
    blind: str = ""


def model_of(name: str, head: str, answers: int, config: ConfigDict) -> ConfigDict:
    """A small model with one head; all are equally wide and of about equal depth."""
    how = {"dim": WIDTH, "num_heads": HEADS, "mlp_dim": 4 * WIDTH, "scan": False, "remat": "none"}
    words = {"vocab_size": config.get_ref("vocab_size"), "length": LENGTH}
    heads = {"heads": (head,), "answers": answers}
    grid = spec(Cnn, channels=(32, 64, WIDTH))  # 64 pixels to 8 x 8 cells
    if name == "vilt":
        stream = spec(ViltStream, **words, **how, depth=4, image_size=SIZE, patch_size=8)
        return spec(Vilt, stream=stream, **heads)
    if name == "visualbert":
        stream = spec(VisualBertStream, **words, **how, depth=4, region_dim=WIDTH)
        fusion = spec(VisualBert, stream=stream, **heads)
    elif name == "lxmert":
        text = spec(Bert, **words, **how, depth=2, pooling="class")
        image = spec(RegionTower, **how, depth=1, feature_dim=WIDTH)
        fusion = spec(Lxmert, text=text, image=image, depth=2, **heads)
    elif name == "vilbert":
        text = spec(Bert, **words, **how, depth=2, pooling="class")
        image = spec(RegionTower, **how, depth=1, feature_dim=WIDTH, box_dim=5, join="sum")
        bridge = {"bridge_dim": WIDTH, "bridge_heads": HEADS}
        fusion = spec(Vilbert, text=text, image=image, depth=2, **bridge, **heads)
    else:
        text = spec(Bert, **words, **how, depth=2, pooling="mean")
        return spec(
            GeneralFusion, image=grid, text=text, embed_dim=WIDTH, form=name, depth=2, **heads
        )
    return spec(Pictured, image=grid, fusion=fusion, image_size=SIZE)


def data_of(run: Run, held_out: bool, folders: dict[str, str]) -> ConfigDict:
    """The training or the held-out data of a run."""
    split = "held_out" if held_out else "train"
    scenes = spec(Scenes, split=split, image_size=SIZE)
    cut: tuple[Any, ...] = (spec(Resize, size=SIZE),)
    after: tuple[Any, ...] = ()
    facts = ("question_type", "answer_type")
    if run.task == "easy-vqa":
        source = spec(EasyVQA, path=folders["easy-vqa"], split=split, held_out=500)
        fields = {"image_from": "png", "caption_from": "question", "answers_from": "answers"}
        names = EASY_VQA_ANSWERS
    elif run.task == "answers":
        source = spec(SceneQuestions, scenes=scenes)
        fields = {"image_from": "image", "caption_from": "question", "answers_from": "answers"}
        names = scene_answers()
    elif run.task == "statements":
        source = spec(SceneStatements, scenes=scenes)
        fields = {"images_from": ("left", "right"), "caption_from": "statement"}
        fields |= {"truth_from": "truth"}
        cut, facts = (spec(EachPicture, transforms=cut),), ("identifier",)
    else:
        source, fields, facts = scenes, {"image_from": "image"}, ()
    if "answers_from" in fields:
        answers = spec(Answers, names=tuple(names))
        after = (spec(AnswerScores, answers=answers, scoring="one"),)
    return spec(
        Dataset,
        source=source,
        fields=spec(Fields, facts_from=facts, **fields),
        transforms=(
            *cut,
            *((spec(NoPicture),) if run.blind == "picture" else ()),
            spec(PickCaption, first=held_out),
            *((spec(NoText),) if run.blind == "text" else ()),
            spec(Tokenize, partial=("tokenizer",), length=LENGTH, bos=True, eos=True),
            *after,
        ),
    )


def config_of(run: Run, folders: dict[str, str]) -> ConfigDict:
    """The config of a run."""
    config = base_config(run.steps, BATCH, run.seed, log_steps=100, save_steps=run.steps)
    config.vocab_size = WORDS
    config.tokenizer.vocab_size = config.get_ref("vocab_size")
    config.eval_batch_size = 256
    task = "answers" if run.task == "easy-vqa" else run.task
    answers = len(EASY_VQA_ANSWERS if run.task == "easy-vqa" else scene_answers())
    config.model = model_of(run.model, TASKS[task], answers, config)
    config.preprocess = spec(Contract, image_size=SIZE, sequence_length=LENGTH, bos=True, eos=True)
    config.data, config.eval_data = (data_of(run, held_out, folders) for held_out in (False, True))
    objective = {
        "answers": spec(Answering, fuse=FUSE, form="kl"),
        "statements": spec(Reasoning, fuse=FUSE),
        "matching": spec(Matching, fuse=FUSE),
    }[task]
    config.goals[task] = spec(Goal, objective=objective)
    config.optimizer = spec(
        AdamW,
        schedule=spec(cosine, peak=1e-3, steps=run.steps, warmup_steps=run.steps // 10),
        weight_decay=0.01,
    )
    config.evaluators.objectives = spec(Objectives)
    config.tensorboard = False
    config.lock()
    return config


def runs_of(table: str, steps: int | None) -> Iterator[Run]:
    """The runs of a table, those of most weight first."""

    def run(task: str, model: str, seed: int = 0, blind: str = "") -> Run:
        return Run(table, task, model, seed, steps or STEPS[task], blind)

    if table == "easy-vqa":
        yield from (run("easy-vqa", family) for family in FAMILIES)
        yield from (run("easy-vqa", "visualbert", seed) for seed in (1, 2))
        yield from (run("easy-vqa", "visualbert", 0, blind) for blind in BLIND[1:])
    elif table == "scenes":
        for task in TASKS:
            yield from (run(task, family) for family in FAMILIES)
        yield from (run("statements", "visualbert", seed) for seed in (1, 2))
        yield from (run(task, "visualbert", 0, b) for task in TASKS for b in BLIND[1:])
    else:
        yield from (run(task, form) for task in TASKS for form in FORMS)


def measure(run: Run, folders: dict[str, str]) -> dict[str, Any]:
    """Trains and evaluates in this process."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as workdir:
        numbers = train(config_of(run, folders), workdir, Options())
    seconds = round(time.perf_counter() - started, 1)
    kept = {k: round(v, 4) for k, v in numbers.items() if not k.endswith("_chance")}
    return {"benchmark": "cross_modal", **dataclasses.asdict(run), **kept, "seconds": seconds}


def is_line_of(run: Run, line: dict[str, Any]) -> bool:
    """Whether a line of the results is of a run."""
    told = dataclasses.asdict(run)
    return {name: line.get(name) for name in told} == told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", required=True, help="a file of JSON lines, appended to")
    parser.add_argument("--tables", nargs="+", choices=("easy-vqa", "scenes", "fusion"))
    parser.add_argument("--easy-vqa", default="", help="pattern of easy-VQA's .tar shards")
    parser.add_argument("--steps", type=int, default=None, help="of each run; for a trial")
    parser.add_argument("--only", nargs="*", default=[], help="models; by default all")
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folders = {"easy-vqa": options.easy_vqa}
    results = pathlib.Path(options.results)
    if options.work:
        line = json.dumps(measure(Run(**json.loads(options.work)), folders))
        with results.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        return
    if not options.tables:
        parser.error("--tables: name one or more of easy-vqa, scenes, fusion.")
    if "easy-vqa" in options.tables and not options.easy_vqa:
        parser.error("--easy-vqa: the table needs the pattern of its .tar shards.")
    for run in (one for table in options.tables for one in runs_of(table, options.steps)):
        lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
        known = any(is_line_of(run, json.loads(line)) for line in lines)
        if known or (options.only and run.model not in options.only):
            continue
        command = [sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--work"]
        subprocess.run([*command, json.dumps(dataclasses.asdict(run))], check=True)
        print(results.read_text(encoding="utf-8").splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
