"""Trains a small CLIP on your own pictures and captions, from nothing but overrides.

Reproduces: nothing published; sizes suit a few thousand pictures and a CPU or a single GPU.
Command:    python train.py --config=configs/shards.py --workdir=runs/mine \
                --config.data.path='train-*.tar' --config.eval_data.path='val-*.tar'
            .tar and .array_record shards, .jsonl and .csv tables and folders are read alike.
Devices:    2 CPU cores; 40,960 samples at 64 pixels take about 6 minutes.
"""

import math

from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.evaluation.objectives import Objectives
from mmjax.evaluation.retrieval import Retrieval
from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.objectives.contrastive import Contrastive
from mmjax.run.settings import base_config, image_text_data
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import cosine
from mmjax.training.step import Goal


def get_config(variant: str = "") -> ConfigDict:
    """The run; 'smoke' is two steps of a tiny one on drawn scenes."""
    smoke = variant == "smoke"
    config = base_config(
        steps=2 if smoke else 320,
        batch_size=8 if smoke else 128,
        log_steps=1 if smoke else 10,
        save_steps=1 if smoke else 100,
    )
    config.image_size = 32 if smoke else 64
    config.sequence_length = 32
    config.vocab_size = 512 if smoke else 8192
    config.dtype = "auto"  # bfloat16 on TPU and GPU, float32 on a CPU
    config.tokenizer.vocab_size = config.get_ref("vocab_size")
    width = {
        "dim": 32 if smoke else 192,
        "depth": 2 if smoke else 6,
        "num_heads": 2 if smoke else 3,
        "scan": False,  # unrolled, XLA's CPU programs are faster: docs/log.md
        "mlp_dim": 64 if smoke else 768,
        "dtype": config.get_ref("dtype"),
    }
    config.model = spec(
        TwoTower,
        image=spec(ViT, image_size=config.get_ref("image_size"), patch_size=8, **width),
        text=spec(
            TextTransformer,
            vocab_size=config.get_ref("vocab_size"),
            length=config.get_ref("sequence_length"),
            pooling="end_of_text",
            eos_id=1,
            causal=True,
            **width,
        ),
        embed_dim=width["dim"],
    )
    image_text_data(config, made_up=smoke)
    steps = config.get_ref("steps")
    config.optimizer = spec(
        AdamW,
        schedule=spec(cosine, peak=1e-3, steps=steps, warmup_steps=steps // 10),
        clamps=(("log_scale", 0.0, math.log(100)),),
    )
    config.goals.contrastive = spec(Goal, objective=spec(Contrastive))
    config.evaluators.objectives = spec(Objectives)
    config.evaluators.retrieval = spec(Retrieval)
    return config
