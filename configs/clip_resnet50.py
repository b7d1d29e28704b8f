"""CLIP RN50 at 224 pixels: CLIP with a convolutional picture tower.

Reproduces: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
            Supervision", tables 18 and 19 (AdamW, 32 epochs of 400 million pairs, batch 32,768).
Command:    python train.py --config=configs/clip_resnet50.py --workdir=... \
                --config.data.path='train-{00000..01023}.tar' --config.eval_data.path='val-*.tar'
Devices:    a pod slice of 64 chips or more; not run on TPUs by us. A batch that does not fit may be
            taken in parts by --config.micro_batches=8 --config.statistics=micro: then each part is
            normalised by its own statistics.
Expect:     59.6 % ImageNet zero-shot (published: table 11, RN50); not measured here.
Differs:    pictures are cut at random to at least 90 % of their area; captions are tokenised by a
            vocabulary of your own, or by --config.tokenizer.path=tokenizer.json; norms see the
            global batch.
"""

import math

from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.evaluation.objectives import Objectives
from mmjax.evaluation.retrieval import Retrieval
from mmjax.models.dual.two_tower import TwoTower, clip_rn50
from mmjax.models.encoders.clip_resnet import ClipResNet
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.objectives.contrastive import Contrastive
from mmjax.preprocess import CLIP_MEAN, CLIP_STD
from mmjax.run.settings import base_config, image_text_data
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import cosine
from mmjax.training.step import Goal


def get_config(variant: str = "") -> ConfigDict:
    """The run; 'smoke' is two steps of a tiny one on drawn scenes."""
    smoke = variant == "smoke"
    config = base_config(
        steps=2 if smoke else 390_625,  # 32 epochs of 400 million pairs
        batch_size=8 if smoke else 32_768,
        log_steps=1 if smoke else 50,
        save_steps=1 if smoke else 5_000,
    )
    config.image_size = 32 if smoke else 224
    config.sequence_length = 16 if smoke else 77
    config.vocab_size = 512 if smoke else 49_152
    config.dtype = "auto"  # bfloat16 on TPU and GPU, float32 on a CPU
    config.tokenizer.vocab_size = config.get_ref("vocab_size")
    config.eval_steps = 0 if smoke else 20_000
    config.embed_dim = 32 if smoke else 1024
    fields = clip_rn50()
    if smoke:
        fields["image"] |= {"width": 4, "depths": (1, 1, 1, 1), "head_width": 32}
        fields["text"] |= {"dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 64}
    remat = "none" if smoke else "full"
    fields["image"] |= {
        "image_size": config.get_ref("image_size"),
        "embed_dim": config.get_ref("embed_dim"),
    }
    fields["model"] |= {"embed_dim": config.get_ref("embed_dim")}
    fields["text"] |= {
        "vocab_size": config.get_ref("vocab_size"),
        "length": config.get_ref("sequence_length"),
        "eos_id": 1,  # of the tokenizers that this package trains
    }
    dtype = config.get_ref("dtype")
    config.model = spec(
        TwoTower,
        image=spec(ClipResNet, dtype=dtype, remat=remat, **fields["image"]),
        text=spec(TextTransformer, dtype=dtype, remat=remat, **fields["text"]),
        **fields["model"],
    )
    image_text_data(config, made_up=smoke, form="shortest", cleaning="lower", bos=True)
    config.preprocess.mean, config.preprocess.std = CLIP_MEAN, CLIP_STD
    steps = config.get_ref("steps")
    config.optimizer = spec(
        AdamW,
        schedule=spec(cosine, peak=5e-4, steps=steps, warmup_steps=steps // 195),
        b2=0.999,
        eps=1e-8,
        weight_decay=0.2,
        clip_norm=None,
        clamps=(("log_scale", None, math.log(100)),),  # scale at most 100
    )
    config.goals.contrastive = spec(Goal, objective=spec(Contrastive))
    config.evaluators.objectives = spec(Objectives)
    config.evaluators.retrieval = spec(Retrieval)
    return config
