"""Statements about two pictures, true or false; begins with any model of text and picture.

Reproduces: Kim et al. 2021, "ViLT", sections 3.5 and 4.2, table 2 (ten epochs of 128 statements).
Command:    python train.py --config=configs/nlvr2.py --workdir=... --config.init_from=SOURCE \
                --config.data.source.path=train.json --config.data.source.pictures=images/train \
                --config.eval_data.source.path=dev.json \
                --config.eval_data.source.pictures=images/dev
            SOURCE is a ViLT, VisualBERT, LXMERT, ViLBERT, CLIP or SigLIP, published or a run of
            ours; what each brings and needs: docs/finetuning.md. Of a model of regions give
            shards: --config.data.path='train-*.tar'. --config.layer_rate=0.8 trains lower layers
            more slowly.
Devices:    one GPU or v5e-8 for a base model by its memory; not run on either by us. A plan needs
            no source: --config.adopt= --plan=v5e:2x4 is of a ViLT-B/32.
Expect:     75.70 % dev and 76.13 % test-P for ViLT (published, after 200,000 steps of pretraining);
            not measured here.
"""

from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.data.dataset import Dataset
from mmjax.data.datasets.nlvr2 import NLVR2
from mmjax.data.datasets.scene_statements import SceneStatements
from mmjax.data.datasets.scenes import Scenes
from mmjax.data.fields import Fields
from mmjax.data.sources.fetching import Fetching
from mmjax.data.transforms.augment import RandAugment
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.padded import Padded
from mmjax.data.transforms.pictures import EachPicture
from mmjax.data.transforms.text import Tokenize
from mmjax.evaluation.objectives import Objectives
from mmjax.evaluation.reasoning import Reasoning as JudgeStatements
from mmjax.objectives.reasoning import Reasoning
from mmjax.run.task_settings import task_config, vilt_model, warmed_up
from mmjax.training.step import Goal

SEEN = ("fuse", ("token_ids", "text_mask", "image", "image_mask", "row"))


def get_config(variant: str = "") -> ConfigDict:
    """The run; 'smoke' is two steps of a tiny ViLT on statements about drawn scenes."""
    smoke = variant == "smoke"
    steps = 2 if smoke else 6_747  # ten epochs of the 86,373 training statements
    config = task_config(smoke, steps, batch_size=8 if smoke else 128, head_rate=1.0)
    vilt_model(config, smoke, "reasoning")
    config.adopt = "" if smoke else "reasoning"  # take the model and all of it from init_from
    length = config.get_ref("sequence_length")
    frame = spec(
        Padded,
        shortest=config.get_ref("image_size"),
        patch_size=config.model.stream.patch_size,
    )
    read = (
        spec(PickCaption),
        spec(Tokenize, partial=("tokenizer",), length=length, bos=True, eos=True),
    )
    for name, split, scenes, sets in (("data", "train", 256, 8), ("eval_data", "held_out", 256, 2)):
        made_up = spec(
            SceneStatements,
            scenes=spec(Scenes, split=split, num_scenes=scenes),
            num_sets=sets,
        )
        augment = (spec(RandAugment, num_ops=2, magnitude=9.0),) if name == "data" else ()
        pictures = spec(EachPicture, transforms=(*augment, frame), words=("image", "image_mask"))
        config[name] = spec(
            Dataset,
            fetching=spec(Fetching),
            source=made_up if smoke else spec(NLVR2, path="", pictures=""),
            fields=spec(
                Fields,
                image_from="",
                images_from=tuple(f"{side};{side}.jpg;{side}.png" for side in ("left", "right")),
                caption_from="statement;json:statement",
                truth_from="truth;json:truth",
                facts_from=("identifier",),
            ),
            transforms=(pictures, *read),
        )
    config.goals.reasoning = spec(Goal, objective=spec(Reasoning, fuse=SEEN))
    config.optimizer = warmed_up(config)
    config.evaluators.objectives = spec(Objectives)
    config.evaluators.statements = spec(JudgeStatements, words=SEEN[1])
    return config
