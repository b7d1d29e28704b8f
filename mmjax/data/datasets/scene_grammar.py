"""Words for drawn scenes: the vocabulary, statements, and when a statement is true of a scene.

A caption is the wording of a `Statement`: some mentions of objects, some relations between them and
perhaps the background. `parse` is the way back from the words, so what a caption claims can be
checked against a scene's record by `is_true` without trusting the code that worded it.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import Any

SHAPES = ("circle", "square", "triangle", "cross", "star", "heart")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "cyan")
SIZES = ("small", "medium", "large")
TEXTURES = ("solid", "striped", "dotted", "outlined")
BACKGROUNDS = ("flat", "gradient", "noise", "checker")
RELATIONS = ("left of", "right of", "above", "below", "inside", "around")
OPPOSITE = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "inside": "around",
    "around": "inside",
}

# Every meaning's words, the usual one first. A word belongs to one meaning only.
WORDINGS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "cross": ("cross", "plus"),
    "star": ("star",),
    "heart": ("heart",),
    "red": ("red", "crimson"),
    "green": ("green",),
    "blue": ("blue",),
    "yellow": ("yellow",),
    "orange": ("orange",),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
    "cyan": ("cyan", "turquoise"),
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "middling"),
    "large": ("large", "big"),
    "solid": ("solid", "filled"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
    "outlined": ("outlined", "hollow"),
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
    "inside": ("inside", "within"),
    "around": ("around", "surrounding"),
    "flat": ("plain", "flat"),
    "gradient": ("shaded", "fading"),
    "noise": ("noisy", "grainy"),
    "checker": ("checkered", "chequered"),
}
ANYTHING = ("another shape", "another object", "something else")
NOUN_OPENINGS = ("a picture of", "an image of", "a drawing with", "a scene with")
SENTENCE_OPENINGS = ("there is", "we see", "this shows")


@dataclasses.dataclass(frozen=True)
class Mention:
    """What a caption says of one object; None where it says nothing."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    texture: str | None = None


@dataclasses.dataclass(frozen=True)
class Statement:
    """What a caption claims: there are such objects, in such relations, on such a background.

    Attributes:
      mentions: different objects of the scene.
      relations: (subject, relation, object), the two by their place in `mentions`.
      background: one of `BACKGROUNDS`, or None.
    """

    mentions: tuple[Mention, ...]
    relations: tuple[tuple[int, str, int], ...] = ()
    background: str | None = None


def is_true(statement: Statement, record: Mapping[str, Any]) -> bool:
    """Whether some choice of different objects makes every part of a statement hold.

    Args:
      statement: what is claimed.
      record: a scene's full record, with 'objects', 'relations' and 'background'.

    Returns:
      True where the mentions can be given to different objects of the scene such that attributes
      and relations hold, and the background, if named, is that of the scene.
    """
    if statement.background not in (None, record["background"]["kind"]):
        return False
    objects = record["objects"]
    choices = []
    for mention in statement.mentions:
        fitting = [
            number
            for number, item in enumerate(objects)
            if mention.shape in (None, item["shape"])
            and mention.colour in (None, item["colour"])
            and mention.size in (None, item["size"])
            and mention.texture in (None, item["texture"])
        ]
        if not fitting:
            return False
        choices.append(fitting)
    holds = {(subject, relation, other) for subject, relation, other in record["relations"]}
    return any(
        len(set(chosen)) == len(chosen)
        and all((chosen[a], relation, chosen[b]) in holds for a, relation, b in statement.relations)
        for chosen in itertools.product(*choices)
    )


_KINDS = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "texture": TEXTURES,
}
_ADJECTIVES = {
    word: (kind, meaning)
    for kind, meanings in _KINDS.items()
    for meaning in meanings
    for word in WORDINGS[meaning]
}
_RELATION_OF = {word: relation for relation in RELATIONS for word in WORDINGS[relation]}
_BACKGROUND_OF = {word: kind for kind in BACKGROUNDS for word in WORDINGS[kind]}


def _alternatives(words: Any) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_BACKGROUND = re.compile(rf" on an? ({_alternatives(_BACKGROUND_OF)}) background$")
_OPENING = re.compile(rf"^({_alternatives(NOUN_OPENINGS + SENTENCE_OPENINGS)}) ")
_PART = re.compile(
    rf"(?P<anything>{_alternatives(ANYTHING)})"
    rf"|(?P<relation>{_alternatives(_RELATION_OF)})\b"
    rf"|(?P<article>an|a|the) (?P<words>(?:(?:{_alternatives(_ADJECTIVES)})\b ?)+)"
    r"|(?P<break>, and |, with |, | and )"
    r"|(?P<filler> is | )"
)


def parse(caption: str) -> Statement:
    """The statement that a scene's caption words.

    Args:
      caption: words made by `mmjax.data.datasets.scene_captions` (or a class text of the scenes).

    Returns:
      What it claims. An object named a second time with 'the' is the one named before.

    Raises:
      ValueError: words outside the captions' language.
    """
    text = caption
    background = None
    if found := _BACKGROUND.search(text):
        background = _BACKGROUND_OF[found[1]]
        text = text[: found.start()]
    text = _OPENING.sub("", text)
    mentions: list[Mention] = []
    relations: list[tuple[int, str, int]] = []
    clause: list[int | str] = []
    position = 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            raise ValueError(f"caption {caption!r}: {text[position:]!r} is not in its language")
        position = part.end()
        if part["words"] is not None:
            said = dict(_ADJECTIVES[word] for word in part["words"].split())
            clause.append(_mention(mentions, Mention(**said), again=part["article"] == "the"))
            if part["words"].endswith(" "):
                position -= 1
        elif part["anything"] is not None:
            clause.append(_mention(mentions, Mention(), again=False))
        elif part["relation"] is not None:
            clause.append(_RELATION_OF[part["relation"]])
        elif part["break"] is not None:
            relations += _relations(clause)
            clause = []
    relations += _relations(clause)
    return Statement(tuple(mentions), tuple(relations), background)


def _mention(mentions: list[Mention], said: Mention, again: bool) -> int:
    """The place of what is said among the mentions; `again` looks for it there."""
    if again:
        return next(
            place
            for place, earlier in enumerate(mentions)
            if (earlier.shape, earlier.colour) == (said.shape, said.colour)
        )
    mentions.append(said)
    return len(mentions) - 1


def _relations(clause: list[int | str]) -> list[tuple[int, str, int]]:
    """The relation that a clause claims, if any: 'a above b', or 'above b is a'."""
    match clause:
        case [int(), str(), int()]:
            return [(clause[0], clause[1], clause[2])]
        case [str(), int(), int()]:
            return [(clause[2], clause[0], clause[1])]
        case [] | [int()]:
            return []
    raise ValueError(f"a clause of a scene's caption has the parts {clause}")
