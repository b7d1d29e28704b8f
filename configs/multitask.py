"""One model and one step for five tasks: pairs, matching, masked words, answers, classes.

Reproduces: nothing as a whole. After Li et al. 2021 (ALBEF), sections 3.1 to 3.5: ViT-B/16 at 256
            pixels, six text layers and six that look at the picture, contrastive loss, matching
            with sampled hard negatives and masked words, equal weights, batch 512, AdamW with
            decay 0.02 and its rates. After Lu et al. 2020 (12-in-1): a head for each task, and
            each task trained on its own data from the beginning.
            Not followed: ALBEF's momentum model, queue and distillation; its towers' start from
            DeiT and BERT; RandAugment; its answers, which it writes word by word (here they are
            chosen of 3,129). 12-in-1's regions, and its tasks in turn with stop-and-go (here each
            step has a batch of each stream). The fusion's blocks are pre-norm. What questions and
            classes weigh is ours: a schedule, and learned.
Command:    python train.py --config=configs/multitask.py --workdir=... \
                --config.tokenizer.path=bert-base-uncased/tokenizer.json \
                --config.answers.path=answers.json \
                --config.data.captions.data.path='captions-{00000..01023}.tar' \
                --config.data.labels.data.path='labelled-{000..127}.tar' \
                --config.data.questions.data.source.questions=v2_..._train2014_questions.json \
                --config.data.questions.data.source.annotations=v2_..._train2014_annotations.json \
                --config.data.questions.data.source.pictures=train2014 \
                --config.eval_data.source.questions=v2_..._val2014_questions.json \
                --config.eval_data.source.annotations=v2_..._val2014_annotations.json \
                --config.eval_data.source.pictures=val2014
            answers.json is made by `mmjax answers`; a record of labelled-*.tar has its class in
            the member 'cls'.
Devices:    8 A100 in ALBEF's paper; not run on any by us but in the smoke form.
Expect:     nothing was measured here but the smoke form.
"""

import math

from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.data.answers import Answers
from mmjax.data.dataset import Dataset, Mixture
from mmjax.data.datasets.scene_labels import SceneLabels, label_names
from mmjax.data.datasets.scene_questions import SceneQuestions, scene_answers
from mmjax.data.datasets.scenes import Scenes
from mmjax.data.datasets.vqa import VQA
from mmjax.data.fields import Fields
from mmjax.data.sources.fetching import Fetching
from mmjax.data.transforms.answers import AnswerScores
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.image import RandomFlip, RandomResizedCrop
from mmjax.data.transforms.masking import MaskWords
from mmjax.data.transforms.resize import Resize
from mmjax.data.transforms.text import Tokenize
from mmjax.evaluation.answering import Answering as JudgeAnswers
from mmjax.evaluation.objectives import Objectives
from mmjax.models.encoders.bert import Bert, bert_base
from mmjax.models.encoders.vit import ViT, vit_b16
from mmjax.models.fusion.general import GeneralFusion
from mmjax.objectives.answering import Answering
from mmjax.objectives.classification import Classification
from mmjax.objectives.contrastive import Contrastive
from mmjax.objectives.masked_lm import MaskedLm
from mmjax.objectives.matching import Matching
from mmjax.preprocess import Contract
from mmjax.run.assembly import Stream
from mmjax.run.settings import base_config
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import constant, cosine
from mmjax.training.step import Goal
from mmjax.training.weighing import Uncertainty

SEEN = ("fuse", ("token_ids", "text_mask", "image"))
ASKED = {
    "caption_from": "question",
    "answers_from": "answers",
    "facts_from": ("question_type", "answer_type", "question_id"),
}


