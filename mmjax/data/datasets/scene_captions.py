"""Captions of drawn scenes: which part of a scene to tell, and in which words.

Wordings vary in length, order, synonyms and in how much of an object they name. Each caption is
made from a `Statement` that is true of its scene by construction; `scene_grammar.parse` reads it
back.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from mmjax.data.datasets.scene_grammar import (
    ANYTHING,
    NOUN_OPENINGS,
    SENTENCE_OPENINGS,
    WORDINGS,
    Mention,
    Statement,
)

FORMS = ("full", "pair", "short", "list")


@dataclasses.dataclass(frozen=True)
class Wording:
    """How often captions do what; each a probability from 0 to 1.

    Attributes:
      forms: of telling all objects, two, one beside 'another shape', or naming without relations.
      synonym: of a rarer word for the same meaning.
      size: of naming an object's size (a medium one's a quarter as often).
      texture: of naming an object's texture (a solid one's a quarter as often).
      background: of naming the background.
      partial: of leaving out an object's colour where two objects are told.
    """

    forms: tuple[float, ...] = (0.45, 0.10, 0.40, 0.05)
    synonym: float = 0.1
    size: float = 0.25
    texture: float = 0.25
    background: float = 0.1
    partial: float = 0.1


TRAIN_WORDING = Wording()
# Evaluation tells the whole scene, with more of its attributes, so that captions can be told apart.
HELD_OUT_WORDING = Wording(
    forms=(1.0, 0.0, 0.0, 0.0), size=0.5, texture=0.5, background=0.1, partial=0.0
)


def pick(rng: Random, choices: Sequence[Any]) -> Any:
    """One of the choices, evenly; by `rng.random` alone, which no Python release changes."""
    return choices[int(rng.random() * len(choices))]


def pick_weighted(rng: Random, choices: Sequence[Any], weights: Sequence[float]) -> Any:
    """One of the choices by weights that sum to one."""
    mark = rng.random()
    for choice, weight in zip(choices, weights):
        mark -= weight
        if mark < 0:
            return choice
    return choices[0]


def shuffled(rng: Random, count: int) -> list[int]:
    """The numbers below `count` in random order."""
    keys = [(rng.random(), number) for number in range(count)]
    return [number for _, number in sorted(keys)]


def word(rng: Random, meaning: str, wording: Wording) -> str:
    """A word for a meaning, mostly the usual one."""
    words = WORDINGS[meaning]
    if len(words) == 1 or rng.random() >= wording.synonym:
        return words[0]
    return pick(rng, words[1:])


def with_article(words: str) -> str:
    """The words with 'a' or 'an' before them."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def mention(
    rng: Random, item: Mapping[str, Any], wording: Wording, partial: bool
) -> tuple[Mention, str, str]:
    """What is said of an object, in words, and the words that name it again."""
    shape, colour = item["shape"], item["colour"]
    names_colour = not (partial and rng.random() < wording.partial)
    names_size = rng.random() < wording.size * (0.25 if item["size"] == "medium" else 1.0)
    names_texture = rng.random() < wording.texture * (0.25 if item["texture"] == "solid" else 1.0)
    shape_word = word(rng, shape, wording)
    words = []
    if names_size:
        words.append(word(rng, item["size"], wording))
    if names_texture:
        words.append(word(rng, item["texture"], wording))
    if names_colour:
        colour_word = word(rng, colour, wording)
        words.insert(
            len(words) - 1 if names_texture and rng.random() < 0.3 else len(words), colour_word
        )
        again = f"the {colour_word} {shape_word}"
    else:
        again = f"the {shape_word}"
    said = Mention(
        shape,
        colour if names_colour else None,
        item["size"] if names_size else None,
        item["texture"] if names_texture else None,
    )
    return said, with_article(" ".join([*words, shape_word])), again


def clause(rng: Random, subject: str, relation: str, other: str, wording: Wording) -> str:
    """'subject relation other', sometimes turned round; a noun phrase with what follows it."""
    relation_words = word(rng, relation, wording)
    form = rng.random()
    if form < 0.7:
        opening = pick(rng, NOUN_OPENINGS) + " " if form < 0.2 else ""
        return f"{opening}{subject} {relation_words} {other}"
    if form < 0.8:
        return f"{pick(rng, SENTENCE_OPENINGS)} {subject} {relation_words} {other}"
    if form < 0.9:
        return f"{subject} is {relation_words} {other}"
    return f"{relation_words} {other} is {subject}"


def caption(
    rng: Random, record: Mapping[str, Any], wording: Wording = TRAIN_WORDING
) -> tuple[str, Statement]:
    """One caption of a scene, with what it claims.

    Args:
      rng: where every choice comes from; only its `random` method is used.
      record: the scene's full record.
      wording: how often captions do what.

    Returns:
      (words, statement); the statement is true of the scene.
    """
    objects = record["objects"]
    form = pick_weighted(rng, FORMS, wording.forms)
    order = shuffled(rng, len(objects))
    if form in ("pair", "short"):
        order = order[:2]
    relation_of = {(a, b): relation for a, relation, b in record["relations"]}
    told = [mention(rng, objects[number], wording, form == "pair") for number in order]
    first = told[0]
    if form == "list":
        phrases = [words for _, words, _ in told]
        text = f"{', '.join(phrases[:-1])} and {phrases[-1]}"
        if rng.random() < 0.5:
            text = f"{pick(rng, NOUN_OPENINGS)} {text}"
        statement = Statement(tuple(said for said, _, _ in told))
    elif form == "short":
        relation = relation_of[order[0], order[1]]
        text = clause(rng, first[1], relation, pick(rng, ANYTHING), wording)
        statement = Statement((first[0], Mention()), ((0, relation, 1),))
    else:
        relation = relation_of[order[0], order[1]]
        text = clause(rng, first[1], relation, told[1][1], wording)
        relations = [(0, relation, 1)]
        for place in range(2, len(order)):
            anchor = int(rng.random() * place)
            relation = relation_of[order[place], order[anchor]]
            relations.append((place, relation, anchor))
            joint = pick(rng, (", and ", ", with ", ", "))
            text += f"{joint}{told[place][1]} {word(rng, relation, wording)} {told[anchor][2]}"
        statement = Statement(tuple(said for said, _, _ in told), tuple(relations))
    if rng.random() < wording.background:
        kind = record["background"]["kind"]
        text += f" on {with_article(word(rng, kind, wording))} background"
        statement = dataclasses.replace(statement, background=kind)
    return text, statement
