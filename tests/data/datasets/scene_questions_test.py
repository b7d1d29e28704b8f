"""Questions about drawn scenes; each is answered again here, by its words and the record alone."""

import functools
import json
import pickle
import re
from collections import Counter

import numpy as np
import pytest

from mmjax.data.answers import Answers, normalize
from mmjax.data.datasets.scene_grammar import RELATIONS, WORDINGS
from mmjax.data.datasets.scene_questions import QUESTION_TYPES, SceneQuestions, scene_answers
from mmjax.data.datasets.scenes import Scenes

SINGULAR = {"crosses": "cross", "pluses": "plus", "boxes": "box"} | {
    f"{noun}s": noun for noun in ["circle", "disc", "square", "triangle", "star", "heart", "object"]
}
MEANING = {word: meaning for meaning, words in WORDINGS.items() for word in words}
PREPOSITIONS = "|".join(sorted((w for r in RELATIONS for w in WORDINGS[r]), key=len, reverse=True))
ATTRIBUTES = ("shape", "colour", "size", "texture")


class Kept(Scenes):
    """Scenes that are made once."""

    scene = functools.lru_cache(maxsize=None)(Scenes.scene)


def fitting(phrase, record):
    """The objects that a noun phrase fits, by their places."""
    said = {MEANING[word] for word in phrase.split() if not word.startswith("object")}
    return [
        number
        for number, item in enumerate(record["objects"])
        if said <= {item[attribute] for attribute in ATTRIBUTES}
    ]


def the_one(phrase, record):
    (number,) = fitting(phrase, record)
    return number


def answer(question, record):
    """An answer by the question's words; fails where more than one object is meant."""
    objects = record["objects"]
    if found := re.fullmatch(r"(?:is there|do we see|does the picture show) an? (.*)\?", question):
        return "yes" if fitting(found[1], record) else "no"
    if found := re.fullmatch(r"how many (.*) (?:are there|does the picture show)\?", question):
        *words, noun = found[1].split()
        return str(len(fitting(" ".join([*words, SINGULAR[noun]]), record)))
    if found := re.fullmatch(
        r"where (?:is|does) the (.*?)(?: stand,)? seen from the (.*)\?", question
    ):
        one, two = the_one(found[1], record), the_one(found[2], record)
        (relation,) = (r for a, r, b in record["relations"] if (a, b) == (one, two))
        return relation.removesuffix(" of")
    if found := re.fullmatch(rf"(?:what|which) shape is ({PREPOSITIONS}) the (.*)\?", question):
        place, relation = the_one(found[2], record), MEANING[found[1]]
        (one,) = (a for a, r, b in record["relations"] if (r, b) == (relation, place))
        return objects[one]["shape"]
    found = re.fullmatch(
        r"(?:what|which|how) (?:is the )?(colour|shape|size|large|texture)(?: is| has| of)"
        r" the (.*)\?",
        question,
    )
    return objects[the_one(found[2], record)][found[1].replace("large", "size")]


@pytest.fixture(scope="module", params=["train", "held_out"])
def asked(request):
    questions = SceneQuestions(Kept(request.param, num_scenes=96), each=8)
    rows = [questions.question(i) for i in range(len(questions))]
    return questions, rows


def test_every_answer_is_the_one_that_the_words_ask_for(asked):
    questions, rows = asked
    for i, (kind, question, given) in enumerate(rows):
        assert answer(question, questions.scenes.scene(i // 8)) == given, (kind, question)
    assert {kind for kind, _, _ in rows} == set(QUESTION_TYPES)


def test_answers_are_of_the_closed_vocabulary_and_spread(asked):
    _, rows = asked
    given = {kind: Counter(a for k, _, a in rows if k == kind) for kind in QUESTION_TYPES}
    assert set().union(*given.values()) <= set(scene_answers())
    names = Answers(scene_answers()).names
    assert [normalize(name) for name in names] == list(names)
    assert abs(given["exist"]["yes"] / given["exist"].total() - 0.5) < 0.08
    for kind in QUESTION_TYPES[1:]:
        assert given[kind].most_common(1)[0][1] / given[kind].total() < 0.7, (kind, given[kind])


def test_yes_and_no_are_as_likely_whatever_is_asked_after():
    questions = SceneQuestions(Kept(num_scenes=250), each=4, kinds=("exist",))
    rows = [questions.question(i)[1:] for i in range(1000)]
    for word in ("circle", "red", "striped", "large", "object"):
        said = [given == "yes" for question, given in rows if word in question]
        assert abs(np.mean(said) - 0.5) < 2.5 / np.sqrt(len(said)), word


def test_a_record_has_the_members_of_a_question(asked):
    questions, rows = asked
    again = pickle.loads(pickle.dumps(questions))
    record = again[43]
    split = questions.scenes.split
    kind, question, given = rows[43]
    assert (record["question"], record["answers"]) == (question, [given])
    assert record["question_type"] == kind
    assert record["answer_type"] in ("yes/no", "number", "other")
    assert record["__key__"] == f"question-{split}-00000043"
    assert record["image_id"] == questions.scenes[5]["__key__"]
    assert json.loads(record["json"]) == questions.scenes.scene(5)
    np.testing.assert_array_equal(record["image"], questions.scenes[5]["image"])
    assert record["boxes"].shape == (len(json.loads(record["json"])["objects"]), 4)
    with pytest.raises(IndexError, match="question 768 of 768"):
        questions[768]


def test_options_are_checked_and_enter_the_fingerprint():
    few = SceneQuestions(Scenes(num_scenes=4))
    others = [SceneQuestions(Scenes(num_scenes=4), each=2), SceneQuestions(kinds=("where",))]
    assert len({q.fingerprint() for q in [few, *others]}) == 3
    assert few.describe() == "16 questions about 4 train scenes drawn at 64 px from seed 0"
    with pytest.raises(ValueError, match="each=0"):
        SceneQuestions(each=0)
    with pytest.raises(ValueError, match="use some of exist, count"):
        SceneQuestions(kinds=("why",))
    with pytest.raises(ValueError, match="nothing can be asked about scene 0"):
        SceneQuestions(Scenes(num_scenes=1), kinds=("exist",)).question(0)
