"""NLVR: statements about a drawn picture of three boxes, true or false."""

import hashlib
import itertools
import re
from typing import Any

import numpy as np

from mmjax.data.datasets.statement_files import statements
from mmjax.data.sources.base import BadSample, Record, Source, digest
from mmjax.data.sources.named import NamedPictures, some
from mmjax.data.sources.packed import PackedRows

__all__ = ["NLVR", "sides"]

SPLITS = ("all", "train", "held_out")
SHAPES = ("square", "circle", "triangle")
COLOURS = ("yellow", "black", "#0099ff")
SIZES = (10, 20, 30)  # pixels
WIDTH, HEIGHT = 400, 100  # of a picture, in pixels
STEP = 150  # from one box of a picture to the next, in pixels
ORDERS = tuple(itertools.permutations(range(3)))  # of the boxes, by a picture's last number
_NAME = re.compile(r"(.+)-(\d+-\d+)-([0-5])")


class NLVR(Source):
    """One statement about one picture a record, of NLVR's official files.

    A record holds the picture under its extension (400 x 100), 'statement', 'truth' (bool, where
    the file has labels), 'identifier' (the picture's name, 'dev-1572-0-0': split, presentation,
    picture, order of the boxes; so consistency by NLVR2's rule is that of a sentence over its
    presentation's pictures), and the objects of the drawing as regions: 'boxes' (float32
    [objects, 4]: x1, y1, x2, y2 in pixels), 'features' (float32 [objects, 12], one-hot: shape,
    colour, size, which box), 'classes' (float32 [objects, 9]: shape and colour), 'width', 'height'.

    Licence: CC-BY-4.0 (Suhr, Lewis, Yeh, Artzi, ACL 2017). Source of the data:
    github.com/lil-lab/nlvr.

    Args:
      path: the official files, one JSON object a line; one pattern or several.
      pictures: a folder or `.tar` shards, named as in the original:
        '<split>-<identifier>-<order>.png'.
      split: 'all', or a part, 'train' or 'held_out', such that no presentation and no sentence is
        in both.
      held_out: about which share of the statements is held out.
      orders: which of the six orders of the boxes, () for all that are there; a label does not
        depend on it.

    Raises:
      ValueError: another layout, pictures without a statement or statements without a picture, or
        several pictures of one name.
      FileNotFoundError: a file or folder that is not there.
    """

    def __init__(
        self,
        path: str | tuple[str, ...],
        pictures: str | tuple[str, ...],
        split: str = "all",
        held_out: float = 0.1,
        orders: tuple[int, ...] = (),
    ):
        if split not in SPLITS or not 0 < held_out < 1:
            raise ValueError(
                f"split={split!r} is one of {', '.join(SPLITS)}, held_out={held_out} between 0 "
                "and 1."
            )
        told = statements(path)
        self._pictures = NamedPictures(pictures)
        kept = {
            one
            for one, side in sides(told, held_out).items()
            if split == "all" or side == (split == "held_out")
        }
        rows: list[dict[str, Any]] = []
        strange, with_picture = [], set()
        for name, place in self._pictures.places().items():
            found = _NAME.fullmatch(name)
            if found is None or found[2] not in told:
                strange.append(name)
                continue
            if orders and int(found[3]) not in orders:
                continue
            with_picture.add(found[2])
            if found[2] in kept:
                rows.append(_row(told[found[2]], place, name, int(found[3])))
        if strange:
            raise ValueError(
                f"{pictures!r}: {len(strange):,} of {len(self._pictures):,} pictures have no "
                f"statement in {path!r}, such as {some(strange)}; a name reads "
                "'<split>-<identifier>-<order>'."
            )
        if missing := told.keys() - with_picture:
            raise ValueError(
                f"{path!r}: {len(missing):,} of {len(told):,} statements have no picture in "
                f"{pictures!r} of orders={orders}, such as {some(missing)}."
            )
        if not rows:
            raise ValueError(f"split={split!r} with held_out={held_out} has no statement.")
        self._rows = PackedRows(rows)
        self._split = split

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> Record:
        row = self._rows[position]
        extension, content, where = self._pictures.read(row.pop("at"))
        found = _regions(row.pop("boxes"), row["identifier"])
        return {"__key__": row["identifier"], **where, extension: content, **row, **found}

    def fingerprint(self) -> str:
        return digest(["NLVR", len(self), self._rows.checksum, self._pictures.fingerprint()])

    def describe(self) -> str:
        return f"NLVR, {len(self):,} statements about pictures ({self._split})"


def sides(told: dict[str, dict[str, Any]], held_out: float) -> dict[str, bool]:
    """Whether each identifier is held out, by the hash of what it hangs together with.

    Presentations that share a sentence (but for case and marks) are on one side.

    Args:
      told: as `statements` gives them.
      held_out: about which share.
    """
    parents: dict[str, str] = {}

    def top(one: str) -> str:
        parents.setdefault(one, one)
        while parents[one] != one:
            one = parents[one]
        return one

    names = {}
    for identifier, row in told.items():
        words = " ".join(re.findall(r"\w+", row["sentence"].lower()))
        names[identifier] = identifier.split("-")[0]
        one, two = sorted((top(f"presentation {names[identifier]}"), top(f"sentence {words}")))
        parents[two] = one
    limit = held_out * 2**64

    def hashed(name: str) -> int:
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())

    return {one: hashed(top(f"presentation {name}")) < limit for one, name in names.items()}


def _row(told: dict[str, Any], place: int, name: str, order: int) -> dict[str, Any]:
    drawn = told.get("structured_rep")
    if not isinstance(drawn, list) or len(drawn) != len(ORDERS[0]):
        raise ValueError(f"{told['identifier']}: structured_rep holds no three boxes.")
    truth = {"truth": told["label"]} if "label" in told else {}
    boxes = [drawn[box] for box in ORDERS[order]]
    return {
        "at": place,
        "statement": told["sentence"],
        "identifier": name,
        "boxes": boxes,
        **truth,
    }


def _regions(boxes: list[list[dict[str, Any]]], identifier: str) -> dict[str, Any]:
    """The objects of a drawing, box by box from the left."""
    places, features, classes = [], [], []
    for number, items in enumerate(boxes):
        if not isinstance(items, list):
            raise BadSample("format", f"{identifier}: no box of NLVR's: {items!r}.")
        for item in items:
            try:
                x, y, size = item["x_loc"] + STEP * number, item["y_loc"], item["size"]
                shape, colour = SHAPES.index(item["type"]), COLOURS.index(item["color"].lower())
                large = SIZES.index(size)
            except (AttributeError, KeyError, TypeError, ValueError):
                raise BadSample("format", f"{identifier}: no object of NLVR's: {item}.") from None
            places.append((x, y, x + size, y + size))
            features.append((shape, 3 + colour, 6 + large, 9 + number))
            classes.append(3 * shape + colour)
    one_hot = np.zeros((len(places), 12), np.float32)
    np.put_along_axis(one_hot, np.array(features, np.int64).reshape(-1, 4), 1.0, axis=1)
    return {
        "boxes": np.array(places, np.float32).reshape(-1, 4),
        "features": one_hot,
        "classes": np.eye(9, dtype=np.float32)[np.array(classes, np.int64)],
        "width": WIDTH,
        "height": HEIGHT,
    }
