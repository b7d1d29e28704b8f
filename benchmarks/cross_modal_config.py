"""The runs of `cross_modal.py` as configs: small models, their tasks, data, rates and steps."""

import dataclasses
import glob
import os
import pathlib
from typing import Any

from blinded import NoPicture, NoText
from ml_collections import ConfigDict

from mmjax.config import build, spec
from mmjax.data.answers import Answers
from mmjax.data.dataset import Dataset
from mmjax.data.datasets.answer_lists import answers_in
from mmjax.data.datasets.easy_vqa import EASY_VQA_ANSWERS, EasyVQA
from mmjax.data.datasets.nlvr import NLVR
from mmjax.data.datasets.question_lists import QuestionLists
from mmjax.data.datasets.scene_labels import SceneLabels
from mmjax.data.datasets.scene_questions import SceneQuestions, scene_answers
from mmjax.data.datasets.scene_regions import FEATURE_DIM
from mmjax.data.datasets.scene_statements import SceneStatements
from mmjax.data.datasets.scenes import Scenes
from mmjax.data.fields import Fields
from mmjax.data.sources.webdataset import WebDataset
from mmjax.data.tokenizers.training import train_bpe
from mmjax.data.transforms.answers import AnswerScores
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.pictures import EachPicture
from mmjax.data.transforms.regions import Regions
from mmjax.data.transforms.resize import Resize
from mmjax.data.transforms.text import Tokenize
from mmjax.evaluation.answering import Answering as JudgeAnswers
from mmjax.evaluation.matching import Matching as JudgeMatches
from mmjax.evaluation.reasoning import Reasoning as JudgeStatements
from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.regions import RegionTower
from mmjax.models.encoders.resnet import ResNet
from mmjax.models.fusion.lxmert import Lxmert
from mmjax.models.fusion.pictured import Pictured
from mmjax.models.fusion.vilbert import Vilbert
from mmjax.models.fusion.vilt import Vilt, ViltStream
from mmjax.models.fusion.visualbert import VisualBert, VisualBertStream
from mmjax.objectives.answering import Answering
from mmjax.objectives.matching import Matching
from mmjax.objectives.reasoning import Reasoning
from mmjax.preprocess import Contract
from mmjax.run.assembly import Stream
from mmjax.run.settings import base_config
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import cosine
from mmjax.training.step import Goal

FAMILIES = ("visualbert", "lxmert", "vilbert", "vilt")
SIZE, WORDS, BATCH = 64, 512, 32
# In 40 steps VisualBERT and LXMERT learn to pass over the picture before it says anything to them.
WARMUP = 300
# Of a run on drawn scenes, from whose weights another starts: statements alone teach nothing.
START = {"statements": "answers"}
# With one rate for all, what reads the texts is done before the picture's shapes are told apart. So
# the picture's encoder has the whole rate and the rest a part of it; ViLBERT a smaller one yet.
# Where regions say what is seen, less has to wait: half the rate, and all of it for the towers of
# LXMERT and ViLBERT that read regions.
PART, SEEING, TOLD = {"vilbert": 0.1}, 0.2, 0.5
WIDTH, HEADS = 128, 4
# Numbers of a region's box in each family's own form, for `Regions`.
BOXES = {"visualbert": "", "lxmert": "corners", "vilbert": "area"}
BLIND = ("", "picture", "text")  # what is taken away
SCENES = ("answers", "statements", "matching")  # tasks on drawn scenes
STEPS = {"answers": 4000, "statements": 3000, "matching": 1000, "easy-vqa": 5000}
STEPS |= {"nlvr": 500, "daquar": 500, "flickr8k": 1500}
SLOWER = {("lxmert", "statements"): 2000, ("vilbert", "statements"): 2000}  # two passes a row
SLOWER |= {("vilt", "answers"): 2000, ("vilt", "statements"): 1000}
FOLDERS = ("easy-vqa", "daquar", "nlvr", "flickr8k")
PHOTOS = ("nlvr", "daquar", "flickr8k")  # tasks whose texts people wrote
HEAD = {"answers": "answer", "easy-vqa": "answer", "daquar": "answer"}
HEAD |= {"statements": "reasoning", "nlvr": "reasoning"}


