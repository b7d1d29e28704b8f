"""Regions of a picture that somebody's detector found: features, boxes, what it takes them for."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32

from mmjax.data.arrays import numbers
from mmjax.data.places import Reader, places_of
from mmjax.data.sources.base import BadSample

FORMS = {"corners": 4, "area": 5, "": 0}  # numbers of a box
WHOLE = (0.0, 0.0, 1.0, 1.0, 1.0)
_SLACK = 1e-5  # of a side: what rounding may put a box beyond the picture's edge
_SUMS = 1e-2  # by how much probabilities, perhaps of 16 bits, may miss a sum of 1
# {option: (word, what fills up)} of numbers that stand beside each region
_BESIDE = {
    "classes_from": ("region_classes", 0.0),
    "objects_from": ("object_labels", -1.0),
    "object_confidence_from": ("object_confidence", 0.0),
    "attributes_from": ("attribute_labels", -1.0),
    "attribute_confidence_from": ("attribute_confidence", 0.0),
}
_CONFIDENCES = {
    "object_labels": ("object_confidence_from", "object_confidence"),
    "attribute_labels": ("attribute_confidence_from", "attribute_confidence"),
}
_PLACES = ("features_from", "boxes_from", "width_from", "height_from", *_BESIDE)


@dataclasses.dataclass(frozen=True)
class Regions:
    """Reads 'regions', 'region_mask' and 'boxes' from the sample's record, in a model's own form.

    A place is a member that holds an array (a `.npy` file, an array or lists), or a member and the
    array of its `.npz`, or the field of its JSON, that does: 'features.npy', 'npz:features',
    'json:regions.features'. Several with ';' between them are tried in order. An array of one axis
    holds its rows one after another.

    The first `count` regions are kept, since detectors put the surest first; fewer are filled up
    and masked. A box is stored as x1, y1, x2, y2 in pixels, or, where width_from and height_from
    are '', as parts of width and height.

    Attributes:
      count: regions of a picture, 1 or more.
      feature_dim: numbers that describe a region.
      boxes: 'corners' gives x1, y1, x2, y2 as parts of the picture's width and height (LXMERT);
        'area' these and the part of the picture that is covered, and puts one region more at the
        beginning: the mean of those kept, with the box 0, 0, 1, 1, 1 (ViLBERT); '' no boxes
        (VisualBERT).
      pictures: names of a row's pictures, where it has several: '{}' in each place stands for the
        name, and words get an axis of pictures before that of the regions.
      features_from: the features.
      boxes_from: the boxes.
      width_from: the picture's width in pixels.
      height_from: the picture's height in pixels.
      classes_from: the detector's probabilities of classes for 'region_classes', '' for none.
      objects_from: numbers of the objects for 'object_labels', below 0 for unknown; '' for none.
      object_confidence_from: how sure these are, 0 to 1, for 'object_confidence'; '' takes 1.
      attributes_from: numbers of the attributes for 'attribute_labels', as objects_from.
      attribute_confidence_from: how sure these are, for 'attribute_confidence'; '' takes 1.

    Raises:
      ValueError: an option outside of these, or places that do not go together.

    Source: airsplay/lxmert, src/pretrain/lxmert_data.py, for 'corners'; Lu et al. 2019 (ViLBERT),
    section 2.2, and facebookresearch/vilbert-multi-task, vilbert/datasets/_image_features_reader.py
    for 'area'; Li et al. 2019 (VisualBERT), section 3.2.
    """

    count: int = 36
    feature_dim: int = 2048
    boxes: str = "corners"
    pictures: tuple[str, ...] = ()
    features_from: str = "npz:features;features.npy;features"
    boxes_from: str = "npz:boxes;boxes.npy;boxes"
    width_from: str = "npz:width;width"
    height_from: str = "npz:height;height"
    classes_from: str = ""
    objects_from: str = ""
    object_confidence_from: str = ""
    attributes_from: str = ""
    attribute_confidence_from: str = ""
    leaves_pending: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.count < 1 or self.feature_dim < 1:
            raise ValueError(
                f"count={self.count} and feature_dim={self.feature_dim} are 1 or more."
            )
        if self.boxes not in FORMS:
            raise ValueError(f"boxes={self.boxes!r}; it is one of 'corners', 'area' or '' (none).")
        for option in _PLACES:
            places = getattr(self, option)
            for member, path in places_of(places):
                if not member or path == "":
                    raise ValueError(
                        f"{option}={places!r}; write it as 'features.npy', 'npz:features' or "
                        "'json:field', with ';' between several."
                    )
                if ("{}" in f"{member}:{path}") != bool(self.pictures):
                    raise ValueError(
                        f"{option}={places!r} with pictures={self.pictures}: '{{}}' in a place "
                        "stands for a picture's name, in all places where there are several."
                    )
        if not self.features_from or (self.boxes and not self.boxes_from):
            raise ValueError(
                f"features_from={self.features_from!r}, boxes_from={self.boxes_from!r}: features "
                f"are needed, and boxes where boxes={self.boxes!r}."
            )
        if bool(self.width_from) != bool(self.height_from):
            raise ValueError("give both width_from and height_from, or '' for both.")
        for word, (option, _) in _CONFIDENCES.items():
            labels = next(name for name, (made, _) in _BESIDE.items() if made == word)
            if getattr(self, option) and not getattr(self, labels):
                raise ValueError(f"{option} is given and {labels} is not.")

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Set the words, and sample['mean_first'], which `MaskRegions` goes by; draws nothing.

        Raises:
          BadSample: 'missing' with the members found; 'format' where a member holds something
            else, features of another width, boxes outside of the picture, or no region at all.
        """
        reader = Reader(sample["record"])
        if self.pictures:
            each = [self._picture(reader, name) for name in self.pictures]
            sample |= {word: np.stack([made[word] for made in each]) for word in each[0]}
        else:
            sample |= self._picture(reader, "")
        sample["mean_first"] = self.boxes == "area"
        return sample

    def _picture(self, reader: Reader, name: str) -> dict[str, np.ndarray]:
        """The words of one picture."""
        where, features = self._array(reader, name, "features_from")
        features = _float32(_rows(features, where, None, self.feature_dim))
        _check(np.isfinite(features).all(), where, "holds numbers that are not finite")
        found, kept = len(features), min(len(features), self.count)
        _check(found > 0, where, "has no regions")
        made = {"regions": (features[:kept], 0.0)}
        if self.boxes:
            made["boxes"] = (self._boxes(reader, name, found)[:kept], 0.0)
        for option, (word, filling) in _BESIDE.items():
            if getattr(self, option):
                where, array = self._array(reader, name, option)
                made[word] = (_beside(word, array, where, found)[:kept], filling)
        for labels, (_, word) in _CONFIDENCES.items():
            if labels in made and word not in made:
                made[word] = (np.ones(kept, np.float32), 0.0)
        words = {word: self._filled(word, x, filling) for word, (x, filling) in made.items()}
        words["region_mask"] = np.arange(len(words["regions"])) < kept + (self.boxes == "area")
        return words

    def _filled(self, word: str, x: np.ndarray, filling: float) -> np.ndarray:
        """Numbers of the kept regions filled up to `count`, behind those of the whole picture."""
        first = self.boxes == "area"
        out = np.full((first + self.count, *x.shape[1:]), filling, x.dtype)
        out[first : first + len(x)] = x
        if first and word == "regions":
            out[0] = x.mean(axis=0)
        elif first and word == "boxes":
            out[0] = WHOLE
        return out

    def _array(self, reader: Reader, name: str, option: str) -> tuple[str, np.ndarray]:
        """(what errors call it, the array of an option's place)."""
        places = getattr(self, option).replace("{}", name)
        place, value = reader.find(option, places)
        return reader.where(place), numbers(value, reader.where(place))

    def _boxes(self, reader: Reader, name: str, found: int) -> Float32[np.ndarray, "found places"]:
        """All boxes of a picture in the form asked for."""
        where, given = self._array(reader, name, "boxes_from")
        boxes = _rows(given, where, found, 4).astype(np.float64)
        sides = [1.0, 1.0]
        for n, option in enumerate(("width_from", "height_from")):
            if getattr(self, option):
                at, side = self._array(reader, name, option)
                _check(side.size == 1 and 0 < side.min() < np.inf, at, "is no length in pixels")
                sides[n] = float(side.reshape(()))
        parts = boxes / np.array(sides * 2)
        inside = (parts >= -_SLACK) & (parts <= 1 + _SLACK)  # False for what is not a number
        ordered = (parts[:, :2] <= parts[:, 2:]).all(axis=1)
        wrong = np.flatnonzero(~(inside.all(axis=1) & ordered))
        if len(wrong):
            raise BadSample(
                "format",
                f"{where}: box {wrong[0]} is {boxes[wrong[0]].tolist()} in a picture of "
                f"{sides[0]:g} x {sides[1]:g}; x1, y1, x2, y2 lie within it and in this order.",
            )
        parts = parts.clip(0, 1)
        if self.boxes == "area":
            covered = (parts[:, 2] - parts[:, 0]) * (parts[:, 3] - parts[:, 1])
            parts = np.concatenate([parts, covered[:, None]], axis=1)
        return parts.astype(np.float32)


