"""Drawn scenes: the dataset that comes with the package, made on the fly from a seed.

Each scene holds two to four objects with shape, colour, size, texture and place on a varied
background, several captions in varied words, and its full record, from which questions, statements
and boxes can be drawn. Nothing is downloaded or stored. Training and held-out scenes share no
(shape, colour, relation) triple, see `scene_layout`, so held-out numbers measure whether a model
puts known parts together, not whether it remembers.
"""

import dataclasses
import functools
import hashlib
import json
from random import Random
from typing import Any

from mmjax.data.datasets.scene_captions import (
    HELD_OUT_WORDING,
    TRAIN_WORDING,
    caption,
    pick,
    with_article,
)
from mmjax.data.datasets.scene_drawing import (
    background_of,
    box_of,
    draw,
    outline,
    paint_of,
    texture_of,
)
from mmjax.data.datasets.scene_grammar import BACKGROUNDS, TEXTURES, Statement, is_true
from mmjax.data.datasets.scene_layout import CLASSES, held_out_scene, train_scene
from mmjax.data.sources.base import Record, Source, digest

VERSION = 1  # of the drawing and the words; a change makes other data, so it enters the fingerprint
SPLITS = ("train", "held_out")
NUM_SCENES = {"train": 50_000, "held_out": 256}
CAPTIONS = 4  # of each scene
ATTEMPTS = 1000  # to find a held-out scene whose captions are true of it alone
SMALLEST_IMAGE = 32  # pixels a side; shapes cannot be told apart below


