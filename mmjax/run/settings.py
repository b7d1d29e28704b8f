"""The keys that every config has, with the values most runs keep."""

from typing import Any

from ml_collections import ConfigDict

from mmjax.config import ConfigError, nearest, spec
from mmjax.data.dataset import Dataset
from mmjax.data.datasets.scenes import Scenes
from mmjax.data.fields import Fields
from mmjax.data.pipeline import Reading
from mmjax.data.sources.fetching import Fetching
from mmjax.data.tokenizers.training import SMALLEST_VOCABULARY
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.image import RandomResizedCrop
from mmjax.data.transforms.resize import Resize
from mmjax.data.transforms.text import Tokenize
from mmjax.parallel.layout import WHOLE_ABOVE_BYTES
from mmjax.parallel.limits import Watchdog
from mmjax.preprocess import Contract
from mmjax.training.loop import Rhythm
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.precision import PARAMS_DTYPES
from mmjax.training.schedules import warmup_stable_decay
from mmjax.training.statistics import check_choice
from mmjax.training.warm_start import check_renaming
from mmjax.training.weights_and_biases import check_installed


def base_config(
    steps: int, batch_size: int, seed: int = 0, log_steps: int = 50, save_steps: int = 1000
) -> ConfigDict:
    """What a config starts from; the recipe then adds model, data, goals and optimizer.

    Numbers that run through are references: take `config.get_ref('steps')` into a spec, and an
    override of the one changes all.

    Args:
      steps: of the whole run.
      batch_size: rows of the global batch of a stream.
      seed: of everything random.
      log_steps: between two lines of metrics.
      save_steps: between two checkpoints.
    """
    config = ConfigDict()
    config.steps = steps
    config.batch_size = batch_size
    config.seed = seed
    config.micro_batches = 1  # parts of a batch, for less memory; the gradient stays the same
    config.statistics = "batch"  # whose normalise: 'batch', 'micro' (-batches) or 'frozen'
    config.log_steps = log_steps
    config.eval_steps = 0
    config.save_steps = save_steps
    config.eval_batch_size = config.get_ref("batch_size") * 1
    config.keep_last = 2
    config.best_metric = ""  # e.g. 'retrieval/text_to_image/R@1'; '' keeps the last ones alone
    config.best_is_lowest = False  # True where the best is the lowest, as of a loss
    config.ema = 0.0
    config.params_dtype = "float32"  # 'bfloat16': kernels within the step, beside a float32 master
    config.init_from = ""  # a workdir or checkpoint of ours, or published weights (mmjax.load)
    config.init_rules = (("(.*)", r"\1"),)  # ordered (pattern of its paths, our path or '')
    config.init_fresh = ()  # patterns of our arrays that init_from leaves as they are
    config.init_ema = False
    config.init_differs = ()  # what may differ from the source, e.g. ('model.image.activation',)
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    config.sharding_rules = ()  # (path pattern, spec) before those of mmjax.parallel.layout
    config.whole_above_bytes = WHOLE_ABOVE_BYTES  # larger arrays are not left whole on each device
    config.tokenizer = ConfigDict(
        {  # names of special tokens are for a tokenizer.json that calls them otherwise than most
            "path": "",
            "vocab_size": 8192,
            "bos_token": "",
            "eos_token": "",
            "pad_token": "",
        }
    )
    config.answers = ConfigDict({"path": ""})  # vocabulary of answers, made by `mmjax answers`
    config.compilation_cache = True
    config.tensorboard = True
    config.wandb_project = ""  # of Weights & Biases, e.g. 'towers'; '' sends nothing
    config.reading = spec(Reading)
    config.watchdog = spec(Watchdog)
    config.rhythm = spec(
        Rhythm,
        log_steps=config.get_ref("log_steps"),
        eval_steps=config.get_ref("eval_steps"),
        save_steps=config.get_ref("save_steps"),
    )
    config.goals = ConfigDict()
    config.evaluators = ConfigDict()
    return config


