"""What stands where in a drawn scene, and which (shape, colour, relation) triples are held out.

Training and held-out scenes share no triple: for every ordered pair of objects in a scene, the
first one's shape and colour with its relation to the second is a training triple in training, and
a held-out triple in held-out scenes. The division is fixed, the same for every seed:

* `CLASS_KINDS`: four shapes of each colour, each with another of the four directions held out.
  These 32 triples are the classes of zero-shot classification.
* `NOVEL_KINDS`: one shape of each colour, which training never shows in that colour at all.
* one more shape of each colour: one direction held out, and for some 'inside' or 'around' too.

Objects stand near the places of a square grid, so that a small ViT whose patches are the grid's
cells learns to see them within minutes; containers stand anywhere. Lengths are fractions of the
picture's side, so a scene is the same at every picture size.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from mmjax.data.datasets.scene_captions import pick, pick_weighted, shuffled
from mmjax.data.datasets.scene_grammar import COLOURS, RELATIONS, SHAPES

TURN = ("left of", "above", "right of", "below")  # directions, a quarter turn each
CONTAINERS = ("circle", "square", "heart")
GRID = 4  # places along a side
JITTER = 0.02  # of an object's centre round its place, at most, along each side
DIAMETERS = {"small": (0.14, 0.16), "medium": (0.18, 0.20), "large": (0.22, 0.24)}
SIZE_WEIGHTS = (0.2, 0.4, 0.4)  # small, medium, large
CONTAINER_DIAMETER = (0.48, 0.54)
CONTENT_DIAMETER = (0.18, 0.21)
COUNTS = (0.82, 0.12, 0.06)  # of 2, 3 and 4 objects
INSIDE_FRACTION = 0.08  # of scenes with one object inside another
GAP = 0.02  # between two objects along the direction of their relation, and to the border
DOMINANCE = 1.4  # the larger centre offset over the smaller, so that a direction is plain to see

Kind = tuple[str, str]
Triple = tuple[str, str, str]


class Place(NamedTuple):
    """Where an object stands: centre, diameter and the word for its size."""

    x: float
    y: float
    diameter: float
    size: str
    role: str = ""


def _held_out() -> dict[Kind, frozenset[str]]:
    """The relations that each (shape, colour) has held out; each direction equally often."""
    held: dict[Kind, frozenset[str]] = {}
    for j, colour in enumerate(COLOURS):
        for i, shape in enumerate(SHAPES):
            step = (i - j) % len(SHAPES)
            if step < len(TURN):
                relations = {TURN[step]}
            elif step == len(TURN):
                relations = set(RELATIONS)
            else:
                relations = {TURN[j % len(TURN)], *(("inside",), ("around",), ())[j % 3]}
            held[shape, colour] = frozenset(relations)
    return held


HELD_OUT = _held_out()
CLASSES: tuple[Triple, ...] = tuple(
    (SHAPES[(j + step) % len(SHAPES)], colour, relation)
    for j, colour in enumerate(COLOURS)
    for step in range(len(TURN))
    for relation in HELD_OUT[SHAPES[(j + step) % len(SHAPES)], colour]
)
CLASS_KINDS = tuple((shape, colour) for shape, colour, _ in CLASSES)
NOVEL_KINDS = tuple(kind for kind, held in HELD_OUT.items() if len(held) == len(RELATIONS))


def _allowed() -> dict[tuple[bool, frozenset[str]], tuple[Kind, ...]]:
    """Which (shape, colour) may stand in a set of relations, in training and in held-out scenes."""
    table = {}
    for bits in range(1, 1 << len(RELATIONS)):
        relations = frozenset(r for k, r in enumerate(RELATIONS) if bits >> k & 1)
        shapes = CONTAINERS if "around" in relations else SHAPES
        kinds = [kind for kind in HELD_OUT if kind[0] in shapes]
        table[True, relations] = tuple(k for k in kinds if not relations & HELD_OUT[k])
        # A second class kind would make the label ambiguous, so bystanders are of other kinds.
        table[False, relations] = tuple(
            k for k in kinds if relations <= HELD_OUT[k] and k not in CLASS_KINDS
        )
    return table


ALLOWED = _allowed()


def relation(subject: Place, other: Place) -> str | None:
    """How one place stands to another, or None where that is not plain to see."""
    if (subject.role, other.role) == ("content", "container"):
        return "inside"
    if (subject.role, other.role) == ("container", "content"):
        return "around"
    dx, dy = other.x - subject.x, other.y - subject.y
    wide, high = abs(dx), abs(dy)
    room = (subject.diameter + other.diameter) / 2 + GAP
    if wide >= room and wide >= DOMINANCE * high:
        return "left of" if dx > 0 else "right of"
    if high >= room and high >= DOMINANCE * wide:
        return "above" if dy > 0 else "below"
    return None


def _diameter(rng: Random, span: tuple[float, float]) -> float:
    return span[0] + rng.random() * (span[1] - span[0])


def _near_a_place(rng: Random, size: str) -> Place:
    """An object of that size near one of the grid's places."""
    x, y = (
        (int(rng.random() * GRID) + 0.5) / GRID + JITTER * (2 * rng.random() - 1) for _ in range(2)
    )
    return Place(x, y, _diameter(rng, DIAMETERS[size]), size)


