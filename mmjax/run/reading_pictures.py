"""How a model reads its pictures, and a config's data made to read them so."""

import dataclasses
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from mmjax.config import ConfigError, spec
from mmjax.data.places import places_of
from mmjax.data.transforms.augment import RandAugment
from mmjax.data.transforms.color import ColorJitter
from mmjax.data.transforms.image import RandomFlip, RandomResizedCrop
from mmjax.data.transforms.mask_regions import MaskRegions
from mmjax.data.transforms.naflex import PATCHES, NaFlex
from mmjax.data.transforms.padded import Padded
from mmjax.data.transforms.pictures import EachPicture
from mmjax.data.transforms.regions import Regions
from mmjax.data.transforms.resize import Resize
from mmjax.models.fusion.lxmert import Lxmert
from mmjax.models.fusion.vilbert import Vilbert
from mmjax.models.fusion.vilt import Vilt
from mmjax.models.fusion.visualbert import VisualBert
from mmjax.run.told import Told
from mmjax.run.written import kind, specs

__all__ = ["Reading", "read_so", "reading_of"]

TEXT = ("token_ids", "text_mask")
SIDES = ("left", "right")  # the two pictures of a statement, as sources name them
FRAMES = ("Resize", "Padded")  # which give pictures their size
SQUARED = (*FRAMES, "RandomResizedCrop")  # which leave of a picture's own shape nothing
_SEES = (Resize, Padded, EachPicture, RandAugment, ColorJitter, RandomFlip, RandomResizedCrop)
SEES = tuple(one.__name__ for one in (*_SEES, Regions, MaskRegions))
# What only pretraining reads of a region.
LABELS = ("classes_from", "objects_from", "object_confidence_from")
LABELS += ("attributes_from", "attribute_confidence_from")
LONGEST = (1333, 800)  # see `Padded`


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a model reads pictures.

    Attributes:
      form: 'squares', 'padded', 'patches' or 'regions'.
      words: of a batch, that its `fuse` takes; of 'patches' those that its `encode_image` takes.
      fields: of `Padded` or `Regions`, but for sizes that the config holds.
    """

    form: str
    words: tuple[str, ...]
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)


def reading_of(told: Told) -> Reading:
    """How a source reads pictures: a run of ours as its own data did, a published one as it should.

    Args:
      told: of the source.

    Raises:
      ConfigError: a run of ours that reads regions and does not say from where.
    """
    model = told.model
    if isinstance(model, VisualBert | Lxmert | Vilbert):
        boxes = {VisualBert: "", Lxmert: "corners"}.get(type(model), "area")
        stream = getattr(model, "stream", None)
        dim = stream.region_dim if stream is not None else model.image.feature_dim
        places = ("boxes",) if boxes else ()
        fields = {"feature_dim": dim, "boxes": boxes, **_saved(told, Regions)}
        fields = {name: value for name, value in fields.items() if name not in LABELS}
        return Reading("regions", (*TEXT, "regions", *places, "region_mask"), fields)
    if isinstance(model, Vilt):
        saved = _saved(told, Padded)
        if saved or told.config is None:
            fields = {"patch_size": model.stream.patch_size, **saved}
            fields.pop("shortest", None)
            return Reading("padded", (*TEXT, "image", "image_mask", "row"), fields)
    return Reading("squares", (*TEXT, "image", "row"))


def _saved(told: Told, target: type) -> dict[str, Any]:
    """The arguments of a transform in the config of a run of ours, {} where there is none."""
    if told.config is None:
        return {}
    data = (told.config.get("eval_data"), told.config.get("data"))
    found = next((node for node in specs(data) if kind(node) == target.__name__), None)
    if found is None:
        if target is Regions:
            raise ConfigError(
                f"init_from={told.name}: its config has no Regions transform, so where its regions "
                "lie is not known; say so in a config of your own."
            )
        return {}
    return {name: found[name] for name in found if name not in ("target", "partial")}


def read_so(config: ConfigDict, reading: Reading) -> None:
    """Makes the data of a config read pictures so, and its goals and evaluators ask for the words.

    Args:
      config: unlocked, with image_size, max_patches or num_regions; changed in place.
      reading: of the model.
    """
    for data in (config.data, config.eval_data):
        for node in list(specs(data)):
            if kind(node) == "Dataset":
                with node.unlocked():
                    _dataset(config, node, reading)
    if reading.form in ("squares", "padded"):
        size = config.get_ref("image_size")
        if reading.form == "padded":  # of the canvas
            patch = reading.fields["patch_size"]
            size = size * LONGEST[0] // LONGEST[1] // patch * patch
        del config.preprocess["image_size"]  # a reference would be changed, and what it refers to
        config.preprocess.image_size = size
    for node in specs((config.goals, config.evaluators)):
        with node.unlocked():
            if "fuse" in node:
                node.fuse = ("fuse", reading.words)
            elif node.get("method") == "fuse":
                node.words = reading.words
            elif reading.form == "patches" and "image_words" in node:
                node.image_words = PATCHES
            elif reading.form == "patches" and "image" in node:
                node.image = ("encode_image", reading.words)


def _dataset(config: ConfigDict, node: ConfigDict, reading: Reading) -> None:
    """One dataset whose pictures are read so."""
    if reading.form == "patches":
        node.transforms = _cut(config, node.transforms)
        return
    if reading.form != "regions":
        frame = _frame(config, reading)
        node.transforms = _each(node.transforms, lambda one: frame if kind(one) in FRAMES else one)
        words = tuple(word for word in reading.words if word.startswith("image"))
        for one in specs(node.transforms):
            if kind(one) == "EachPicture":
                with one.unlocked():
                    one.words = words
        return
    fields = {**reading.fields, "count": config.get_ref("num_regions")}
    if node.fields.images_from and not fields.get("pictures"):
        fields |= _of_two(spec(Regions, **fields))
    kept = tuple(one for one in node.transforms if kind(one) not in SEES)
    node.transforms = (spec(Regions, **fields), *kept)
    with node.fields.unlocked():
        node.fields.image_from = ""
        node.fields.images_from = ()


def _cut(config: ConfigDict, transforms: Any) -> tuple[ConfigDict, ...]:
    """Transforms that leave a picture its shape, and cut it when all others are done with it.

    A random crop would take that shape away, so a mirror is what stays of chance.
    """
    kinds = [kind(one) for one in transforms]
    made = [one for one in transforms if kind(one) not in SQUARED]
    if "RandomResizedCrop" in kinds and "RandomFlip" not in kinds:
        made.insert(0, spec(RandomFlip))
    told = {name: config.preprocess[name] for name in ("patch_size", "interpolation")}
    return (*made, spec(NaFlex, max_patches=config.get_ref("max_patches"), **told))


def _frame(config: ConfigDict, reading: Reading) -> ConfigDict:
    size = config.get_ref("image_size")
    if reading.form == "padded":
        return spec(Padded, shortest=size, **reading.fields)
    told = {"form": config.preprocess.resize, "interpolation": config.preprocess.interpolation}
    told |= {name: config.preprocess[name] for name in ("resize_size", "crop_rounding")}
    return spec(Resize, size=size, **told)


def _each(transforms: Any, change: Callable[[ConfigDict], ConfigDict]) -> tuple[ConfigDict, ...]:
    """Transforms, and those inside `EachPicture`, changed one by one."""
    made = []
    for one in transforms:
        if kind(one) == "EachPicture":
            with one.unlocked():
                one.transforms = _each(one.transforms, change)
        made.append(change(one))
    return tuple(made)


def _of_two(regions: ConfigDict) -> dict[str, Any]:
    """The places of two pictures' regions: 'left.npz:features' or 'left_features'."""
    made: dict[str, Any] = {"pictures": SIDES}
    for name in ("features_from", "boxes_from", "width_from", "height_from"):
        places = [
            member if path is None else f"{member}:{path}"
            for member, path in places_of(regions[name])
        ]
        made[name] = ";".join(f"{{}}{mark}{place}" for mark in "._" for place in places)
    return made
