"""What a config's step takes, told without its data where the contract says enough."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.config import ConfigError, build
from mmjax.data.sources.base import CAUSES
from mmjax.run.assembly import assemble
from mmjax.run.beginning import stream_makers
from mmjax.run.settings import check_keys
from mmjax.training.step import Recipe

Shapes = dict[str, dict[str, tuple[tuple[int, ...], Any]]]


def recipe_and_shapes(config: ConfigDict) -> tuple[Recipe, Shapes]:
    """(recipe, {stream: {word: (global shape, dtype)}}) of a config.

    Pictures and texts are as large as the contract says, so no file is opened and no tokenizer
    trained. Where an objective needs other words, such as features, the data is asked.

    Raises:
      ConfigError: as a run of it would.
    """
    check_keys(config)
    goals = build(config.goals)
    recipe = Recipe(
        model=build(config.model),
        goals=goals,
        optimizer=build(config.optimizer),
        contract=build(config.preprocess),
        seed=config.seed,
        ema=config.ema,
    )
    names = {goal.stream for goal in goals.values()}
    rows = {
        name: config.batch_size if "target" in config.data else config.data[name].batch_size
        for name in names
    }
    shapes = {name: _words(recipe, size) for name, size in rows.items()}
    needed = {word for goal in goals.values() for word in goal.objective.needs}
    if needed <= set(_words(recipe, 1)):
        return recipe, shapes
    try:
        makers = stream_makers(assemble(config))
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    return recipe, {name: maker.global_shapes for name, maker in makers.items()}


def _words(recipe: Recipe, rows: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """The words of pictures with texts, and those that every batch has."""
    size, length = recipe.contract.image_size, recipe.contract.sequence_length
    return {
        "image": ((rows, size, size, 3), np.dtype(np.uint8)),
        "token_ids": ((rows, length), np.dtype(np.int32)),
        "text_mask": ((rows, length), np.dtype(bool)),
        "label": ((rows,), np.dtype(np.int32)),
        "row": ((rows,), np.dtype(np.int32)),
        "valid": ((rows,), np.dtype(bool)),
        "bad_samples": ((rows, len(CAUSES)), np.dtype(np.int32)),
        **{word: ((rows, 2), np.dtype(np.int32)) for word in ("sample_id", "caption_id", "group")},
    }
