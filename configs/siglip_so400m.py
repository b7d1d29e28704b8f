"""SigLIP So400m/14 at 384 pixels.

Reproduces: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", with the tower of
            Alabdulmohsin et al. 2023, "Getting ViT in Shape".
Command:    python train.py --config=configs/siglip_so400m.py --workdir=... \
                --config.data.path='train-{00000..01023}.tar' --config.eval_data.path='val-*.tar'
Devices:    a v5e 16x16 slice. The state of 10.5 GB is cut along one ring (mesh.fsdp=16; a number
            of devices that 16 does not divide needs another), which leaves 0.7 GB of it to a chip.
            Not run on TPUs by us.
Expect:     83.2 % ImageNet zero-shot after 40 billion samples of WebLI (published: big_vision,
            configs/proj/image_text/README_siglip.md); not measured here.
Differs:    captions are tokenised by a vocabulary of your own.
"""

from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.evaluation.objectives import Objectives
from mmjax.evaluation.retrieval import Retrieval
from mmjax.models.dual.two_tower import TwoTower, siglip_so400m14
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.run.settings import base_config, image_text_data, smoke_sizes
from mmjax.training.optimizers.adafactor import Adafactor
from mmjax.training.schedules import cosine
from mmjax.training.step import Goal


def get_config(variant: str = "") -> ConfigDict:
    """The run; 'smoke' is two steps of a tiny one on drawn scenes."""
    smoke = variant == "smoke"
    config = base_config(
        steps=2 if smoke else 1_220_700,  # 40 billion samples
        batch_size=8 if smoke else 32_768,
        log_steps=1 if smoke else 50,
        save_steps=1 if smoke else 5_000,
    )
    config.mesh.fsdp = 1 if smoke else 16
    config.image_size = 32 if smoke else 384
    config.sequence_length = 16 if smoke else 64
    config.vocab_size = 512 if smoke else 32_000
    config.dtype = "auto"  # bfloat16 on TPU and GPU, float32 on a CPU
    config.tokenizer.vocab_size = config.get_ref("vocab_size")
    config.eval_steps = 0 if smoke else 20_000
    fields = smoke_sizes(siglip_so400m14()) if smoke else siglip_so400m14()
    remat = "none" if smoke else "full"
    fields["image"] |= {"image_size": config.get_ref("image_size")}
    fields["text"] |= {
        "vocab_size": config.get_ref("vocab_size"),
        "length": config.get_ref("sequence_length"),
    }
    dtype = config.get_ref("dtype")
    config.model = spec(
        TwoTower,
        image=spec(ViT, dtype=dtype, remat=remat, **fields["image"]),
        text=spec(TextTransformer, dtype=dtype, remat=remat, **fields["text"]),
        **fields["model"],
    )
    image_text_data(config, made_up=smoke, scale=(0.9, 1.0), cleaning="canonicalize", bos=False)
    steps = config.get_ref("steps")
    config.optimizer = spec(
        Adafactor,
        schedule=spec(cosine, peak=1e-3, steps=steps, warmup_steps=steps // 50),
        b2_cap=0.95,
        weight_decay=0.1,  # decoupled: 1e-4 at the peak rate
    )
    config.goals.sigmoid = spec(Goal, objective=spec(Sigmoid))
    config.evaluators.objectives = spec(Objectives)
    config.evaluators.retrieval = spec(Retrieval)
    return config
