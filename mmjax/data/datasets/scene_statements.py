"""Statements about two drawn scenes, true or false, whose words alone tell nothing.

As in NLVR2, one sentence goes with several pairs of pictures: of four pairs it is true of two and
false of two. Pictures are looked for that make it so, in each of the ways in which it can be.
"""

import dataclasses
import functools
import hashlib
import json
from random import Random
from typing import Any

import numpy as np
from jaxtyping import Int

from mmjax.data.datasets.scene_captions import pick, shuffled
from mmjax.data.datasets.scene_claims import Claim, draw_claim, pairs_of
from mmjax.data.datasets.scene_drawing import draw
from mmjax.data.datasets.scene_regions import regions
from mmjax.data.datasets.scenes import Scenes
from mmjax.data.sources.base import Record, Source, digest

__all__ = ["SceneStatements"]

VERSION = 1  # of the statements; a change makes other data, so it enters the fingerprint
PAIRS = 4  # of pictures for each sentence
SETS = {"train": 12_500, "held_out": 256}
ATTEMPTS = 50  # sentences that are tried for a set
ATTRIBUTES = ("shape", "colour", "size", "texture")
_NAMES = {"train": "train", "held_out": "heldout"}  # an identifier's parts hold no marks


@dataclasses.dataclass(frozen=True)
class SceneStatements(Source):
    """Statements about two scenes; statement i is a function of what is said here and of i alone.

    Statements 4·k ... 4·k + 3 are one sentence with four pairs of pictures, of which it is true of
    two. A record holds 'left' and 'right' (RGB arrays), 'statement', 'truth' (bool), 'identifier'
    ('train-<k>-<pair>-0', as in NLVR2, so that consistency can be told), 'form' (what the sentence
    says of the two, one of `scene_claims.FORMS`), 'left_json' and 'right_json' (the scenes' full
    records), and the members of `scene_regions.regions` as 'left_boxes', 'right_boxes' and so on.

    Licence and source: those of the package; everything is drawn, nothing is downloaded.

    Attributes:
      scenes: where the pictures come from; its split and seed are those of the statements.
      num_sets: how many sentences; None takes 12,500 to train on and 256 held out.
      pool: how many scenes, from the first on, are looked at for pictures; each process makes
        them once, which takes a second for 4,000.
      noise: of the regions' features, a standard deviation.

    Raises:
      ValueError: no sentence, or no scene to look at.
    """

    scenes: Scenes = dataclasses.field(default_factory=Scenes)
    num_sets: int | None = None
    pool: int = 4096
    noise: float = 0.1

    def __post_init__(self) -> None:
        if self.num_sets is None:
            object.__setattr__(self, "num_sets", SETS[self.scenes.split])
        if self.num_sets < 1 or self.pool < 1:
            raise ValueError(f"num_sets={self.num_sets} and pool={self.pool} are 1 or more.")

    def __len__(self) -> int:
        return self.num_sets * PAIRS

    def __getitem__(self, position: int) -> Record:
        """One statement. See `Source.__getitem__`."""
        if not 0 <= position < len(self):
            raise IndexError(f"statement {position} of {len(self)}")
        number, pair = divmod(position, PAIRS)
        text, claim, truth, places = self.statement(number, pair)
        split = self.scenes.split
        record: Record = {
            "__key__": f"statement-{split}-{position:08d}",
            "statement": text,
            "truth": truth,
            "identifier": f"{_NAMES[split]}-{number}-{pair}-0",
            "form": claim.form,
        }
        for side, place in zip(("left", "right"), places):
            scene = self.scenes.scene(place)
            record[side] = draw(scene)
            record[f"{side}_json"] = json.dumps(scene, separators=(",", ":"))
            for name, value in regions(scene, self.noise).items():
                record[f"{side}_{name}"] = value
        return record

    def statement(self, number: int, pair: int) -> tuple[str, Claim, bool, tuple[int, int]]:
        """(words, claim, whether it is true, the left and the right scene) of one pair of a set."""
        for attempt in range(ATTEMPTS):
            rng = self._rng(number, attempt)
            claim, text = draw_claim(rng)
            pairs = [self._pair(claim, truth, rng) for truth in (True, True, False, False)]
            order = shuffled(rng, PAIRS)
            if found := all(pairs) and pairs[order[pair]]:
                return text, claim, order[pair] < PAIRS // 2, found
        raise ValueError(
            f"pool={self.pool}: no sentence has {PAIRS} pairs of pictures among the "
            f"{len(self._scenes)} scenes looked at; take more scenes, textures or backgrounds."
        )

    def fingerprint(self) -> str:
        """See `Source.fingerprint`."""
        own = [self.num_sets, self.pool, self.noise]
        return digest(["scene statements", VERSION, self.scenes.fingerprint(), *own])

    def describe(self) -> str:
        """See `Source.describe`."""
        return f"{len(self):,} statements about two of {self.scenes.describe()}"

    def _rng(self, *place: int) -> Random:
        name = f"statements/{VERSION}/{self.scenes.seed}/{self.scenes.split}/{place}"
        return Random(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()))

    def _pair(self, claim: Claim, truth: bool, rng: Random) -> tuple[int, int] | None:
        """Two scenes of which the claim is true, or false; None where there are none."""
        places = [self._with(claim, level) for level in pick(rng, pairs_of(claim, truth))]
        if not all(map(len, places)):
            return None
        left, right = (pick(rng, found.tolist()) for found in places)
        return left, right

    def _with(self, claim: Claim, level: int) -> Int[np.ndarray, " scenes"]:
        """The scenes that have the claim's objects so many times."""
        key = (claim.said, claim.relation)
        counts = self._counts.get(key)
        if counts is None:
            counts = np.array([claim.count(scene) for scene in self._scenes], np.int8)
            self._counts[key] = counts
        return np.flatnonzero(claim.level(counts) == level)

    @functools.cached_property
    def _scenes(self) -> tuple[dict[str, Any], ...]:
        """What claims can be about, of all scenes that are looked at."""
        found = []
        for place in range(min(self.pool, len(self.scenes))):
            scene = self.scenes.scene(place)
            objects = [{name: item[name] for name in ATTRIBUTES} for item in scene["objects"]]
            found.append({"objects": objects, "relations": scene["relations"]})
        return tuple(found)

    @functools.cached_property
    def _counts(self) -> dict[Any, Int[np.ndarray, " scenes"]]:
        """Filled as claims are drawn: there are about a hundred ways to speak of an object."""
        return {}
