"""Questions about drawn scenes, each with its one answer.

A question is asked only where the scene has one answer to it: what it speaks of is the one object
that its words fit. Answers are spread so that the words of a question tell little of its answer:
what is asked after is there as often as not, and numbers are drawn evenly.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from random import Random
from typing import Any

from mmjax.data.datasets.scene_captions import TRAIN_WORDING, pick, with_article, word
from mmjax.data.datasets.scene_drawing import draw
from mmjax.data.datasets.scene_grammar import COLOURS, RELATIONS, SHAPES, SIZES, TEXTURES
from mmjax.data.datasets.scene_regions import regions
from mmjax.data.datasets.scenes import Scenes
from mmjax.data.sources.base import Record, Source, digest

__all__ = ["QUESTION_TYPES", "SceneQuestions", "ask", "scene_answers"]

VERSION = 1  # of the questions; a change makes other data, so it enters the fingerprint
ANSWER_TYPES = {"exist": "yes/no", "count": "number"}  # of question types; others are 'other'
QUESTION_TYPES = ("exist", "count", "colour", "shape", "size", "texture", "where", "beside")
PLACES = dict(zip(RELATIONS, ("left", "right", "above", "below", "inside", "around")))
MOST = 4  # objects of a scene
ATTEMPTS = 200
SOLID_KEPT = 0.15  # of questions whose answer is 'solid': most objects are
_NAMINGS = (
    *(("shape",), ("colour",), ("colour", "shape"), ("size", "shape"), ("texture", "shape")),
    *(("size", "colour"), ("texture", "colour")),
)
_WORDINGS = {
    "exist": ("is there {}?", "do we see {}?", "does the picture show {}?"),
    "count": ("how many {} are there?", "how many {} does the picture show?"),
    "colour": ("what colour is {}?", "which colour has {}?"),
    "shape": ("what shape is {}?", "which shape has {}?"),
    "size": ("how large is {}?", "what size is {}?"),
    "texture": ("what texture has {}?", "what is the texture of {}?"),
    "where": ("where is {} seen from {}?", "where does {} stand, seen from {}?"),
    "beside": ("what shape is {} {}?", "which shape is {} {}?"),
}


def scene_answers() -> tuple[str, ...]:
    """Every answer that a scene's question may have, each once, for `Answers`."""
    numbers = tuple(str(number) for number in range(MOST + 1))
    return ("yes", "no", *numbers, *SHAPES, *COLOURS, *SIZES, *TEXTURES, *PLACES.values())


def plural(noun: str) -> str:
    """Several of what a noun names."""
    return f"{noun}es" if noun[-1] in "sx" else f"{noun}s"


def noun_phrase(rng: Random, said: Mapping[str, str]) -> str:
    """Words for what is said of an object, without an article: size, texture, colour, shape."""
    words = [word(rng, said[a], TRAIN_WORDING) for a in ("size", "texture", "colour") if a in said]
    noun = word(rng, said["shape"], TRAIN_WORDING) if "shape" in said else "object"
    return " ".join([*words, noun])


def naming(
    rng: Random, objects: list[dict[str, Any]], number: int, hidden: str = ""
) -> dict[str, str] | None:
    """Attributes that fit this object alone, without the hidden one; None where there are none."""
    item = objects[number]
    found = []
    for attributes in _NAMINGS:
        said = {attribute: item[attribute] for attribute in attributes}
        fitting = [o for o in objects if all(o[a] == value for a, value in said.items())]
        if hidden not in attributes and len(fitting) == 1:
            found.append(said)
    return pick(rng, found) if found else None


