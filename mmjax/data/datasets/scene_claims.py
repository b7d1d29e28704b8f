"""Statements about two drawn scenes: their words, and when they are true.

A claim speaks of how many objects each picture has of some description. Whether it is true depends
on these two numbers alone, so pictures can be looked for that make it true, or false in each of the
ways in which it can be false.
"""

import dataclasses
from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np
from jaxtyping import Int

from mmjax.data.datasets.scene_captions import (
    TRAIN_WORDING,
    pick,
    pick_weighted,
    with_article,
    word,
)
from mmjax.data.datasets.scene_grammar import COLOURS, RELATIONS, SHAPES, TEXTURES
from mmjax.data.datasets.scene_questions import noun_phrase, plural

__all__ = ["FORMS", "Claim", "draw_claim", "pairs_of"]

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
# What a claim says of the numbers in the left and in the right picture.
FORMS = ("left", "right", "both", "one", "any", "none", "total", "more_left", "more_right", "equal")
WEIGHTS = (0.15, 0.15, 0.1, 0.15, 0.05, 0.05, 0.15, 0.075, 0.075, 0.05)
COUNTED = FORMS[6:]  # the forms that compare numbers; the others ask whether there is any
_WORDS = {
    "left": ("the left picture shows {a}", "there is {a} in the left picture"),
    "right": ("the right picture shows {a}", "there is {a} in the right picture"),
    "both": ("both pictures show {a}", "there is {a} in each picture"),
    "one": ("exactly one picture shows {a}", "only one of the pictures shows {a}"),
    "any": ("at least one picture shows {a}",),
    "none": ("neither picture shows {a}", "there is not {a} in any of the pictures"),
    "more_left": ("the left picture shows more {s} than the right one",),
    "more_right": ("the right picture shows more {s} than the left one",),
    "equal": (
        "both pictures show equally many {s}",
        "the left picture shows as many {s} as the right one",
    ),
}


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a statement says of two scenes.

    Attributes:
      form: one of `FORMS`.
      said: (attribute, value) of the objects that are spoken of; () are all of them.
      relation: in which they stand to some other object of their picture, '' for any.
      number: how many there are in both pictures together, for the form 'total'.
    """

    form: str
    said: tuple[tuple[str, str], ...]
    relation: str = ""
    number: int = 0

    def count(self, record: Mapping[str, Any]) -> int:
        """How many objects of a scene are spoken of."""
        subjects = {a for a, relation, _ in record["relations"] if relation == self.relation}
        return sum(
            all(item[attribute] == value for attribute, value in self.said)
            and (not self.relation or number in subjects)
            for number, item in enumerate(record["objects"])
        )

    def level(self, counts: Int[np.ndarray, " scenes"]) -> Int[np.ndarray, " scenes"]:
        """As much of such numbers as matters."""
        return counts if self.form in COUNTED else np.minimum(counts, 1)

    def holds(self, left: int, right: int) -> bool:
        """Whether it is true of pictures with so many such objects."""
        return {
            "left": left > 0,
            "right": right > 0,
            "both": left > 0 and right > 0,
            "one": (left > 0) != (right > 0),
            "any": left > 0 or right > 0,
            "none": left == 0 and right == 0,
            "total": left + right == self.number,
            "more_left": left > right,
            "more_right": right > left,
            "equal": left == right,
        }[self.form]


def pairs_of(claim: Claim, truth: bool) -> tuple[tuple[int, int], ...]:
    """The pairs of numbers, left and right, of which a claim is true, or false."""
    if claim.form not in COUNTED:
        levels = range(2)
    else:  # scenes hold two to four objects, and seldom more than two of a kind
        levels = range(2, 5) if not claim.said else range(3)
    found = [(a, b) for a in levels for b in levels if claim.holds(a, b) is truth]
    if claim.form == "total" and not truth:  # numbers far off would be too easy
        found = [(a, b) for a, b in found if abs(a + b - claim.number) == 1]
    return tuple(found)


def draw_claim(rng: Random) -> tuple[Claim, str]:
    """A claim and its words; only the rng's `random` is used."""
    form = pick_weighted(rng, FORMS, WEIGHTS)
    relation, number = "", 0
    if form in COUNTED:
        kind = pick(rng, ("object", "shape", "colour", "texture"))
        known = {"object": (), "shape": SHAPES, "colour": COLOURS, "texture": TEXTURES[1:]}[kind]
        said = {kind: pick(rng, known)} if known else {}
        number = 1 + int(2 * rng.random()) if said else 4 + int(3 * rng.random())
        number = number if form == "total" else 0
    else:
        kinds = pick(rng, (("shape",), ("colour",), ("texture", "shape"), ("colour", "shape")))
        known = {"shape": SHAPES, "colour": COLOURS, "texture": TEXTURES[1:]}
        said = {kind: pick(rng, known[kind]) for kind in kinds}
        if kinds == ("shape",) and rng.random() < 0.5:
            relation = pick(rng, RELATIONS[:4])
    phrase = noun_phrase(rng, said)
    if form == "total":
        *before, noun = phrase.split()
        counted = phrase if number == 1 else " ".join([*before, plural(noun)])
        verb = "is" if number == 1 else "are"
        exactly = pick(rng, ("", "exactly "))
        text = f"there {verb} {exactly}{NUMBERS[number]} {counted} in total"
    else:
        *before, noun = phrase.split()
        several = " ".join([*before, plural(noun)])
        one = with_article(phrase)
        if relation:
            one += f" {word(rng, relation, TRAIN_WORDING)} another object"
        text = pick(rng, _WORDS[form]).format(a=one, s=several)
    return Claim(form, tuple(sorted(said.items())), relation, number), text