def get_config(variant: str = "") -> ConfigDict:
    """The run; 'smoke' is two steps of a tiny one on drawn scenes."""
    smoke = variant == "smoke"
    config = base_config(
        steps=2 if smoke else 234_000,  # 30 epochs of ALBEF's 4 million pictures
        batch_size=16 if smoke else 512,  # captions, and half as many questions and labels
        log_steps=1 if smoke else 50,
        save_steps=1 if smoke else 2_000,
    )
    config.image_size = 32 if smoke else 256
    config.sequence_length = 24 if smoke else 30
    config.vocab_size = 512 if smoke else 30_522
    config.tokenizer.vocab_size = config.get_ref("vocab_size")
    config.dtype = "auto"  # bfloat16 on TPU and GPU, float32 on a CPU
    size, length = config.get_ref("image_size"), config.get_ref("sequence_length")
    small = {"dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32, "scan": False, "remat": "none"}
    config.model = spec(
        GeneralFusion,
        image=spec(
            ViT,
            image_size=size,
            pooling="class",
            dtype=config.get_ref("dtype"),
            **({**small, "patch_size": 8} if smoke else vit_b16()),
        ),
        text=spec(
            Bert,
            vocab_size=config.get_ref("vocab_size"),
            length=length,
            pooling="class",
            dtype=config.get_ref("dtype"),
            **(small if smoke else {**bert_base(), "depth": 6}),
        ),
        embed_dim=16 if smoke else 256,
        form="hierarchical",
        depth=1 if smoke else 6,
        heads=("masked_lm", "matching", "answer", "classify"),
        answers=len(scene_answers()) if smoke else 3129,
        classes=len(label_names()) if smoke else 1000,
    )
    config.preprocess = spec(Contract, image_size=size, sequence_length=length, bos=True, eos=True)
    _data(config, smoke)
    _goals(config)
    steps = config.get_ref("steps")
    warmup = 0 if smoke else 1_000
    config.optimizer = spec(
        AdamW,
        schedule=spec(cosine, peak=1e-4, steps=steps, warmup_steps=warmup, end=1e-5),
        weight_decay=0.02,
        clamps=(("log_scale", 0.0, math.log(1000)),),
    )
    # Held out are questions; of captions and classes alike runs of other configs evaluate.
    config.evaluators.objectives = spec(Objectives, goals=("answers", "words"))
    config.evaluators.answers = spec(JudgeAnswers, words=SEEN[1])
    return config


def _goals(config: ConfigDict) -> None:
    """What each stream is trained for, and what it weighs in the sum."""
    words = spec(MaskedLm, fuse=SEEN, places=8)
    matching = spec(Matching, fuse=SEEN, negatives="sampled")
    config.goals.contrastive = spec(Goal, objective=spec(Contrastive), stream="captions")
    config.goals.matching = spec(Goal, objective=matching, stream="captions")
    config.goals.words = spec(Goal, objective=words, stream="captions")
    config.goals.answers = spec(
        Goal,
        objective=spec(Answering, fuse=SEEN),
        weight=spec(constant, peak=1.0, warmup_steps=config.get_ref("steps") // 10),
        stream="questions",
    )
    config.goals.classes = spec(
        Goal, objective=spec(Classification), weight=spec(Uncertainty), stream="labels"
    )


def _data(config: ConfigDict, smoke: bool) -> None:
    """A stream each for captions, questions and labels, and held-out questions."""
    size, length = config.get_ref("image_size"), config.get_ref("sequence_length")
    rows, seed = config.get_ref("batch_size"), config.get_ref("seed")
    tokenize = spec(Tokenize, partial=("tokenizer",), length=length, bos=True, eos=True)
    text = (spec(PickCaption), tokenize, spec(MaskWords, partial=("tokenizer",)))
    drawn = {"image_from": "image"} if smoke else {}

    def scenes(**how: int | str) -> ConfigDict:
        return spec(Scenes, image_size=size, **({"num_scenes": 16, "seed": seed} | how))

    def read(source: ConfigDict | None, fields: ConfigDict, *transforms: ConfigDict) -> ConfigDict:
        how = {"fetching": spec(Fetching), "source": source, "fields": fields}
        return spec(Dataset, **how, transforms=transforms)

    def cut(least: float) -> ConfigDict:
        return spec(RandomResizedCrop, size=size, scale=(least, 1.0))

    def questions(source: ConfigDict, image: ConfigDict) -> ConfigDict:
        named = {"answers": spec(Answers, names=scene_answers())} if smoke else {}
        waiting = {} if smoke else {"partial": ("answers",)}
        scores = spec(AnswerScores, scoring="one" if smoke else "ten", **named, **waiting)
        return read(source, spec(Fields, **drawn, **ASKED), image, scores, *text)

    def official() -> ConfigDict:
        return spec(VQA, questions="", pictures="", annotations="")

    captions = read(scenes() if smoke else None, spec(Fields, **drawn), cut(0.2), *text)
    if smoke:  # several datasets of captions are drawn from by weight
        more = read(scenes(num_scenes=8, seed=7), spec(Fields, **drawn), cut(0.2), *text)
        captions = spec(Mixture, members=(captions, more))
    labels = read(
        spec(SceneLabels, scenes=scenes()) if smoke else None,
        spec(Fields, **drawn, caption_from="", label_from="label" if smoke else "cls"),
        cut(0.2),
        spec(RandomFlip),
    )
    asked = spec(SceneQuestions, scenes=scenes()) if smoke else official()
    held = scenes(num_scenes=8, split="held_out", seed=0)
    config.data = {
        "captions": spec(Stream, data=captions, batch_size=rows),
        "labels": spec(Stream, data=labels, batch_size=rows // 2),
        "questions": spec(Stream, data=questions(asked, cut(0.5)), batch_size=rows // 2),
    }
    config.eval_data = questions(
        spec(SceneQuestions, scenes=held) if smoke else official(), spec(Resize, size=size)
    )