@dataclasses.dataclass(frozen=True)
class Run:
    """One line of the results.

    Attributes:
      table: which it belongs to.
      task: of `STEPS`, several with '+' between them.
      model: of `FAMILIES`.
      seed: of the run.
      steps: of the run.
      blind: of `BLIND`.
      start: the task from whose run, of the same model and seed, the weights come; '' for none.
    """

    table: str
    task: str
    model: str
    seed: int
    steps: int
    blind: str = ""
    start: str = ""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Each task by itself."""
        return tuple(self.task.split("+"))

    @property
    def length(self) -> int:
        """Tokens of a text; of a hundred texts at most six are longer."""
        return 24 if self.task in PHOTOS else 12 if self.task == "easy-vqa" else 16

    @property
    def name(self) -> str:
        """Of its workdir."""
        return f"{self.task}-{self.model}-{self.seed}-{self.steps}"

    @property
    def first(self) -> "Run":
        """The run that its weights come from."""
        steps = SLOWER.get((self.model, self.start), STEPS[self.start])
        return Run(self.table, self.start, self.model, self.seed, min(steps, 2 * self.steps))

    @property
    def regions(self) -> bool:
        """Whether the picture side is regions of drawn scenes."""
        return self.model in BOXES and set(self.tasks) <= set(SCENES)

    @property
    def fuse(self) -> tuple[str, tuple[str, ...]]:
        """The model's method and its words."""
        boxes = ("boxes",) if BOXES.get(self.model) else ()
        seen = ("regions", "region_mask", *boxes) if self.regions else ("image",)
        return "fuse", ("token_ids", "text_mask", *seen)


def model_of(run: Run, own: tuple[str, ...], answers: int, config: ConfigDict) -> ConfigDict:
    """A small model with some heads; all are equally wide and of about equal depth."""
    name, described = run.model, FEATURE_DIM if run.regions else WIDTH
    how = {"dim": WIDTH, "num_heads": HEADS, "mlp_dim": 4 * WIDTH, "scan": False, "remat": "none"}
    words = {
        "vocab_size": config.get_ref("vocab_size"),
        "length": config.preprocess.sequence_length,
    }
    heads = {"heads": own, "answers": answers}
    grid = spec(ResNet, block="basic", channels=(32, 64, WIDTH), depths=(1, 1, 1), stem_channels=32)
    if name == "vilt":
        # Words and two pictures are told apart, also in the run of one that statements begin with.
        sizes = {"depth": 3, "image_size": SIZE, "patch_size": 8, "modalities": 3}
        stream = spec(ViltStream, **words, **how, **sizes)
        return spec(Vilt, stream=stream, **heads)
    if name == "visualbert":
        stream = spec(VisualBertStream, **words, **how, depth=3, region_dim=described)
        fusion = spec(VisualBert, stream=stream, **heads)
    elif name == "lxmert":
        text = spec(Bert, **words, **how, depth=1, pooling="class")
        image = spec(RegionTower, **how, depth=1, feature_dim=described)
        fusion = spec(Lxmert, text=text, image=image, depth=2, **heads)
    else:
        text = spec(Bert, **words, **how, depth=1, pooling="class")
        image = spec(RegionTower, **how, depth=1, feature_dim=described, box_dim=5, join="sum")
        bridge = {"bridge_dim": WIDTH, "bridge_heads": HEADS}
        fusion = spec(Vilbert, text=text, image=image, depth=2, **bridge, **heads)
    return fusion if run.regions else spec(Pictured, image=grid, fusion=fusion, image_size=SIZE)


def source_of(task: str, split: str, folders: dict[str, str]) -> tuple[ConfigDict, dict[str, Any]]:
    """(the source of a task's samples, what its members mean)."""
    scenes = spec(Scenes, split=split, image_size=SIZE)
    asked = {"caption_from": "question", "answers_from": "answers"}
    asked["facts_from"] = ("question_type", "answer_type")
    told = {"caption_from": "statement", "truth_from": "truth", "facts_from": ("identifier",)}
    if task == "easy-vqa":
        source = spec(EasyVQA, path=folders[task], split=split, held_out=500)
        return source, {"image_from": "png", **asked}
    if task == "daquar":
        source = spec(QuestionLists, path=folders[task], split=split, held_out=200)
        return source, {"image_from": "jpg", **asked}
    if task == "answers":
        return spec(SceneQuestions, scenes=scenes), {"image_from": "image", **asked}
    if task == "statements":
        return spec(SceneStatements, scenes=scenes), {"images_from": ("left", "right"), **told}
    if task == "nlvr":
        folder = folders[task]
        files, tars = (tuple(sorted(glob.glob(f"{folder}/*/*.{kind}"))) for kind in ("json", "tar"))
        files = tuple(file for file in files if "manifest" not in file)
        return spec(NLVR, path=files, pictures=tars, split=split), {"image_from": "png", **told}
    if task == "flickr8k":
        part = "val" if split == "held_out" else "train"
        files = tuple(sorted(glob.glob(f"{folders[task]}/*{part}*.tar")))
        return spec(WebDataset, path=files), {}
    return spec(SceneLabels, scenes=scenes), {"image_from": "image"}


def names_of(task: str, folders: dict[str, str]) -> tuple[str, ...]:
    """The answers that a task knows; those of DAQUAR are the 300 most frequent in training."""
    if task == "easy-vqa":
        return EASY_VQA_ANSWERS
    if task == "daquar":
        return Answers.most_frequent(answers_in(folders[task], held_out=200), 300).names
    return scene_answers()