def ask(
    rng: Random, kind: str, record: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[str, str] | None:
    """A question of a kind and its answer, or None where the scene has none of that kind.

    Args:
      rng: where every choice comes from.
      kind: one of `QUESTION_TYPES`.
      record: the scene's full record.
      other: a scene of the same split drawn at random: what is asked after in vain is there.
    """
    objects = record["objects"]
    wording = pick(rng, _WORDINGS[kind])
    if kind == "exist":
        there = rng.random() < 0.5
        source, without = (record, other) if there else (other, record)
        item = pick(rng, source["objects"])
        said = {attribute: item[attribute] for attribute in pick(rng, _NAMINGS)}
        # Of 'yes' as of 'no', one of the two scenes has it and one has not: so 'yes' and 'no' are
        # as likely for the same words.
        if any(all(o[a] == v for a, v in said.items()) for o in without["objects"]):
            return None
        phrase = with_article(noun_phrase(rng, said))
        return wording.format(phrase), "yes" if there else "no"
    if kind == "count":
        return _count(rng, objects, wording)
    number = int(rng.random() * len(objects))
    if kind in ("where", "beside"):
        subject, relation, place = pick(rng, record["relations"])
        one, two = naming(rng, objects, subject), naming(rng, objects, place)
        if kind == "where":
            if one is None or two is None:
                return None
            phrases = (f"the {noun_phrase(rng, said)}" for said in (one, two))
            return wording.format(*phrases), PLACES[relation]
        alike = [a for a, r, b in record["relations"] if (r, b) == (relation, place)]
        if two is None or len(alike) > 1:
            return None
        around = word(rng, relation, TRAIN_WORDING)
        return wording.format(around, f"the {noun_phrase(rng, two)}"), objects[subject]["shape"]
    said = naming(rng, objects, number, hidden=kind)
    rare = objects[number][kind] != "solid"
    if said is None or not (rare or rng.random() < SOLID_KEPT):
        return None
    return wording.format(f"the {noun_phrase(rng, said)}"), objects[number][kind]


def _count(rng: Random, objects: list[dict[str, Any]], wording: str) -> tuple[str, str]:
    """A question after a number; the number is drawn before what is counted."""
    choices: dict[int, list[dict[str, str]]] = {len(objects): [{}]}
    for attribute, known in (("shape", SHAPES), ("colour", COLOURS), ("texture", TEXTURES)):
        for value in known:
            count = sum(item[attribute] == value for item in objects)
            choices.setdefault(count, []).append({attribute: value})
    answer = pick(rng, sorted(choices))
    phrase = noun_phrase(rng, pick(rng, choices[answer]))
    *before, noun = phrase.split()
    return wording.format(" ".join([*before, plural(noun)])), str(answer)


@dataclasses.dataclass(frozen=True)
class SceneQuestions(Source):
    """Questions about scenes; question i is a function of what is said here and of i alone.

    Questions i·each ... i·each + each - 1 are about scene i. A record holds 'image' (RGB array),
    'question', 'answers' (a list of the one), 'question_type' (one of `QUESTION_TYPES`),
    'answer_type' ('yes/no', 'number', 'other'), 'question_id', 'image_id' (the scene's name),
    'json' (the scene's full record) and the members of `scene_regions.regions`. Training and
    held-out questions are about training and held-out scenes, which put shapes, colours and
    relations together differently; the answers are the same, see `scene_answers`.

    Licence and source: those of the package; everything is drawn, nothing is downloaded.

    Attributes:
      scenes: what is asked about; its split and seed are those of the questions.
      each: how many questions each scene gets.
      kinds: which types of questions, drawn evenly.
      noise: of the regions' features, a standard deviation.

    Raises:
      ValueError: no questions, or no such kind of them.
    """

    scenes: Scenes = dataclasses.field(default_factory=Scenes)
    each: int = 4
    kinds: tuple[str, ...] = QUESTION_TYPES
    noise: float = 0.1

    def __post_init__(self) -> None:
        if self.each < 1:
            raise ValueError(f"each={self.each}; a scene gets at least 1 question.")
        if not self.kinds or not set(self.kinds) <= set(QUESTION_TYPES):
            raise ValueError(f"kinds={self.kinds!r}; use some of {', '.join(QUESTION_TYPES)}.")

    def __len__(self) -> int:
        return len(self.scenes) * self.each

    def __getitem__(self, position: int) -> Record:
        """One question. See `Source.__getitem__`."""
        if not 0 <= position < len(self):
            raise IndexError(f"question {position} of {len(self)}")
        scenes = self.scenes
        record = scenes.scene(position // self.each)
        kind, question, answer = self._ask(position, record)
        return {
            "__key__": f"question-{scenes.split}-{position:08d}",
            "image": draw(record),
            "question": question,
            "answers": [answer],
            "question_type": kind,
            "answer_type": ANSWER_TYPES.get(kind, "other"),
            "question_id": position,
            "image_id": f"scene-{scenes.split}-{position // self.each:08d}",
            "json": json.dumps(record, separators=(",", ":")),
            **regions(record, self.noise),
        }

    def question(self, position: int) -> tuple[str, str, str]:
        """(type, question, answer), without drawing the picture."""
        return self._ask(position, self.scenes.scene(position // self.each))

    def fingerprint(self) -> str:
        """See `Source.fingerprint`."""
        own = [self.each, self.kinds, self.noise]
        return digest(["scene questions", VERSION, self.scenes.fingerprint(), *own])

    def describe(self) -> str:
        """See `Source.describe`."""
        return f"{len(self):,} questions about {self.scenes.describe()}"

    def _ask(self, position: int, record: dict[str, Any]) -> tuple[str, str, str]:
        scenes = self.scenes
        name = f"questions/{VERSION}/{scenes.seed}/{scenes.split}/{position}"
        rng = Random(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()))
        for _ in range(ATTEMPTS):
            kind = pick(rng, self.kinds)
            other = scenes.scene(int(rng.random() * len(scenes))) if kind == "exist" else record
            if found := ask(rng, kind, record, other):
                return kind, *found
        raise ValueError(
            f"kinds={self.kinds!r}: nothing can be asked about scene {position // self.each}; "
            "take more kinds, or more scenes."
        )
