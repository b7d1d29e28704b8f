"""Epochs by blocks: each sample once, few blocks at a time, the same for any number of hosts."""

import pickle

import numpy as np
import pytest

from mmjax.data.block_order import BlockOrder
from mmjax.data.mixture import Order
from mmjax.data.sources.base import Blocks

UNEVEN = (5, 1, 9, 3, 7, 7, 2, 8, 4, 6, 1, 1, 10)


def visits(order, count, first=0):
    return [order.position(visit) for visit in range(first, first + count)]


@pytest.mark.parametrize("window", [1, 2, 5, 100])
@pytest.mark.parametrize(("lanes", "batch_size"), [(1, 7), (2, 8), (3, 3), (4, 32), (13, 130)])
def test_each_epoch_visits_each_sample_once(window, lanes, batch_size):
    order = BlockOrder(Blocks(UNEVEN, window, lanes), seed=3, batch_size=batch_size)
    size = sum(UNEVEN)
    orders = [visits(order, size, epoch * size) for epoch in range(4)]
    for one in orders:
        assert sorted(one) == list(range(size))
    assert len(set(map(tuple, orders))) == 4


def test_the_order_follows_from_the_seed_alone():
    def make(seed):
        return BlockOrder(Blocks(UNEVEN, 3, 2), seed, batch_size=8)

    forward = visits(make(1), 200)
    late = make(1)
    assert [late.position(visit) for visit in reversed(range(200))] == forward[::-1]
    assert visits(make(2), 200) != forward


@pytest.mark.parametrize("lanes", [1, 4])
def test_only_the_blocks_said_to_be_near_are_read(lanes):
    blocks = Blocks((50,) * 40, window=3, lanes=lanes)
    order = BlockOrder(blocks, seed=0, batch_size=16)
    last = {}
    for visit in range(2 * 2000):
        lane, near = order.near(visit)
        assert lane == visit // (16 // lanes) % lanes
        block = blocks.find(order.position(visit))[0]
        assert block in near
        assert len(near) <= 2 * 3 + 3  # a lane that begins within a block touches one more of them
        # What is read now was foretold while the window before was read.
        assert block in last.get(lane, near)
        last[lane] = near


def test_next_blocks_are_foretold_a_window_ahead():
    blocks = Blocks((20,) * 30, window=2)
    order = BlockOrder(blocks, seed=5, batch_size=4)
    for visit in range(0, 1200, 40):
        now = {blocks.find(position)[0] for position in visits(order, 40, visit)}
        following = {blocks.find(position)[0] for position in visits(order, 40, visit + 40)}
        assert set(order.near(visit)[1]) == now | following


def test_hosts_that_make_the_rows_of_other_lanes_read_other_blocks():
    blocks, batch = Blocks((64,) * 64, window=2, lanes=4), 32
    order = BlockOrder(blocks, seed=1, batch_size=batch)
    steps = sum(blocks.sizes) // batch // 4  # a quarter of the epoch
    read = [set() for _ in range(4)]
    for visit in range(steps * batch):
        read[visit % batch // (batch // 4)].add(blocks.find(order.position(visit))[0])
    assert sum(map(len, read)) == len(set.union(*read))  # no block is read by two hosts
    assert len(set.union(*read)) <= 64 // 4 + 4 * 2


def test_samples_are_mixed_within_a_window():
    order = BlockOrder(Blocks((100,) * 10, window=5), seed=0, batch_size=1)
    first = np.array(visits(order, 500))
    blocks = first // 100
    assert len(set(blocks.tolist())) == 5
    assert all(len(set(blocks[at : at + 50].tolist())) == 5 for at in range(0, 500, 50))
    assert (np.abs(np.diff(first)) == 1).sum() < 20


@pytest.mark.parametrize(
    ("lanes", "batch_size", "problem"), [(3, 8, "do not divide"), (20, 40, "as many")]
)
def test_lanes_that_do_not_fit_are_refused(lanes, batch_size, problem):
    with pytest.raises(ValueError, match=problem):
        BlockOrder(Blocks(UNEVEN, 1, lanes), 0, batch_size)


@pytest.mark.parametrize("values", [((), 1, 1), ((1, 0), 1, 1), ((1,), 0, 1), ((1,), 1, 0)])
def test_blocks_that_cannot_be_are_refused(values):
    with pytest.raises(ValueError, match=r"1 or more|at least one"):
        Blocks(*values)


def test_sources_with_and_without_blocks_are_mixed():
    blocks = Blocks((10, 20), window=1)
    order = pickle.loads(pickle.dumps(Order((30, 7), (0.5, 0.5), 4, (blocks, None), 8)))
    plain = Order((30, 7), (0.5, 0.5), 4)
    found = [order(index) for index in range(60)]
    assert sorted(position for number, position in found if number == 0) == list(range(30))
    assert [one for one in found if one[0] == 1] == [
        one for one in map(plain, range(60)) if one[0] == 1
    ]
    for index, (number, position) in enumerate(found):
        near = order.near(index)[1]
        assert bool(near) == (number == 0)
        assert not near or blocks.find(position)[0] in near
