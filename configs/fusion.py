"""Answers to questions about drawn scenes: late, early and hierarchical fusion by one override.

Reproduces: nothing published; it is the config by which the three forms are compared.
Command:    python train.py --config=configs/fusion.py --workdir=runs/fusion \
                --config.model.form=hierarchical
            form is 'late', 'early' or 'hierarchical'; towers, heads, data and steps stay the same.
Devices:    2 CPU cores; 'late' took 4.5 minutes, the other two are not timed on idle ones yet.
Expect:     of held-out questions 38.9 % answered by 'late', 42.0 % by 'early' and 44.1 % by
            'hierarchical' (measured by us, seed 0, docs/benchmarks.md); the words of a question
            alone give 31 % (docs/datasets.md).
"""

from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.data.answers import Answers
from mmjax.data.dataset import Dataset
from mmjax.data.datasets.scene_questions import SceneQuestions, scene_answers
from mmjax.data.datasets.scenes import Scenes
from mmjax.data.fields import Fields
from mmjax.data.transforms.answers import AnswerScores
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.text import Tokenize
from mmjax.evaluation.answering import Answering as JudgeAnswers
from mmjax.evaluation.objectives import Objectives
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.models.fusion.general import GeneralFusion
from mmjax.objectives.answering import Answering
from mmjax.objectives.matching import Matching
from mmjax.preprocess import Contract
from mmjax.run.assembly import Stream
from mmjax.run.settings import base_config
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import cosine
from mmjax.training.step import Goal

SEEN = ("fuse", ("token_ids", "text_mask", "image"))


def get_config(variant: str = "") -> ConfigDict:
    """The run; 'smoke' is two steps of a tiny one."""
    smoke = variant == "smoke"
    config = base_config(
        steps=2 if smoke else 1600,
        batch_size=16 if smoke else 64,  # questions, and half as many captions
        log_steps=1 if smoke else 50,
        save_steps=1 if smoke else 400,
    )
    config.image_size = 32 if smoke else 96
    config.sequence_length = 24  # of captions; questions are shorter
    config.vocab_size = 512
    config.tokenizer.vocab_size = config.get_ref("vocab_size")
    image_size, length = config.get_ref("image_size"), config.get_ref("sequence_length")
    width = {
        "dim": 16 if smoke else 128,
        "num_heads": 2 if smoke else 4,
        "scan": False,  # unrolled and kept, XLA's CPU programs are twice as fast
        "remat": "none",
        "mlp_dim": 32 if smoke else 512,
    }
    config.model = spec(
        GeneralFusion,
        image=spec(
            ViT,
            image_size=image_size,
            patch_size=8 if smoke else 24,  # the cells that the scenes' objects stand on
            depth=1 if smoke else 2,
            positions="sincos",
            pooling="mean",
            **width,
        ),
        text=spec(
            TextTransformer,
            vocab_size=config.get_ref("vocab_size"),
            length=length,
            depth=1 if smoke else 2,
            pooling="mean",
            mask_padding=True,
            **width,
        ),
        embed_dim=width["dim"],
        form="hierarchical",
        depth=1 if smoke else 2,
        heads=("answer", "matching"),
        answers=len(scene_answers()),
    )
    config.preprocess = spec(
        Contract, image_size=image_size, sequence_length=length, bos=True, eos=True
    )
    tokenize = spec(Tokenize, partial=("tokenizer",), length=length, bos=True, eos=True)

    def questions(split: str, scenes: int, **seed: int) -> ConfigDict:
        """Four questions about each scene of a split."""
        return spec(
            Dataset,
            source=spec(
                SceneQuestions,
                scenes=spec(Scenes, split=split, image_size=image_size, num_scenes=scenes, **seed),
            ),
            fields=spec(
                Fields,
                image_from="image",
                caption_from="question",
                answers_from="answers",
                facts_from=("question_type", "answer_type", "question_id"),
            ),
            transforms=(
                spec(AnswerScores, answers=spec(Answers, names=scene_answers()), scoring="one"),
                spec(PickCaption),
                tokenize,
            ),
        )

    seed, rows = config.get_ref("seed"), config.get_ref("batch_size")
    scenes = 16 if smoke else 50_000
    captions = spec(
        Dataset,
        source=spec(Scenes, image_size=image_size, num_scenes=scenes, seed=seed),
        fields=spec(Fields, image_from="image"),
        transforms=(spec(PickCaption), tokenize),
    )
    config.data = {
        "captions": spec(Stream, data=captions, batch_size=rows // 2),
        "questions": spec(Stream, data=questions("train", scenes, seed=seed), batch_size=rows),
    }
    config.eval_data = questions("held_out", 8 if smoke else 256)
    answering = spec(Answering, fuse=SEEN, form="kl")  # a question has one right answer
    config.goals.answers = spec(Goal, objective=answering, stream="questions")
    # Of a question and another picture nobody can tell that they do not go together.
    config.goals.matching = spec(Goal, objective=spec(Matching, fuse=SEEN), stream="captions")
    config.optimizer = spec(
        AdamW,
        schedule=spec(
            cosine,
            peak=5e-4,
            steps=config.get_ref("steps"),
            warmup_steps=config.get_ref("steps") // 10,
        ),
    )
    config.evaluators.objectives = spec(Objectives, goals=("answers",))
    config.evaluators.answers = spec(JudgeAnswers, words=SEEN[1])
    return config