def _rows(x: np.ndarray, where: str, rows: int | None, columns: int | None) -> np.ndarray:
    """An array of two axes, from one that has them or holds its rows one after another."""
    if x.ndim == 1 and rows and columns is None and x.size % rows == 0:
        columns = x.size // rows
    if x.ndim == 1 and columns and x.size % columns == 0:
        x = x.reshape(-1, columns)
    wanted = ("any" if rows is None else rows, "any" if columns is None else columns)
    fits = x.ndim == 2 and rows in (None, x.shape[0]) and columns in (None, x.shape[1])
    _check(fits, where, f"is {x.shape}, not [regions, numbers] of {wanted[0]} and {wanted[1]}")
    return x


def _beside(word: str, x: np.ndarray, where: str, found: int) -> np.ndarray:
    """Numbers that stand beside each region, checked."""
    if word == "region_classes":
        x = _float32(_rows(x, where, found, None))
        sound = (x >= 0).all() and (abs(x.sum(axis=1) - 1) < _SUMS).all()
        _check(sound, where, "holds no probabilities: 0 or more, each region's sum 1")
        return x
    _check(x.shape == (found,), where, f"is {x.shape} for {found} regions, which have one each")
    if word.endswith("_labels"):
        _check(x.dtype.kind in "iu", where, "holds no whole numbers")
        _check((x >= -(1 << 31)).all() and (x < 1 << 31).all(), where, "holds no class numbers")
        return np.maximum(x.astype(np.int64), -1).astype(np.int32)
    _check(((x >= 0) & (x <= 1)).all(), where, "holds numbers that are not of 0 to 1")
    return x.astype(np.float32)


def _float32(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # it becomes infinite, and is refused as such
        return x.astype(np.float32)


def _check(right: Any, where: str, wrong: str) -> None:
    if not right:
        raise BadSample("format", f"{where} {wrong}.")
