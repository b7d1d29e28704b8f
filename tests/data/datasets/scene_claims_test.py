"""What statements about two scenes claim."""

from random import Random

import pytest

from mmjax.data.datasets.scene_claims import FORMS, Claim, draw_claim, pairs_of


def test_the_pairs_of_a_claim_are_those_of_which_it_is_true_and_false():
    rng = Random(0)
    forms = set()
    for _ in range(300):
        claim, words = draw_claim(rng)
        forms.add(claim.form)
        for truth in (True, False):
            pairs = pairs_of(claim, truth)
            assert pairs, words
            assert all(claim.holds(*pair) is truth for pair in pairs)
    assert forms == set(FORMS)


def item(shape, colour):
    return {"shape": shape, "colour": colour, "size": "small", "texture": "solid"}


RECORD = {
    "objects": [item("circle", "red"), item("square", "red")],
    "relations": [[0, "left of", 1], [1, "right of", 0]],
}


@pytest.mark.parametrize(
    ("said", "relation", "count"),
    [
        ((), "", 2),
        ((("colour", "red"),), "", 2),
        ((("shape", "circle"), ("colour", "red")), "", 1),
        ((("shape", "circle"),), "left of", 1),
        ((("shape", "circle"),), "right of", 0),
        ((("shape", "star"),), "", 0),
    ],
)
def test_objects_are_counted_by_what_is_said_of_them(said, relation, count):
    assert Claim("left", said, relation).count(RECORD) == count
