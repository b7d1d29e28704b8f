"""What a config's step takes, told without its data where the contract says enough."""

import inspect
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.config import ConfigError, build, public_path
from mmjax.data.sources.base import CAUSES
from mmjax.data.transforms.mask_regions import MaskRegions
from mmjax.data.transforms.regions import FORMS, Regions
from mmjax.data.transforms.stored import Stored
from mmjax.run.assembly import RECIPE, assemble, check_stream, make_recipe
from mmjax.run.beginning import stream_makers
from mmjax.run.settings import check_keys
from mmjax.training.step import Recipe
from mmjax.typing import WORDS

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
    every: Shapes = {}
    several = "target" not in config.data
    streams = list(config.data) if several else ["main"]
    for name, goal in recipe.goals.items():
        check_stream(name, goal.stream, streams)
        rows = config.data[goal.stream].batch_size if several else config.batch_size
        place = config.data[goal.stream] if several else config
        known = _words(recipe, rows, _pictures(place)) | _of_record(recipe, rows, place)
        words = shapes.setdefault(goal.stream, {})
        needed = (*ALWAYS, *goal.objective.needs)
        words |= {word: known[word] for word in needed if word in known}
        every[goal.stream] = known
    begun = _begun_with(recipe)
    for stream, words in shapes.items():  # a text that is read masked is there as it stands too
        if "text_mask" in words:
            words |= {word: every[stream][word] for word in begun if word in every[stream]}
    for name, words in shapes.items():
        place = config.data[name] if several else config
        if "masked_regions" in words and _exchanges(place):
            words["region_other"] = every[name]["region_other"]
    if all(word in shapes[g.stream] for g in recipe.goals.values() for word in g.objective.needs):
        return recipe, shapes
    try:
        makers = stream_makers(assemble(config))
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    return recipe, {name: maker.global_shapes for name, maker in makers.items()}


def _begun_with(recipe: Recipe) -> tuple[str, ...]:
    """The words that a model cannot be initialised without; objectives may read others instead."""
    takes = inspect.signature(type(recipe.model).__call__).parameters.values()
    return tuple(one.name for one in takes if one.default is one.empty)


def _first(place: ConfigDict) -> ConfigDict:
    """A stream's dataset, of a mixture the first: the rows of all are alike."""
    return place.data.members[0] if "members" in place.data else place.data


def _exchanges(place: ConfigDict) -> bool:
    """Whether masked regions may become another picture's, which no objective asks for by name."""
    found = (one for one in _first(place).get("transforms", ()) if isinstance(one, ConfigDict))
    named = (one for one in found if one.get("target") == public_path(MaskRegions))
    return any(one.get("other", 0.0) > 0 for one in named)


def _pictures(place: ConfigDict) -> tuple[int, ...]:
    """The axis of pictures, where a stream's samples have several."""
    data = _first(place)
    named = data.fields.images_from if "fields" in data else ()
    return (len(named),) if named else ()


def _of_record(
    recipe: Recipe, rows: int, place: ConfigDict
) -> dict[str, tuple[tuple[int, ...], Any]]:
    """The words that transforms read from records, as large as these say."""
    sizes: dict[str, tuple[int, ...]] = {}
    for transform in _first(place).get("transforms", ()):
        target = transform.get("target") if isinstance(transform, ConfigDict) else None
        if target == public_path(Regions):
            sizes |= _regions(build(transform), getattr(recipe.model, "region_classes", None))
        elif target == public_path(Stored):
            sizes[transform.word] = tuple(transform.shape)
    return {word: ((rows, *shape), np.dtype(WORDS[word].dtype)) for word, shape in sizes.items()}


def _regions(reads: Regions, classes: int | None) -> dict[str, tuple[int, ...]]:
    """{word: its shape in a row} of regions; the classes are as many as the model tells apart."""
    pictures = (len(reads.pictures),) if reads.pictures else ()
    each = (*pictures, reads.count + (reads.boxes == "area"))
    beside = [f"{kind}_{of}" for kind in ("object", "attribute") for of in ("labels", "confidence")]
    sizes = dict.fromkeys(("region_mask", "region_asked", "region_other", *beside), each)
    sizes |= dict.fromkeys(("regions", "masked_regions"), (*each, reads.feature_dim))
    sizes |= {"boxes": (*each, FORMS[reads.boxes])} if reads.boxes else {}
    return sizes | ({"region_classes": (*each, classes)} if classes else {})


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
