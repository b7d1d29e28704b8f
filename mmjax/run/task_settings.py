"""What the configs of fine-tuning share: their keys, a ViLT to plan with, and the optimizer."""

from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.models.encoders.bert import bert_base
from mmjax.models.fusion.vilt import Vilt, ViltStream
from mmjax.preprocess import Contract
from mmjax.run.settings import base_config, falling_adamw

__all__ = ["task_config", "vilt_model", "warmed_up"]


def task_config(smoke: bool, steps: int, batch_size: int, head_rate: float = 10.0) -> ConfigDict:
    """The keys of a task's config, beside those of all.

    Args:
      smoke: whether it is the tiny form.
      steps: of the whole run.
      batch_size: rows of the global batch.
      head_rate: factor of the rate of the task's head.
    """
    config = base_config(
        steps=steps,
        batch_size=batch_size,
        log_steps=1 if smoke else 50,
        save_steps=1 if smoke else 1_000,
    )
    config.eval_steps = 0 if smoke else 1_000
    config.adopt = ""  # the task for which init_from's model is taken
    config.dtype = "auto"  # bfloat16 on TPU and GPU, float32 on a CPU
    config.remat = "none" if smoke else "dots_no_batch"
    config.layer_rate = 1.0  # factor of the rate from a layer to the one below it
    config.head_rate = head_rate  # factor of the rate of the task's head
    return config


def vilt_model(config: ConfigDict, smoke: bool, head: str) -> None:
    """Adds ViLT-B/32 (a tiny one for a smoke run), which stands until another model is adopted.

    Args:
      config: of `task_config`; gets image_size (of a picture's shorter side), num_regions (for
        models that read regions), sequence_length, vocab_size, model and preprocess.
      smoke: whether it is the tiny one.
      head: 'answer' or 'reasoning'.

    Source: Kim et al. 2021 (ViLT), section 4.2; dandelin/ViLT, vilt/config.py, for dropout and the
    patches of a picture.
    """
    config.image_size = 32 if smoke else 384
    config.num_regions = 36
    config.sequence_length = 24 if smoke else 40
    config.vocab_size = 512 if smoke else 30_522
    config.tokenizer.vocab_size = config.get_ref("vocab_size")
    shortest, length = config.get_ref("image_size"), config.get_ref("sequence_length")
    patch = 8 if smoke else 32
    size = {"dim": 32, "depth": 1, "num_heads": 2, "mlp_dim": 64} if smoke else bert_base()
    # The canvas of `Padded`, on which a picture lies at the upper left.
    canvas = shortest * 1333 // 800 // patch * patch
    config.model = spec(
        Vilt,
        stream=spec(
            ViltStream,
            vocab_size=config.get_ref("vocab_size"),
            length=length,
            image_size=shortest,
            patch_size=patch,
            # All that a picture on the canvas fills.
            max_patches=None if smoke else shortest // patch * (canvas // patch),
            dropout=0.0 if smoke else 0.1,
            modalities=3 if head == "reasoning" else 2,
            dtype=config.get_ref("dtype"),
            remat=config.get_ref("remat"),
            **size,
        ),
        heads=(head,),
    )
    config.preprocess = spec(
        Contract, image_size=canvas, sequence_length=length, bos=True, eos=True
    )


def warmed_up(config: ConfigDict, peak: float = 1e-4) -> ConfigDict:
    """AdamW as ViLT is fine-tuned: a tenth of the steps warms up, then the rate falls to 0.

    Args:
      config: of `task_config`.
      peak: the highest rate.

    Source: Kim et al. 2021 (ViLT), section 4.2.
    """
    rules = ((r"[a-z]*_?head/.*", config.head_rate), (".*", 1.0))
    return falling_adamw(config, peak, b2=0.98, weight_decay=0.01, rate_rules=rules)