def class_names(split: str = "held_out") -> tuple[str, ...]:
    """Texts of the zero-shot classes, by label.

    Args:
      split: 'held_out'; training scenes show none of the classes, so 'train' has no names.

    Returns:
      32 noun phrases such as 'a red circle above another shape', or none for 'train'.

    Raises:
      ValueError: no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}; the scenes have {' and '.join(SPLITS)}.")
    if split == "train":
        return ()
    return tuple(
        f"{with_article(f'{colour} {shape}')} {relation} another shape"
        for shape, colour, relation in CLASSES
    )


@dataclasses.dataclass(frozen=True)
class Scenes(Source):
    """Scenes as a source of records; scene i is a function of (seed, split, i) alone.

    Attributes:
      split: 'train' or 'held_out'. Held-out scene i shows class i % 32 and no other, and no caption
        of a held-out scene is true of another one.
      num_scenes: how many; None takes 50,000 to train on and 256 held out.
      image_size: pixels a side, at least 32.
      seed: which scenes; every seed keeps the same division into training and held-out triples.
      textures: which surfaces occur.
      backgrounds: which backgrounds occur.
    """

    split: str = "train"
    num_scenes: int | None = None
    image_size: int = 64
    seed: int = 0
    textures: tuple[str, ...] = TEXTURES
    backgrounds: tuple[str, ...] = BACKGROUNDS

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split={self.split!r}; the scenes have {' and '.join(SPLITS)}.")
        if self.num_scenes is None:
            object.__setattr__(self, "num_scenes", NUM_SCENES[self.split])
        if self.num_scenes < 1:
            raise ValueError(f"num_scenes={self.num_scenes}; at least 1 is needed.")
        if self.image_size < SMALLEST_IMAGE:
            raise ValueError(
                f"image_size={self.image_size}; at least {SMALLEST_IMAGE} pixels a side are needed."
            )
        for name, given, known in (
            ("textures", self.textures, TEXTURES),
            ("backgrounds", self.backgrounds, BACKGROUNDS),
        ):
            if not given or not set(given) <= set(known):
                raise ValueError(f"{name}={given!r}; use some of {', '.join(known)}.")

    def __len__(self) -> int:
        return self.num_scenes

    def __getitem__(self, position: int) -> Record:
        """One scene: 'image' (RGB array), 'txt' (a caption a line), 'json' (the full record).

        Held-out scenes have 'label' too. See `Source.__getitem__`.
        """
        record = self.scene(position)
        members = {
            "__key__": f"scene-{self.split}-{position:08d}",
            "image": draw(record),
            "txt": "\n".join(record["captions"]),
            "json": json.dumps(record, separators=(",", ":")),
        }
        if "label" in record:
            members["label"] = record["label"]
        return members

    def scene(self, position: int) -> dict[str, Any]:
        """A scene's full record, without drawing it.

        Args:
          position: 0 ... len - 1.

        Returns:
          'objects' (each with shape, colour, size, texture, 'box' [x1, y1, x2, y2] in pixels, x2
          and y2 outside, 'centre', 'diameter' in pixels and what drawing it takes), 'relations'
          (every [subject, relation, other] that is true, by the objects' places), 'background',
          'captions', and 'label' with 'class' where held out. It is JSON-able, and
          `scene_drawing.draw` makes the picture from it alone.

        Raises:
          IndexError: `position` is out of range.
        """
        if not 0 <= position < self.num_scenes:
            raise IndexError(f"scene {position} of {self.num_scenes}")
        if self.split == "train":
            return self._make(position, 0)[0]
        return self._held_out[position]

    def fingerprint(self) -> str:
        """See `Source.fingerprint`."""
        return digest(["scenes", VERSION, dataclasses.asdict(self)])

    def describe(self) -> str:
        """See `Source.describe`."""
        return (
            f"{self.num_scenes:,} {self.split.replace('_', '-')} scenes drawn at "
            f"{self.image_size} px from seed {self.seed}"
        )

    def _make(self, position: int, attempt: int) -> tuple[dict[str, Any], list[Statement]]:
        """A record and what its captions claim; `attempt` gives other scenes for one position."""
        name = f"{VERSION}/{self.seed}/{self.split}/{position}/{attempt}"
        rng = Random(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()))
        record: dict[str, Any] = {
            "split": self.split,
            "seed": self.seed,
            "position": position,
            "image_size": self.image_size,
        }
        if self.split == "train":
            places, relations, kinds = train_scene(rng)
            wording = TRAIN_WORDING
        else:
            label = position % len(CLASSES)
            places, relations, kinds = held_out_scene(rng, label)
            wording = HELD_OUT_WORDING
            record["label"] = label
            record["class"] = class_names()[label]
        objects = []
        for place, (shape, colour) in zip(places, kinds):
            paint = paint_of(rng, colour, self.image_size)
            centre = [round(place.x * self.image_size, 3), round(place.y * self.image_size, 3)]
            diameter = round(place.diameter * self.image_size, 3)
            points = outline(shape, *centre, diameter, paint["angle"])
            objects.append(
                {
                    "shape": shape,
                    "colour": colour,
                    "size": place.size,
                    "texture": texture_of(rng, self.textures),
                    "box": box_of(points, self.image_size),
                    "centre": centre,
                    "diameter": diameter,
                    **paint,
                }
            )
        record["objects"] = objects
        record["relations"] = [[a, relation, b] for (a, b), relation in relations.items()]
        record["background"] = background_of(rng, pick(rng, self.backgrounds))
        told = [caption(rng, record, wording) for _ in range(CAPTIONS)]
        record["captions"] = [text for text, _ in told]
        return record, [statement for _, statement in told]

    @functools.cached_property
    def _held_out(self) -> tuple[dict[str, Any], ...]:
        """All held-out records; a scene is made again until no caption is true of two pictures.

        Scene i is compared with those before it only, so it does not depend on `num_scenes`.
        """
        records: list[dict[str, Any]] = []
        # Held-out captions name shape and colour of all objects, so only scenes and statements that
        # share the first one's can meet.
        scenes_with: dict[tuple[str, str], list[dict[str, Any]]] = {}
        claims_about: dict[tuple[str | None, str | None], list[Statement]] = {}
        for position in range(self.num_scenes):
            for attempt in range(ATTEMPTS):
                record, claims = self._make(position, attempt)
                kinds = [(item["shape"], item["colour"]) for item in record["objects"]]
                first = [(claim.mentions[0].shape, claim.mentions[0].colour) for claim in claims]
                if any(
                    is_true(claim, other)
                    for claim, kind in zip(claims, first)
                    for other in scenes_with.get(kind, ())
                ) or any(
                    is_true(claim, record) for kind in kinds for claim in claims_about.get(kind, ())
                ):
                    continue
                break
            else:
                raise ValueError(
                    f"num_scenes={self.num_scenes}: no caption is left for held-out scene "
                    f"{position} that is true of it alone; take fewer scenes or more textures."
                )
            records.append(record)
            for kind in kinds:
                scenes_with.setdefault(kind, []).append(record)
            for kind, claim in zip(first, claims):
                claims_about.setdefault(kind, []).append(claim)
        return tuple(records)
