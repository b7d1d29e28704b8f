"""Shuffled epochs visit each sample once, in orders that look drawn."""

import numpy as np
import pytest

from mmjax.data.shuffle import round_keys, shuffled


def order(size: int, seed: int = 0, epoch: int = 0) -> np.ndarray:
    keys = round_keys(seed, epoch)
    return np.array([shuffled(position, size, keys) for position in range(size)])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 99, 100, 101, 1000, 4097])
def test_an_epoch_visits_each_sample_once(size):
    for epoch in range(3):
        assert sorted(order(size, 7, epoch)) == list(range(size))


def test_epochs_and_seeds_differ_and_repeat():
    orders = [order(500, seed, epoch) for seed in (0, 1, -5, 2**62) for epoch in (0, 1, 2)]
    assert len({tuple(one) for one in orders}) == len(orders)
    for one in orders:
        for other in orders:
            if one is not other:
                assert np.mean(one == other) < 0.02
    np.testing.assert_array_equal(order(500, 1, 2), order(500, 1, 2))


@pytest.mark.parametrize("size", [2, 3, 5, 6, 10])
def test_every_pair_of_samples_stands_at_every_pair_of_positions_equally_often(size):
    epochs = 4000
    counts = np.zeros((size,) * 4)
    places = np.arange(size)
    for epoch in range(epochs):
        one = order(size, 3, epoch)
        counts[places[:, None], places[None], one[:, None], one[None]] += 1
    apart = places[:, None] != places[None]
    pairs = counts[apart[:, :, None, None] & apart[None, None]]
    expected = epochs / (size * (size - 1))
    assert pairs.sum() == epochs * size * (size - 1)
    assert ((pairs - expected) ** 2 / expected).mean() < 1.5


def test_neighbours_and_places_in_a_long_epoch_are_unrelated():
    for size in (1000, 5000):
        one = order(size, 11)
        assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 4 / np.sqrt(size)
        assert abs(np.corrcoef(np.arange(size), one)[0, 1]) < 4 / np.sqrt(size)
        # Of a random order, about one sample keeps its place, and two pairs stay neighbours.
        assert (one == np.arange(size)).sum() < 8
        assert (np.abs(np.diff(one)) == 1).sum() < 12


def test_a_billion_samples_need_no_table():
    size = 10**9 + 7
    keys = round_keys(0, 0)
    drawn = np.array([shuffled(position, size, keys) for position in range(4000)])
    assert len(set(drawn.tolist())) == 4000
    assert 0 <= drawn.min() < 0.01 * size
    assert 0.99 * size < drawn.max() < size
    assert abs(drawn.mean() / size - 0.5) < 4 / np.sqrt(12 * 4000)
