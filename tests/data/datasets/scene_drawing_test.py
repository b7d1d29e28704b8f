"""Pictures of scenes: what is drawn is where and what the record says."""

import colorsys

import numpy as np
import pytest

from mmjax.data.datasets.scene_drawing import HUES, draw, inset, unit_holes, unit_outlines
from mmjax.data.datasets.scene_grammar import COLOURS, SHAPES
from mmjax.data.datasets.scenes import Scenes


def without(record, number):
    return {**record, "objects": [o for k, o in enumerate(record["objects"]) if k != number]}


@pytest.mark.parametrize("image_size", [64, 160])
def test_boxes_hold_their_objects_tightly(image_size):
    scenes = Scenes(image_size=image_size)
    for i in range(120):
        record = scenes.scene(i)
        whole = draw(record).astype(int)
        for number, item in enumerate(record["objects"]):
            changed = np.abs(whole - draw(without(record, number))).max(-1) > 0
            rows, columns = np.nonzero(changed)
            x1, y1, x2, y2 = item["box"]
            assert x1 <= columns.min() <= x1 + 2
            assert y1 <= rows.min() <= y1 + 2
            assert x2 - 3 <= columns.max() < x2
            assert y2 - 3 <= rows.max() < y2
            assert 0 <= x1 < x2 <= image_size
            assert 0 <= y1 < y2 <= image_size


def test_boxes_show_the_named_colour():
    scenes = Scenes(image_size=128, textures=("solid", "outlined"))
    for i in range(150):
        record = scenes.scene(i)
        image = draw(record).astype(int)
        for item in record["objects"]:
            hue, saturation, value = (
                colorsys.rgb_to_hsv(*(c / 255 for c in item["rgb"]))[k] for k in range(3)
            )
            (centre, width), (level, spread), _ = HUES[item["colour"]]
            assert abs((hue * 360 - centre + 180) % 360 - 180) <= width + 2
            assert abs(saturation - level) <= spread + 0.02
            assert value > 0.4
            x1, y1, x2, y2 = item["box"]
            near = np.abs(image[y1:y2, x1:x2] - item["rgb"]).max(-1) <= 2
            assert near.mean() > 0.1, item


def test_colours_of_different_names_do_not_meet():
    def corners(name):
        hue, saturation, value = HUES[name]
        return [
            np.array(colorsys.hsv_to_rgb((hue[0] + a * hue[1]) / 360 % 1, saturation[0], value[0]))
            for a in (-1, 1)
        ]

    for i, one in enumerate(COLOURS):
        for two in COLOURS[i + 1 :]:
            assert min(np.abs(a - b).max() for a in corners(one) for b in corners(two)) > 0.15


def test_the_same_record_draws_the_same_picture():
    record = Scenes(seed=5).scene(3)
    np.testing.assert_array_equal(draw(record), draw(record))


def test_shapes_differ_from_each_other_when_drawn():
    base = Scenes(textures=("solid",), backgrounds=("flat",)).scene(0)
    item = {**base["objects"][0], "rgb": [255, 0, 0], "centre": [32.0, 32.0], "diameter": 20.0}
    item |= {"box": [16, 16, 48, 48], "angle": 0.0, "texture": "solid"}
    pictures = {
        shape: draw({**base, "objects": [{**item, "shape": shape}]}).astype(float)
        for shape in SHAPES
    }
    for i, one in enumerate(SHAPES):
        for two in SHAPES[i + 1 :]:
            differing = np.abs(pictures[one] - pictures[two]).max(-1) > 60
            assert differing.sum() > 40, (one, two)


def test_an_inset_square_is_a_smaller_square():
    square = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
    for corners in (square, square[::-1]):
        moved = inset(corners, 1.0)
        assert sorted(map(tuple, moved)) == [(1, 1), (1, 3), (3, 1), (3, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_fit_their_diameter_and_leave_a_hole(shape):
    points, hole = unit_outlines()[shape], unit_holes()[shape]
    assert np.abs(points).max() <= 0.56
    assert np.ptp(points, axis=0).max() >= 0.85
    assert len(hole) >= 3
    assert np.abs(hole).max() < np.abs(points).max()
