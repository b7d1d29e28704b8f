"""All that a run changes, as one pytree: what the step takes and returns and a checkpoint holds."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.data.sources.base import CAUSES
from mmjax.typing import PyTree

_MILLION = 1_000_000


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """The state of a run.

    Attributes:
      step: batches taken so far, skipped updates included; also the position in the data.
      params: the model's parameters; an objective's own stand under params['objectives'][name].
      opt_state: the optimizer's, for trainable parameters alone.
      ema: moving average of the trainable parameters, {} where the run keeps none.
      batch_stats: running statistics of the model, {} where it has none.
      objectives: {name: memory of an objective}.
      counters: 'samples' (millions, rest), 'bad_samples' by cause, 'skipped' updates in all and
        'skipped_in_a_row'.
    """

    step: Any
    params: PyTree
    opt_state: PyTree
    ema: PyTree
    batch_stats: PyTree
    objectives: PyTree
    counters: Mapping[str, Any]


def new_counters() -> dict[str, Any]:
    """Counters of a run that has not begun."""
    return {
        "samples": jnp.zeros(2, jnp.int32),
        "bad_samples": jnp.zeros(len(CAUSES), jnp.int32),
        "skipped": jnp.zeros((), jnp.int32),
        "skipped_in_a_row": jnp.zeros((), jnp.int32),
    }


def add_samples(samples: Any, number: Any) -> Any:
    """(millions, rest) with `number` more: 32 bits alone would overflow at two billion."""
    rest = samples[1] + number
    return jnp.stack([samples[0] + rest // _MILLION, rest % _MILLION])


def samples_seen(samples: Any) -> int:
    """The plain number behind (millions, rest)."""
    return int(samples[0]) * _MILLION + int(samples[1])
