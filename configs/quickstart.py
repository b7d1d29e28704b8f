"""Trains a small CLIP on drawn scenes, on a CPU in a few minutes, and leaves a report.

Reproduces: nothing published; it shows the whole way from data to report on any machine.
Command:    python train.py --config=configs/quickstart.py --workdir=runs/quickstart
Devices:    2 CPU cores, 2 to 4 minutes from start to report.
Expect:     zero-shot 66 to 75 % over 32 held-out classes (chance 3.1 %), text→image R@1
            67 to 77 % of 256 held-out pairs (chance 0.4 %), five seeds: docs/benchmarks.md.
"""

import math

from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.data.dataset import Dataset
from mmjax.data.datasets.scenes import Scenes, class_names
from mmjax.data.fields import Fields
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.text import Tokenize
from mmjax.evaluation.objectives import Objectives
from mmjax.evaluation.retrieval import Retrieval
from mmjax.evaluation.zero_shot import ZeroShot
from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.objectives.contrastive import Contrastive
from mmjax.preprocess import Contract
from mmjax.run.settings import base_config
from mmjax.training.optimizers.muon import Muon
from mmjax.training.schedules import cosine
from mmjax.training.step import Goal


def get_config(variant: str = "") -> ConfigDict:
    """The run; 'smoke' is two steps of a tiny one."""
    smoke = variant == "smoke"
    config = base_config(
        steps=2 if smoke else 600,
        batch_size=8 if smoke else 128,
        log_steps=1 if smoke else 20,
        save_steps=1 if smoke else 200,
    )
    config.image_size = 32 if smoke else 96
    config.sequence_length = 24  # of a hundred captions three are longer
    config.vocab_size = 512
    config.tokenizer.vocab_size = config.get_ref("vocab_size")
    image_size = config.get_ref("image_size")
    length = config.get_ref("sequence_length")
    width = {
        "dim": 32 if smoke else 128,
        "num_heads": 2 if smoke else 4,
        "scan": False,  # unrolled and kept, XLA's CPU programs are twice as fast
        "remat": "none",
        "mlp_dim": 64 if smoke else 512,
    }
    config.model = spec(
        TwoTower,
        image=spec(
            ViT,
            image_size=image_size,
            patch_size=8
            if smoke
            else 24,  # the cells of the grid that the scenes' objects stand on
            depth=2,
            positions="sincos",
            pooling="mean",
            **width,
        ),
        text=spec(
            TextTransformer,
            vocab_size=config.get_ref("vocab_size"),
            length=length,
            depth=2,
            pooling="mean",
            mask_padding=True,
            **width,
        ),
        embed_dim=width["dim"],
    )
    config.preprocess = spec(
        Contract, image_size=image_size, sequence_length=length, bos=True, eos=True
    )
    tokenize = {"partial": ("tokenizer",), "length": length, "bos": True, "eos": True}
    config.data = spec(
        Dataset,
        source=spec(
            Scenes,
            image_size=image_size,
            num_scenes=64 if smoke else 50_000,
            seed=config.get_ref("seed"),
        ),
        fields=spec(Fields, image_from="image"),
        transforms=(spec(PickCaption), spec(Tokenize, **tokenize)),
    )
    config.eval_data = spec(
        Dataset,
        source=spec(
            Scenes,
            split="held_out",
            image_size=image_size,
            num_scenes=32 if smoke else 256,
        ),
        fields=spec(Fields, image_from="image", label_from="json:label"),
        transforms=(spec(PickCaption, first=True), spec(Tokenize, **tokenize)),
    )
    config.goals.contrastive = spec(Goal, objective=spec(Contrastive, positives=("caption_id",)))
    config.optimizer = spec(
        Muon,  # learns in 77,000 pictures what AdamW does not in 100,000
        schedule=spec(
            cosine,
            peak=4e-3,
            steps=config.get_ref("steps"),
            warmup_steps=config.get_ref("steps") // 10,
        ),
        clamps=(("log_scale", 0.0, math.log(100)),),
    )
    config.evaluators.objectives = spec(Objectives)
    config.evaluators.retrieval = spec(Retrieval, max_captions=1)
    config.evaluators.zero_shot = spec(ZeroShot, classes=class_names(), templates=("{}",))
    return config