def _container(rng: Random) -> Place:
    """An object with room for another, anywhere in the picture."""
    diameter = _diameter(rng, CONTAINER_DIAMETER)
    margin = diameter / 2 + GAP
    x, y = (margin + rng.random() * (1 - 2 * margin) for _ in range(2))
    return Place(x, y, diameter, "large", "container")


def layout(rng: Random, counts: Sequence[float] = COUNTS) -> tuple[list[Place], dict]:
    """Places for two to four objects, every two of them in one plain relation.

    Args:
      rng: where every choice comes from.
      counts: how likely two, three and four objects are; sums to one.

    Returns:
      (places, relations), the latter from (subject, other) to a word of `RELATIONS`.
    """
    count = pick_weighted(rng, (2, 3, 4), counts)
    while True:
        places: list[Place] = []
        if rng.random() < INSIDE_FRACTION:
            outer = _container(rng)
            inner = Place(
                outer.x + 0.04 * (rng.random() - 0.5),
                outer.y + 0.04 * (rng.random() - 0.5),
                _diameter(rng, CONTENT_DIAMETER),
                "small",
                "content",
            )
            places = [outer, inner]
        for _ in range(12 * count):
            if len(places) == count:
                break
            place = _near_a_place(rng, pick_weighted(rng, tuple(DIAMETERS), SIZE_WEIGHTS))
            if all(relation(place, earlier) for earlier in places):
                places.append(place)
        if len(places) == count:
            break
    found = {
        (a, b): relation(places[a], places[b]) for a in range(count) for b in range(count) if a != b
    }
    return places, found


def cast(
    rng: Random, relations: dict[tuple[int, int], str], train: bool, chosen: dict[int, Kind]
) -> list[Kind] | None:
    """A different (shape, colour) for every place, such that all triples are on one side.

    Args:
      rng: where every choice comes from.
      relations: from (subject, other) to their relation.
      train: True for training triples, False for held-out ones.
      chosen: places that are decided already, with their kinds.

    Returns:
      Kinds by place, or None where no kind fits a place.
    """
    count = max(a for a, _ in relations) + 1
    kinds = dict(chosen)
    for place in shuffled(rng, count):
        if place in kinds:
            continue
        around = frozenset(r for (a, _), r in relations.items() if a == place)
        partners = {kinds[b] for (a, b), r in relations.items() if a == place and b in kinds}
        colours = {  # an object inside another must not vanish in it
            kinds[b][1]
            for (a, b), r in relations.items()
            if a == place and b in kinds and r in ("inside", "around")
        }
        fitting = [
            kind
            for kind in ALLOWED[train, around]
            if kind not in partners and kind[1] not in colours
        ]
        if not fitting:
            return None
        kinds[place] = pick(rng, fitting)
    return [kinds[place] for place in range(count)]


def train_scene(rng: Random) -> tuple[list[Place], dict, list[Kind]]:
    """Places, relations and kinds of a training scene."""
    while True:
        places, relations = layout(rng)
        kinds = cast(rng, relations, train=True, chosen={})
        if kinds is not None:
            return places, relations, kinds


def held_out_scene(rng: Random, label: int) -> tuple[list[Place], dict, list[Kind]]:
    """Places, relations and kinds of a held-out scene of one class.

    The class's object stands in the class's relation to every other object, so that the scene
    shows no other class.
    """
    shape, colour, wanted = CLASSES[label]
    # The number of objects is drawn before layouts are thrown away, or few would have four.
    count = pick_weighted(rng, (2, 3, 4), COUNTS)
    counts = tuple(float(count == n) for n in (2, 3, 4))
    while True:
        places, relations = layout(rng, counts)
        subjects = [
            place
            for place in range(count)
            if all(r == wanted for (a, _), r in relations.items() if a == place)
        ]
        if not subjects:
            continue
        subject = pick(rng, subjects)
        kinds = cast(rng, relations, train=False, chosen={subject: (shape, colour)})
        if kinds is not None:
            return places, relations, kinds
