"""Fine-tuning of a published CLIP or SigLIP on pictures with captions.

Reproduces: Goyal et al. 2022, "Finetune like you pretrain": the pretraining's loss, a small rate.
Command:    python train.py --config=configs/finetune.py --workdir=... \
                --config.init_from=hf://laion/CLIP-ViT-B-32-laion2B-s34B-b79K \
                --config.data.path='train-{000..009}.tar' --config.eval_data.path='val-*.tar'
            Model, preprocessing, tokenizer and kind of loss are those of init_from: a folder in
            Hugging Face or open_clip layout, or hf://owner/name. What else is typed wins, e.g.
            --config.optimizer.frozen="('image/.*',)" locks the picture tower (LiT), and
            --config.image_size=336 makes its positions fit. SigLIP 2 NaFlex takes pictures in
            their own shape; there --config.max_patches=N says how many patches.
Devices:    one GPU or v5e-8 for B/32; not run on either by us.
Expect:     nothing was measured here but the smoke form.
"""

import math

from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.evaluation.objectives import Objectives
from mmjax.evaluation.retrieval import Retrieval
from mmjax.models.dual.two_tower import TwoTower, clip_vit_b32
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.objectives.contrastive import Contrastive
from mmjax.preprocess import CLIP_MEAN, CLIP_STD
from mmjax.run.settings import base_config, image_text_data, smoke_sizes
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import cosine
from mmjax.training.step import Goal


def get_config(variant: str = "") -> ConfigDict:
    """The run; 'smoke' trains a tiny model of its own on drawn scenes, from nothing."""
    smoke = variant == "smoke"
    config = base_config(
        steps=2 if smoke else 5_000,
        batch_size=8 if smoke else 512,
        log_steps=1 if smoke else 50,
        save_steps=1 if smoke else 500,
    )
    config.adopt = not smoke  # take the model and all that belongs to it from init_from
    config.eval_steps = 0 if smoke else 500
    config.image_size = 32 if smoke else 224
    config.sequence_length = 16 if smoke else 77
    config.dtype = "auto"  # bfloat16 on TPU and GPU, float32 on a CPU
    config.remat = "none" if smoke else "dots_no_batch"
    fields = smoke_sizes(clip_vit_b32()) if smoke else clip_vit_b32()
    fields["image"] |= {"image_size": config.get_ref("image_size")}
    fields["text"] |= {"length": config.get_ref("sequence_length")}
    if smoke:
        fields["text"] |= {"vocab_size": 512, "eos_id": 1}
        config.tokenizer.vocab_size = 512
    how = {"dtype": config.get_ref("dtype"), "remat": config.get_ref("remat")}
    config.model = spec(
        TwoTower,
        image=spec(ViT, **how, **fields["image"]),
        text=spec(TextTransformer, **how, **fields["text"]),
        **fields["model"],
    )
    image_text_data(config, made_up=smoke, form="shortest", bos=True)
    config.preprocess.mean, config.preprocess.std = CLIP_MEAN, CLIP_STD
    steps = config.get_ref("steps")
    config.optimizer = spec(
        AdamW,
        schedule=spec(cosine, peak=1e-5, steps=steps, warmup_steps=steps // 20),
        weight_decay=0.1,
        clamps=(("log_scale", None, math.log(100)),),  # scale at most 100
    )
    config.goals.contrastive = spec(Goal, objective=spec(Contrastive))
    config.evaluators.objectives = spec(Objectives)
    config.evaluators.retrieval = spec(Retrieval)
    return config