def data_of(run: Run, task: str, held_out: bool, folders: dict[str, str]) -> ConfigDict:
    """The training or the held-out data of a task."""
    source, fields = source_of(task, "held_out" if held_out else "train", folders)
    size = 96 if task == "daquar" else SIZE
    cut: tuple[Any, ...] = (spec(Resize, size=SIZE if len(run.tasks) > 1 else size),)
    if run.regions:
        sides = fields.pop("images_from", ())
        fields["image_from"] = ""
        several = {}
        if sides:
            places = ("features", "boxes", "width", "height")
            several = {"pictures": sides} | {f"{place}_from": f"{{}}_{place}" for place in places}
        form = {"feature_dim": FEATURE_DIM, "boxes": BOXES[run.model], **several}
        cut = (spec(Regions, count=4, **form),)
    elif "images_from" in fields:
        cut = (spec(EachPicture, transforms=cut),)
    after: tuple[Any, ...] = ()
    if "answers_from" in fields:
        answers = spec(Answers, names=tuple(names_of(task, folders)))
        after = (spec(AnswerScores, answers=answers, scoring="one"),)
    return spec(
        Dataset,
        source=source,
        fields=spec(Fields, **fields),
        transforms=(
            *cut,
            *((spec(NoPicture),) if run.blind == "picture" else ()),
            spec(PickCaption, first=held_out),
            *((spec(NoText),) if run.blind == "text" else ()),
            spec(Tokenize, partial=("tokenizer",), length=run.length, bos=True, eos=True),
            *after,
        ),
    )


def goal_of(run: Run, task: str) -> tuple[ConfigDict, ConfigDict]:
    """(what a task trains, what it is judged by)."""
    how, words = {"fuse": run.fuse}, {"words": run.fuse[1]}
    kinds = ("question_type", "answer_type")
    head = HEAD.get(task, "matching")
    if head == "answer":
        judge = spec(JudgeAnswers, kinds=kinds, scoring="one", **words)
        return spec(Answering, form="kl", **how), judge
    if head == "reasoning":
        return spec(Reasoning, **how), spec(JudgeStatements, **words)
    return spec(Matching, **how), spec(JudgeMatches, **words)


def words_of_scenes(keep: pathlib.Path) -> pathlib.Path:
    """A tokenizer of all that is said of drawn scenes, so that a run can start with another's."""
    path = keep / "scenes.json"
    if not path.exists():
        keep.mkdir(parents=True, exist_ok=True)
        said = (("answers", "question"), ("statements", "statement"), ("matching", "txt"))
        sources = [(build(source_of(task, "train", {})[0]), place) for task, place in said]
        texts = [str(source[n][place]) for source, place in sources for n in range(0, 4000, 4)]
        partial = path.with_suffix(f".{os.getpid()}")
        train_bpe(texts, WORDS, partial)
        partial.replace(path)
    return path


def config_of(run: Run, folders: dict[str, str], keep: pathlib.Path) -> ConfigDict:
    """The config of a run."""
    config = base_config(run.steps, BATCH, run.seed, log_steps=100, save_steps=run.steps)
    config.vocab_size = 4096 if run.task == "flickr8k" else WORDS
    config.tokenizer.vocab_size = config.get_ref("vocab_size")
    config.eval_batch_size = 128
    asked = [task for task in run.tasks if HEAD.get(task) == "answer"]
    answers = len(names_of(asked[0], folders)) if asked else 2
    heads = tuple(dict.fromkeys(HEAD.get(task, "matching") for task in run.tasks))
    size = 96 if run.task == "daquar" else SIZE
    length = {"sequence_length": run.length, "bos": True, "eos": True}
    config.preprocess = spec(Contract, image_size=size, **length)
    config.model = model_of(run, heads, answers, config)
    config.data, config.eval_data = {}, {}
    for task in run.tasks:
        config.data[task] = spec(Stream, data=data_of(run, task, False, folders), batch_size=BATCH)
        config.eval_data[task] = data_of(run, task, True, folders)
        objective, judge = goal_of(run, task)
        config.goals[task] = spec(Goal, objective=objective, stream=task)
        config.evaluators[task] = {"held_out": judge}
    warmup = min(WARMUP, run.steps // 4)
    part = TOLD if run.regions else PART.get(run.model, SEEING)
    config.optimizer = spec(
        AdamW,
        schedule=spec(cosine, peak=1e-3, steps=run.steps, warmup_steps=warmup),
        weight_decay=0.01,
        rate_rules=(("(?#optional)image/.*", 1.0), (".*", part)),
    )
    if set(run.tasks) <= set(SCENES):
        config.tokenizer.path = str(words_of_scenes(keep))
    if run.start:
        config.init_from = str(keep / run.first.name)
        ours, theirs = (f"{HEAD.get(task, 'matching')}_head/.*" for task in (run.task, run.start))
        config.init_rules = ((theirs, ""), ("(.*)", r"\1"))
        config.init_fresh = (ours,)
    config.tensorboard = False
    config.lock()
    return config
