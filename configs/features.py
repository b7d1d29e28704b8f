"""Trains two projections over features that you bring: the smallest dual encoder.

Reproduces: nothing published; both towers are locked and have already been run (LiT, section 3).
Command:    python train.py --config=configs/features.py --workdir=runs/features \
                --config.data.path=train.jsonl --config.eval_data.path=val.jsonl
            Each line of a .jsonl table (or each .json of a tar) holds two lists of numbers under
            'image_features' and 'text_features'.
Devices:    anything; a CPU makes thousands of examples a second.
"""

import math

from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.data.dataset import Dataset
from mmjax.data.datasets.linear_features import LinearFeatures
from mmjax.data.fields import Fields
from mmjax.data.transforms.features import Features
from mmjax.evaluation.objectives import Objectives
from mmjax.evaluation.retrieval import Retrieval
from mmjax.models.dual.features import FeatureTowers
from mmjax.objectives.contrastive import Contrastive
from mmjax.preprocess import Contract
from mmjax.run.settings import base_config
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import cosine
from mmjax.training.step import Goal


def get_config(variant: str = "") -> ConfigDict:
    """The run; 'smoke' is two steps on features of drawn scenes."""
    smoke = variant == "smoke"
    config = base_config(
        steps=2 if smoke else 2_000,
        batch_size=8 if smoke else 1024,
        log_steps=1 if smoke else 50,
        save_steps=1 if smoke else 500,
    )
    config.model = spec(FeatureTowers, embed_dim=32 if smoke else 256)
    config.preprocess = spec(Contract)

    def data(split: str) -> ConfigDict:
        return spec(
            Dataset,
            source=spec(LinearFeatures, split=split, num_pairs=64) if smoke else None,
            fields=spec(Fields, image_from="", caption_from=""),
            transforms=(spec(Features),),
        )

    config.data, config.eval_data = data("train"), data("held_out")
    image = ("encode_image", ("image_features",))
    text = ("encode_text", ("text_features",))
    config.goals.contrastive = spec(Goal, objective=spec(Contrastive, image=image, text=text))
    steps = config.get_ref("steps")
    config.optimizer = spec(
        AdamW,
        schedule=spec(cosine, peak=1e-3, steps=steps, warmup_steps=steps // 20),
        clamps=(("log_scale", 0.0, math.log(100)),),
    )
    config.evaluators.objectives = spec(Objectives)
    config.evaluators.retrieval = spec(
        Retrieval, image_words=("image_features",), text_words=("text_features",)
    )
    return config
