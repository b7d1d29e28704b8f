"""Statements about two scenes; whether each is true is told again here, from its words alone."""

import json
import pickle
import re
from collections import Counter

import numpy as np
import pytest

from mmjax.data.datasets.scene_grammar import RELATIONS, WORDINGS
from mmjax.data.datasets.scene_statements import SceneStatements
from mmjax.data.datasets.scenes import Scenes
from mmjax.evaluation.metrics.nlvr2 import consistency, group

SINGULAR = {"crosses": "cross", "pluses": "plus", "boxes": "box"} | {
    f"{noun}s": noun for noun in ["circle", "disc", "square", "triangle", "star", "heart", "object"]
}
MEANING = {word: meaning for meaning, words in WORDINGS.items() for word in words}
PREPOSITIONS = "|".join(sorted((w for r in RELATIONS for w in WORDINGS[r]), key=len, reverse=True))
NUMBERS = {"one": 1, "two": 2, "four": 4, "five": 5, "six": 6}
SETS = 40


def count(phrase, record):
    """How many objects of a scene a phrase fits, alone or with 'above another object'."""
    relation = None
    if found := re.fullmatch(rf"(.*) ({PREPOSITIONS}) another object", phrase):
        phrase, relation = found[1], MEANING[found[2]]
    phrase = phrase.removeprefix("an ").removeprefix("a ")
    words = [SINGULAR.get(word, word) for word in phrase.split()]
    said = {MEANING[word] for word in words if word != "object"}
    return sum(
        said <= {item[a] for a in ("shape", "colour", "size", "texture")}
        and (relation is None or any((a, r) == (n, relation) for a, r, _ in record["relations"]))
        for n, item in enumerate(record["objects"])
    )


READINGS = (
    (r"the left picture shows more (.*) than the right one", lambda a, b: a > b),
    (r"the right picture shows more (.*) than the left one", lambda a, b: b > a),
    (r"the left picture shows as many (.*) as the right one", lambda a, b: a == b),
    (r"both pictures show equally many (.*)", lambda a, b: a == b),
    (r"the left picture shows (an? .*)", lambda a, b: a > 0),
    (r"there is (an? .*) in the left picture", lambda a, b: a > 0),
    (r"the right picture shows (an? .*)", lambda a, b: b > 0),
    (r"there is (an? .*) in the right picture", lambda a, b: b > 0),
    (r"both pictures show (an? .*)", lambda a, b: a > 0 and b > 0),
    (r"there is (an? .*) in each picture", lambda a, b: a > 0 and b > 0),
    (r"exactly one picture shows (.*)", lambda a, b: (a > 0) + (b > 0) == 1),
    (r"only one of the pictures shows (.*)", lambda a, b: (a > 0) + (b > 0) == 1),
    (r"at least one picture shows (.*)", lambda a, b: a + b > 0),
    (r"neither picture shows (.*)", lambda a, b: a + b == 0),
    (r"there is not (.*) in any of the pictures", lambda a, b: a + b == 0),
)


def is_true(words, left, right):
    if found := re.fullmatch(r"there (?:is|are) (?:exactly )?(\w+) (.*) in total", words):
        return count(found[2], left) + count(found[2], right) == NUMBERS[found[1]]
    for pattern, reading in READINGS:
        if found := re.fullmatch(pattern, words):
            return reading(count(found[1], left), count(found[1], right))
    raise AssertionError(words)


@pytest.fixture(scope="module", params=["train", "held_out"])
def told(request):
    scenes = Scenes(request.param, num_scenes=128)
    statements = SceneStatements(scenes, num_sets=SETS)
    return statements, [statements[i] for i in range(len(statements))]


def test_every_statement_is_as_true_as_it_is_said_to_be(told):
    _, records = told
    for record in records:
        left, right = (json.loads(record[f"{side}_json"]) for side in ("left", "right"))
        assert is_true(record["statement"], left, right) is record["truth"], record["statement"]
    assert len({record["form"] for record in records}) > 6


def test_words_alone_tell_nothing_and_every_sentence_has_four_pairs(told):
    _, records = told
    by_words = {}
    for record in records:
        by_words.setdefault(record["statement"], Counter())[record["truth"]] += 1
    assert all(counts[True] == counts[False] for counts in by_words.values())
    sentences = {}
    for record in records:
        sentences.setdefault(group(record["identifier"]), set()).add(record["statement"])
    assert len(sentences) == SETS
    assert all(len(words) == 1 for words in sentences.values())
    labels = {record["identifier"]: record["truth"] for record in records}
    assert len(labels) == 4 * SETS
    assert consistency(dict.fromkeys(labels, True), labels) == 0
    assert len({tuple(r["truth"] for r in records[i : i + 4]) for i in range(0, 4 * SETS, 4)}) > 3


def test_neither_picture_alone_tells_the_statements_that_need_both(told):
    _, records = told
    sides = {"left": set(), "right": set()}
    for record in records:
        if record["form"] == "one":
            for side in sides:
                phrase = re.fullmatch(r".* shows (.*)", record["statement"])[1]
                there = count(phrase, json.loads(record[f"{side}_json"])) > 0
                sides[side].add((there, record["truth"]))
    assert all(len(found) == 4 for found in sides.values())


def test_a_record_is_a_function_of_seed_split_and_position(told):
    statements, records = told
    again = pickle.loads(pickle.dumps(SceneStatements(statements.scenes, num_sets=SETS)))
    for i in (141, 7):
        record = again[i]
        assert record["statement"] == records[i]["statement"]
        for side in ("left", "right"):
            np.testing.assert_array_equal(record[side], records[i][side])
            np.testing.assert_array_equal(record[f"{side}_boxes"], records[i][f"{side}_boxes"])
    assert again[7]["identifier"] == f"{statements.scenes.split.replace('_', '')}-1-3-0"
    with pytest.raises(IndexError, match="statement 160 of 160"):
        again[160]


def test_options_are_checked_and_enter_the_fingerprint():
    some = SceneStatements(Scenes(num_scenes=9))
    others = [SceneStatements(Scenes(num_scenes=9), num_sets=3), SceneStatements(pool=9)]
    assert len({s.fingerprint() for s in [some, *others]}) == 3
    assert others[0].describe().startswith("12 statements about two of 9 train scenes")
    with pytest.raises(ValueError, match="num_sets=0"):
        SceneStatements(num_sets=0)
    with pytest.raises(ValueError, match="pool=1: no sentence has 4 pairs"):
        SceneStatements(pool=1)[0]
