"""LiT: a picture tower that was trained before is locked, a text tower learns to read it.

Reproduces: Zhai et al. 2022, "LiT: Zero-Shot Transfer with Locked-image text Tuning", section 4.
Command:    python train.py --config=configs/lit_b16.py --workdir=... --config.init_from=WORKDIR \
                --config.data.path='train-{00000..01023}.tar' --config.eval_data.path='val-*.tar'
            WORKDIR is a run with the same picture tower, e.g. of configs/clip_vit_b16.py.
Devices:    a v5e 8x8 slice; not run on TPUs by us. The locked tower has no gradient, no optimizer
            state and no moving average.
Expect:     72.1 % ImageNet zero-shot with an ImageNet-21k tower and CC12M + YFCC100m (published:
            google-research/vision_transformer, LiT-B16B); not measured here.
"""

import math

from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.evaluation.objectives import Objectives
from mmjax.evaluation.retrieval import Retrieval
from mmjax.models.dual.two_tower import TwoTower, clip_vit_b16
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.objectives.contrastive import Contrastive
from mmjax.run.settings import base_config, image_text_data, smoke_sizes
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import cosine
from mmjax.training.step import Goal

LOCKED = ("image/.*",)


def get_config(variant: str = "") -> ConfigDict:
    """The run; 'smoke' first trains a tiny tower on drawn scenes, then locks it."""
    smoke = variant == "smoke"
    config = _recipe(smoke, frozen=LOCKED)
    config.init_rules = (("(image/.*)", r"\1"), (".*", ""))
    config.init_fresh = ("text/.*", "(image|text)_projection/.*", "log_scale")
    if smoke:
        config.first = _recipe(smoke, frozen=())
    return config


def _recipe(smoke: bool, frozen: tuple[str, ...]) -> ConfigDict:
    config = base_config(
        steps=2 if smoke else 60_000,
        batch_size=8 if smoke else 16_384,
        log_steps=1 if smoke else 50,
        save_steps=1 if smoke else 5_000,
    )
    config.image_size = 32 if smoke else 224
    config.sequence_length = 16
    config.vocab_size = 512 if smoke else 32_000
    config.tokenizer.vocab_size = config.get_ref("vocab_size")
    fields = smoke_sizes(clip_vit_b16()) if smoke else clip_vit_b16()
    fields["image"] |= {"image_size": config.get_ref("image_size")}
    fields["text"] |= {
        "vocab_size": config.get_ref("vocab_size"),
        "length": config.get_ref("sequence_length"),
        "eos_id": 1,  # of the tokenizers that this package trains
    }
    config.dtype = "auto"  # bfloat16 on TPU and GPU, float32 on a CPU
    dtype = config.get_ref("dtype")
    config.model = spec(
        TwoTower,
        image=spec(ViT, dtype=dtype, **fields["image"]),
        text=spec(TextTransformer, dtype=dtype, **fields["text"]),
        **fields["model"],
    )
    image_text_data(config, made_up=smoke, cleaning="lower")
    steps = config.get_ref("steps")
    config.optimizer = spec(
        AdamW,
        schedule=spec(cosine, peak=1e-3, steps=steps, warmup_steps=steps // 6),
        weight_decay=0.1,
        frozen=frozen,
        clamps=(("log_scale", None, math.log(100)),),  # scale at most 100
    )
    config.goals.contrastive = spec(Goal, objective=spec(Contrastive))
    config.evaluators.objectives = spec(Objectives)
    config.evaluators.retrieval = spec(Retrieval)
    return config
