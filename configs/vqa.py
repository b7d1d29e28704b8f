"""Questions about pictures, answered from a vocabulary; begins with any model of text and picture.

Reproduces: Kim et al. 2021, "ViLT", sections 3.5 and 4.2, table 2 (ten epochs of 256 questions).
Command:    mmjax answers v2_mscoco_train2014_annotations.json answers.json --times=9
            python train.py --config=configs/vqa.py --workdir=... --config.init_from=SOURCE \
                --config.answers.path=answers.json \
                --config.data.source.questions=v2_OpenEnded_mscoco_train2014_questions.json \
                --config.data.source.annotations=v2_mscoco_train2014_annotations.json \
                --config.data.source.pictures=train2014 (and the same of eval_data)
            SOURCE is a ViLT, VisualBERT, LXMERT, ViLBERT, CLIP or SigLIP, published or a run of
            ours; what each brings and needs: docs/finetuning.md. Of a model of regions give
            shards: --config.data.path='train-*.tar'. --config.layer_rate=0.8 trains lower layers
            more slowly.
Devices:    one GPU or v5e-8 for a base model by its memory; not run on either by us. A plan needs
            no source: --config.adopt= --plan=v5e:2x4 is of a ViLT-B/32.
Expect:     71.26 % VQA v2 test-dev for ViLT (published, after 200,000 steps of pretraining, with
            the validation questions too); not measured here.
"""

from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.data.answers import Answers
from mmjax.data.dataset import Dataset
from mmjax.data.datasets.scene_questions import SceneQuestions, scene_answers
from mmjax.data.datasets.scenes import Scenes
from mmjax.data.datasets.vqa import VQA
from mmjax.data.fields import Fields
from mmjax.data.sources.fetching import Fetching
from mmjax.data.transforms.answers import AnswerScores
from mmjax.data.transforms.augment import RandAugment
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.padded import Padded
from mmjax.data.transforms.text import Tokenize
from mmjax.evaluation.answering import Answering as JudgeAnswers
from mmjax.evaluation.objectives import Objectives
from mmjax.objectives.answering import Answering
from mmjax.run.task_settings import task_config, vilt_model, warmed_up
from mmjax.training.step import Goal

SEEN = ("fuse", ("token_ids", "text_mask", "image", "image_mask", "row"))
FACTS = ("question_type", "answer_type", "question_id")


def get_config(variant: str = "") -> ConfigDict:
    """The run; 'smoke' is two steps of a tiny ViLT on questions about drawn scenes."""
    smoke = variant == "smoke"
    steps = 2 if smoke else 17_334  # ten epochs of the 443,757 training questions
    # The head's rate is ten times the others': dandelin/ViLT, vilt/config.py, for VQA alone.
    config = task_config(smoke, steps, batch_size=8 if smoke else 256, head_rate=10.0)
    vilt_model(config, smoke, "answer")
    config.adopt = "" if smoke else "answer"  # take the model and all of it from init_from
    config.num_answers = len(scene_answers()) if smoke else 3129
    config.model.answers = config.get_ref("num_answers")
    length = config.get_ref("sequence_length")
    if smoke:
        answers = spec(Answers, names=scene_answers())
        scores = spec(AnswerScores, answers=answers, scoring="one")
    else:
        scores = spec(AnswerScores, partial=("answers",))
    frame = spec(
        Padded,
        shortest=config.get_ref("image_size"),
        patch_size=config.model.stream.patch_size,
    )
    read = (
        scores,
        spec(PickCaption),
        spec(Tokenize, partial=("tokenizer",), length=length, bos=True, eos=True),
    )
    for name, split, scenes in (("data", "train", 64), ("eval_data", "held_out", 8)):
        made_up = spec(SceneQuestions, scenes=spec(Scenes, split=split, num_scenes=scenes))
        augment = (spec(RandAugment, num_ops=2, magnitude=9.0),) if name == "data" else ()
        config[name] = spec(
            Dataset,
            fetching=spec(Fetching),
            source=made_up if smoke else spec(VQA, questions="", pictures="", annotations=""),
            fields=spec(
                Fields,
                image_from="image" if smoke else "jpg;jpeg;png;webp",
                caption_from="question;json:question",
                answers_from="answers;json:answers",
                facts_from=FACTS,
            ),
            transforms=(*augment, frame, *read),
        )
    config.goals.answering = spec(Goal, objective=spec(Answering, fuse=SEEN))
    config.optimizer = warmed_up(config)
    config.evaluators.objectives = spec(Objectives)
    config.evaluators.answers = spec(JudgeAnswers, words=SEEN[1])
    return config
