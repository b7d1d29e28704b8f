"""What the fields of a model and of its towers may hold, told before anything is traced."""

import dataclasses
import math
from typing import Any

from mmjax.config import ConfigError
from mmjax.models.layers.attend import IMPLEMENTATIONS
from mmjax.models.layers.compute import DTYPES
from mmjax.models.layers.mlp import ACTIVATIONS
from mmjax.models.layers.remat import REMAT

# Fields that count something there is at least one of.
SIZES = ("dim", "depth", "num_heads", "mlp_dim", "patch_size", "image_size", "length", "vocab_size")
SIZES += ("embed_dim",)
EPSILONS = ("norm_epsilon", "epsilon")  # added under a root
# Of our own classes, which all mean the same by these; others' may have further choices.
CHOICES = {
    "activation": tuple(ACTIVATIONS),
    "attention": IMPLEMENTATIONS,
    "dtype": DTYPES,
    "remat": REMAT,
}


def check_fields(model: Any, where: str) -> None:
    """Raises ConfigError for what a field of a model, or of a part of it, cannot be."""
    own = type(model).__module__.startswith("mmjax.")
    for field in dataclasses.fields(model) if dataclasses.is_dataclass(model) else ():
        value = getattr(model, field.name, None)
        least = 0 if field.name == "depth" else 1  # of regions a tower may have no block
        if field.name in SIZES and isinstance(value, int) and value < least:
            raise ConfigError(f"{where}.{field.name}={value}: give {least} or more.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{where}.{field.name}={value}: give a finite number.")
        if field.name in EPSILONS and value < 0:  # a root of less than 0
            raise ConfigError(f"{where}.{field.name}={value}: give 0 or more.")
        choices = CHOICES.get(field.name, ()) if own and isinstance(value, str) else ()
        if choices and value not in choices:
            raise ConfigError(f"{where}.{field.name}={value!r} is none of {', '.join(choices)}.")
        if field.name not in ("parent", "name"):
            check_fields(value, f"{where}.{field.name}")
