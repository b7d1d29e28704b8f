import itertools
import types

import jax
import numpy as np
import pytest

from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.ring_order import order_of, ring_order


def chips(places, slice_index=0):
    return [types.SimpleNamespace(coords=place, slice_index=slice_index) for place in places]


def grid(*sides):
    return list(itertools.product(*(range(side) for side in sides)))


@pytest.mark.parametrize(
    "sides", [(2, 2, 1), (4, 4, 1), (3, 4, 1), (4, 3, 1), (8, 16, 1), (2, 3, 4)]
)
def test_each_chip_hands_on_to_its_neighbour(sides):
    places = grid(*sides)
    np.random.default_rng(0).shuffle(places)
    places = [tuple(int(x) for x in place) for place in places]
    order = order_of(chips(places))
    assert sorted(order) == list(range(len(places)))
    for here, there in zip(order, (*order[1:], order[0])):
        assert sum(abs(a - b) for a, b in zip(places[here], places[there])) == 1


def test_slices_are_left_only_when_all_their_chips_are_done():
    order = order_of([*chips(grid(4, 4, 1), 0), *chips(grid(4, 4, 1), 1)])
    assert sorted(order[:16]) == list(range(16))
    assert sorted(order[16:]) == list(range(16, 32))
    assert order[:16] != tuple(range(16))


@pytest.mark.parametrize("places", [grid(3, 3, 1), [*grid(2, 2, 1), (5, 5, 0)]])
def test_where_there_is_no_such_way_the_order_is_the_meshs(places):
    assert order_of(chips(places)) == tuple(range(len(places)))


def test_devices_without_a_place_go_by_number():
    assert ring_order(make_mesh(4, 2)) == tuple(range(8))
    assert ring_order(make_mesh(2, 2, 2)) == tuple(range(4))
    assert ring_order(make_mesh(devices=jax.devices()[:1])) == (0,)