def smoke_sizes(fields: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A published model's fields with towers of two narrow blocks; everything else as it is."""
    small = {"dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 64}
    return {
        "image": {**fields["image"], **small, "patch_size": 8},
        "text": {**fields["text"], **small},
        "model": {**fields["model"], "embed_dim": 32},
    }


def falling_adamw(
    config: ConfigDict, peak: float, warmup_part: int = 10, **fields: Any
) -> ConfigDict:
    """AdamW whose rate warms up and then falls in a straight line to 0, as BERT is trained.

    Args:
      config: of `base_config`; its steps are the length of the schedule.
      peak: the highest rate.
      warmup_part: the steps divided by this warm up.
      fields: further ones of `AdamW`.
    """
    steps = config.get_ref("steps")
    warmup = steps // warmup_part
    schedule = spec(
        warmup_stable_decay,
        peak=peak,
        steps=steps,
        warmup_steps=warmup,
        decay_steps=steps - warmup,
    )
    return spec(AdamW, schedule=schedule, **fields)


REQUIRED = ("model", "goals", "optimizer", "preprocess", "data")


# Sizes that a config may say at its top.
POSITIVE = ("batch_size", "eval_batch_size", "image_size", "sequence_length", "vocab_size")
POSITIVE += ("max_patches",)


def check_keys(config: ConfigDict) -> None:
    """Raises ConfigError where a config lacks a key that a run needs, or is no training config."""
    for key in REQUIRED:
        if key not in config:
            raise ConfigError(f"the config has no {key!r}.{nearest(key, sorted(config))}")
    if config.steps < 1:
        raise ConfigError(f"steps={config.steps}: a run has at least 1 step.")
    for key in POSITIVE:
        if isinstance(value := config.get(key), int) and value < 1:
            raise ConfigError(f"{key}={value}: give 1 or more.")
    if not -(2**63) <= config.seed < 2**63:
        raise ConfigError(f"seed={config.seed}: a whole number of at most 64 bits.")
    if not config.tokenizer.path and config.tokenizer.vocab_size < SMALLEST_VOCABULARY:
        raise ConfigError(
            f"tokenizer.vocab_size={config.tokenizer.vocab_size}: a tokenizer that is trained here "
            f"has at least {SMALLEST_VOCABULARY} tokens (256 bytes and the special ones)."
        )
    try:
        check_renaming(config.init_rules, config.init_fresh)
        if config.wandb_project:
            check_installed(config.wandb_project)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if config.keep_last < 2:
        raise ConfigError(
            f"keep_last={config.keep_last}: at least 2, so that a damaged checkpoint has one to "
            "fall back on."
        )
    if config.best_metric:
        evaluator = config.best_metric.removeprefix("ema/").split("/")[0]
        if evaluator not in config.evaluators:
            raise ConfigError(
                f"best_metric={config.best_metric!r} is of no evaluator; it reads like "
                f"'retrieval/text_to_image/R@1'.{nearest(evaluator, sorted(config.evaluators))}"
            )
    if config.best_metric and (not config.eval_steps or config.save_steps % config.eval_steps):
        raise ConfigError(
            f"best_metric={config.best_metric!r} is measured when a state is saved: save_steps="
            f"{config.save_steps} has to be a multiple of eval_steps={config.eval_steps}."
        )
    if config.params_dtype not in PARAMS_DTYPES:
        raise ConfigError(
            f"params_dtype={config.params_dtype!r} is none of {', '.join(PARAMS_DTYPES)}."
        )
    try:
        check_choice(config.get("statistics", "batch"))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not 0 <= config.ema < 1:
        raise ConfigError(f"ema={config.ema}: a decay is at least 0 and below 1 (0 keeps none).")


def image_text_data(
    config: ConfigDict,
    made_up: bool = False,
    form: str = "squash",
    scale: tuple[float, float] = (0.9, 1.0),
    cleaning: str = "none",
    bos: bool = True,
) -> None:
    """Adds pictures with captions to train and evaluate on: data, eval_data and preprocess.

    Args:
      config: has image_size and sequence_length; data.path and eval_data.path are left to give.
      made_up: draw scenes instead, for a smoke run without files.
      form: how evaluation brings a picture to size, see `Resize`.
      scale: part of the picture's area that training cuts out.
      cleaning: of captions, see `clean_text`.
      bos: whether texts begin with a start token, as CLIP's do and SigLIP's do not.
    """
    size, length = config.get_ref("image_size"), config.get_ref("sequence_length")
    words = {"length": length, "bos": bos, "eos": True, "cleaning": cleaning}
    tokenize = spec(Tokenize, partial=("tokenizer",), **words)
    fields = {"image_from": "image"} if made_up else {}
    config.preprocess = spec(
        Contract,
        image_size=size,
        resize=form,
        sequence_length=length,
        text_cleaning=cleaning,
        bos=bos,
    )
    config.data = spec(
        Dataset,
        fetching=spec(Fetching),
        source=spec(Scenes, num_scenes=64, image_size=size) if made_up else None,
        fields=spec(Fields, **fields),
        transforms=(spec(RandomResizedCrop, size=size, scale=scale), spec(PickCaption), tokenize),
    )
    config.eval_data = spec(
        Dataset,
        fetching=spec(Fetching),
        source=spec(Scenes, split="held_out", num_scenes=16, image_size=size) if made_up else None,
        fields=spec(Fields, **fields),
        transforms=(spec(Resize, size=size, form=form), spec(PickCaption, first=True), tokenize),
    )
