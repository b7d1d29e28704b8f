"""Each source gets the share that its weight asks for, whatever the weights and their number."""

import numpy as np
import pytest

from mmjax.data.mixture import CLOSE, LONGEST, PERIOD, Order

rng = np.random.default_rng(0)
WEIGHTS = {
    "two": (0.25, 0.75),
    "thirds": (1.0, 1.0, 1.0),
    "600 equal": (1.0,) * 600,
    "5000 equal": (0.1,) * 5000,
    "one small": (1.0, 0.0015),
    "one smaller": (1.0, 1e-4),
    "sizes of files": tuple(rng.integers(1, 300, 90).astype(float)),
    **{f"any {n}": tuple(np.exp(rng.normal(size=n))) for n in (2, 3, 7, 30, 300)},
}


def drawn(weights, number):
    order = Order((10,) * len(weights), weights, seed=1)
    return np.array([order._visit(index) for index in range(number)])


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_every_share_is_within_a_hundredth_of_what_is_asked(weights):
    order = Order((10,) * len(weights), weights, seed=1)
    source, before, turns = order._turns
    asked = np.array(weights) / sum(weights)
    assert (np.abs(turns / len(source) - asked) <= CLOSE * asked).all()
    assert len(source) == turns.sum() <= LONGEST
    assert (np.bincount(source, minlength=len(turns)) == turns).all()
    for number in np.argsort(turns)[[0, -1]]:  # its turns are counted on, none left out
        assert (before[source == number] == np.arange(turns[number])).all()


def test_equal_sources_come_equally_often_and_none_twice_before_all_came():
    found = drawn((1.0,) * 600, 1800)
    for epoch in range(3):
        part = found[600 * epoch : 600 * (epoch + 1)]
        assert sorted(part[:, 0]) == list(range(600))
        assert (part[:, 1] == epoch).all()


def test_visits_go_on_over_the_end_of_a_period():
    found = drawn((1.0, 0.0015), 5000)
    for source in range(2):
        visits = found[found[:, 0] == source, 1]
        assert (visits == np.arange(len(visits))).all()


def test_turns_of_a_long_period_are_spread_evenly():
    weights = WEIGHTS["sizes of files"]
    source, _, turns = Order((10,) * 90, weights, seed=1)._turns
    assert len(source) != PERIOD
    for part in range(1, 10):
        cut = part * len(source) // 10
        count = np.bincount(source[:cut], minlength=90)
        assert (np.abs(count - turns * cut / len(source)) < 2).all()


def test_where_a_thousand_samples_keep_the_shares_the_order_is_as_it_was():
    weights = (0.5, 0.3, 0.2)
    turns = np.zeros(3)
    for index, (source, before) in enumerate(drawn(weights, PERIOD)):
        behind = np.array(weights) * (index + 1) - turns
        assert behind[source] == behind.max()
        assert before == turns[source]
        turns[source] += 1


def test_a_weight_that_gives_no_turn_is_refused():
    with pytest.raises(ValueError, match=r"smallest of 2 gives its source 1\.0e-07 of the samples"):
        Order((10, 10), (1.0, 1e-7), seed=0)
    with pytest.raises(ValueError, match="smallest of 2"):
        Order((10, 10), (1e100, 1e-300), seed=0)
    Order((10, 10), (1e6, 1.1), seed=0)
