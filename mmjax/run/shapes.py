"""What a config's step takes, told without its data where the contract says enough."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.config import ConfigError, build
from mmjax.data.sources.base import CAUSES
from mmjax.data.transforms.regions import FORMS
from mmjax.run.assembly import RECIPE, assemble, make_recipe
from mmjax.run.beginning import stream_makers
from mmjax.run.settings import check_keys
from mmjax.run.written import kind, specs
from mmjax.training.step import Recipe

ALWAYS = ("row", "valid", "bad_samples", "sample_id")

Shapes = dict[str, dict[str, tuple[tuple[int, ...], Any]]]


def recipe_and_shapes(config: ConfigDict) -> tuple[Recipe, Shapes]:
    """(recipe, {stream: {word: (global shape, dtype)}}) of a config.

    Pictures and texts are as large as the contract says, so no file is opened and no tokenizer
    trained. Where an objective needs other words, such as features, the data is asked.

    Raises:
      ConfigError: as a run of it would.
    """
    check_keys(config)
    recipe = make_recipe(build({key: config[key] for key in RECIPE}))
    shapes: Shapes = {}
    for goal in recipe.goals.values():
        several = "target" not in config.data
        rows = config.data[goal.stream].batch_size if several else config.batch_size
        place = config.data[goal.stream] if several else config
        known = _words(recipe, rows, _pictures(place)) | _regions(place, rows)
        words = shapes.setdefault(goal.stream, {})
        needed = (*ALWAYS, *goal.objective.needs)
        words |= {word: known[word] for word in needed if word in known}
    if all(word in shapes[g.stream] for g in recipe.goals.values() for word in g.objective.needs):
        return recipe, shapes
    try:
        makers = stream_makers(assemble(config))
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    return recipe, {name: maker.global_shapes for name, maker in makers.items()}


def _pictures(place: ConfigDict) -> tuple[int, ...]:
    """The axis of pictures, where a stream's samples have several."""
    data = place.data.members[0] if "members" in place.data else place.data
    named = data.fields.images_from if "fields" in data else ()
    return (len(named),) if named else ()


def _regions(place: ConfigDict, rows: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """The words of regions, as large as the data's `Regions` makes them."""
    told = next((node for node in specs(place.data) if kind(node) == "Regions"), None)
    if told is None:
        return {}
    number = told.count + (told.boxes == "area")  # the mean stands first
    shape = (rows, *((len(told.pictures),) if told.pictures else ()), number)
    return {
        "regions": ((*shape, told.feature_dim), np.dtype(np.float32)),
        "boxes": ((*shape, FORMS[told.boxes]), np.dtype(np.float32)),
        "region_mask": (shape, np.dtype(bool)),
    }


def _words(
    recipe: Recipe, rows: int, pictures: tuple[int, ...]
) -> dict[str, tuple[tuple[int, ...], Any]]:
    """The words whose size the config says."""
    answers = getattr(recipe.model, "answers", None)
    classes = getattr(recipe.model, "num_classes", None)
    size, length = recipe.contract.image_size, recipe.contract.sequence_length
    patches = recipe.contract.max_patches
    return {
        "image": ((rows, *pictures, size, size, 3), np.dtype(np.uint8)),
        "image_mask": ((rows, *pictures, size, size), np.dtype(bool)),
        "patches": ((rows, patches, 3 * recipe.contract.patch_size**2), np.dtype(np.uint8)),
        "patch_mask": ((rows, patches), np.dtype(bool)),
        "patch_grid": ((rows, 2), np.dtype(np.int32)),
        "token_ids": ((rows, length), np.dtype(np.int32)),
        "text_mask": ((rows, length), np.dtype(bool)),
        **{word: ((rows, length), np.dtype(np.int32)) for word in ("masked_ids", "mlm_labels")},
        **{word: ((rows,), np.dtype(np.int32)) for word in ("label", "truth")},
        **({"answer_scores": ((rows, answers), np.dtype(np.float32))} if answers else {}),
        **({"labels": ((rows, classes), np.dtype(np.float32))} if classes else {}),
        "row": ((rows,), np.dtype(np.int32)),
        "valid": ((rows,), np.dtype(bool)),
        "bad_samples": ((rows, len(CAUSES)), np.dtype(np.int32)),
        **{word: ((rows, 2), np.dtype(np.int32)) for word in ("sample_id", "caption_id", "group")},
    }
