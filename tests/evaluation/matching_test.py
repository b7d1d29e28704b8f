"""A text's own picture against another one, on worlds whose scores are given."""

import numpy as np
import pytest

from mmjax.evaluation.judging import Judged
from mmjax.evaluation.matching import Matching, draw_others

RNG = np.random.default_rng(0)


def world(judged_context, scores, **words):
    facts = [{"captions": (f"a caption {n}",)} for n in range(len(scores))]
    return judged_context(np.diag(scores), facts, wrong=scores, **words)


def test_own_pictures_that_suit_best_score_one(judged_context):
    found = Matching()(world(judged_context, np.eye(23)))
    assert found.metrics == {"accuracy": 1.0, "accuracy_chance": 0.5, "pairs": 23.0}
    assert Matching()(world(judged_context, -np.eye(23))).metrics["accuracy"] == 0.0


def test_random_scores_are_near_one_half_and_like_ones_at_zero(judged_context):
    found = Matching()(world(judged_context, RNG.normal(size=(900, 900)))).metrics
    assert abs(found["accuracy"] - 0.5) < 3 * 0.5 / np.sqrt(900)
    assert Matching()(world(judged_context, np.ones((23, 23)))).metrics["accuracy"] == 0.0


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_a_score_that_is_no_number_counts_against(judged_context, spoilt):
    scores = np.eye(20)
    scores[:5, :] = spoilt
    assert Matching()(world(judged_context, scores)).metrics["accuracy"] == pytest.approx(0.75)


def test_the_wrong_picture_is_fixed_by_the_seed_and_of_another_group(judged_context):
    groups = np.arange(40) // 8
    own = [Judged(position, 0.0, int(group), {}) for position, group in enumerate(groups)]
    first, again, other = draw_others(own, 0), draw_others(own, 0), draw_others(own, 1)
    assert first == again != other
    assert not (groups[first] == groups).any()
    assert len(set(first)) > 15
    alone = [Judged(n, 0.0, int(n == 0), {}) for n in range(300)]
    assert set(draw_others(alone, 0)[1:]) == {0}
    with pytest.raises(ValueError, match="of one group"):
        draw_others(own[:8], 0)
    same = (groups[:, None] == groups).astype(float)  # the pictures of a group suit alike
    assert Matching()(world(judged_context, same, group=groups)).metrics["accuracy"] == 1.0


def test_the_worst_stand_with_the_picture_that_was_preferred(judged_context):
    scores = np.eye(10)
    scores[4] = 3.0
    scores[4, 4] = -2.0
    (worst,) = Matching()(world(judged_context, scores)).artifact["worst"]
    assert (worst["position"], worst["told"], worst["right"]) == (4, "3", "-2")
    assert worst["other"] == draw_others([Judged(n, 0.0, None, {}) for n in range(10)], 0)[4]


def test_words_of_the_picture_are_some_and_not_all():
    with pytest.raises(ValueError, match="picture_words"):
        Matching(words=("token_ids", "text_mask"))
    with pytest.raises(ValueError, match="picture_words"):
        Matching(words=("image",))
    Matching(words=("token_ids", "pixels"), picture_words=("pixels",))
