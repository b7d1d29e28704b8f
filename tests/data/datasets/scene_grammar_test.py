"""Statements about scenes: when they are true, and reading them back from words."""

from collections import Counter
from random import Random

import pytest

from mmjax.data.datasets.scene_captions import FORMS, TRAIN_WORDING, Wording, caption, pick_weighted
from mmjax.data.datasets.scene_grammar import WORDINGS, Mention, Statement, is_true, parse
from mmjax.data.datasets.scenes import Scenes


def item(shape, colour, size="medium", texture="solid"):
    return {"shape": shape, "colour": colour, "size": size, "texture": texture}


RECORD = {
    "objects": [item("circle", "red"), item("square", "red", "large"), item("star", "blue")],
    "relations": [
        [0, "left of", 1],
        [1, "right of", 0],
        [0, "above", 2],
        [2, "below", 0],
        [1, "above", 2],
        [2, "below", 1],
    ],
    "background": {"kind": "noise"},
}


@pytest.mark.parametrize(
    ("words", "truth"),
    [
        ("a red circle left of another shape", True),
        ("a red circle above a red square", False),
        ("a red circle above a blue star", True),
        ("above a blue star is a red circle", True),
        ("a blue star above a red circle", False),
        ("a large crimson box and a star", True),
        ("a small red square and a star", False),
        ("a red circle and a red circle", False),
        ("a red circle right of another object", False),
        ("a picture of a circle to the left of a square, with a star below the square", True),
        ("a circle to the left of a square, with a star above the square", False),
        ("a blue star under a red square on a noisy background", True),
        ("a blue star under a red square on a plain background", False),
        ("there is a hollow star below something else", False),
    ],
)
def test_a_caption_is_true_exactly_when_it_holds(words, truth):
    assert is_true(parse(words), RECORD) is truth


def test_two_mentions_are_two_objects():
    one = {**RECORD, "objects": RECORD["objects"][:1], "relations": []}
    assert is_true(Statement((Mention("circle"),)), one)
    assert not is_true(Statement((Mention("circle"), Mention())), one)


def meaning(claim):
    """What a statement claims, whatever the order of its parts."""
    said = claim.mentions
    relations = Counter((said[a], relation, said[b]) for a, relation, b in claim.relations)
    return Counter(said), relations, claim.background


def test_reading_a_caption_gives_what_was_claimed():
    scenes = Scenes(seed=8)
    rng = Random(1)
    for i in range(400):
        record = scenes.scene(i)
        words, claim = caption(rng, record)
        assert meaning(parse(words)) == meaning(claim), words


def test_every_form_and_every_word_occurs():
    scenes = Scenes(seed=8)
    rng = Random(2)
    wording = Wording(synonym=0.5, size=0.8, texture=0.8, background=0.5)
    text = " ".join(caption(rng, scenes.scene(i), wording)[0] for i in range(1500))
    missing = [word for words in WORDINGS.values() for word in words if word not in text]
    assert missing == []
    forms = {pick_weighted(rng, FORMS, TRAIN_WORDING.forms) for _ in range(300)}
    assert forms == set(FORMS)


def test_a_word_has_one_meaning():
    words = [word for group in WORDINGS.values() for word in group]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("words", ["a red circle near a blue star", "red", "a red circle above"])
def test_words_outside_the_language_are_refused(words):
    with pytest.raises(ValueError, match="caption"):
        parse(words)
