"""Regions of drawn scenes: what they say is what the record says."""

import numpy as np

from mmjax.data.datasets.scene_grammar import COLOURS, SHAPES, SIZES, TEXTURES
from mmjax.data.datasets.scene_regions import FEATURE_DIM, KINDS, regions
from mmjax.data.datasets.scenes import Scenes

WORDS = SHAPES + COLOURS + SIZES + TEXTURES


def test_features_tell_every_attribute_and_boxes_are_those_of_the_record():
    scenes = Scenes(image_size=48)
    for i in range(40):
        record = scenes.scene(i)
        found = regions(record)
        assert found["features"].shape == (len(record["objects"]), FEATURE_DIM)
        assert (found["width"], found["height"]) == (48, 48)
        numbers = {n: x.dtype.name for n, x in found.items() if hasattr(x, "dtype")}
        whole = {name for name, kind in numbers.items() if kind == "int32"}
        assert whole == {"objects", "attributes"}
        assert set(numbers.values()) == {"float32", "int32"}
        for number, item in enumerate(record["objects"]):
            np.testing.assert_array_equal(found["boxes"][number], item["box"])
            said = {w for w, on in zip(WORDS, found["features"][number] > 0.5) if on}
            assert said == {item[a] for a in ("shape", "colour", "size", "texture")}
            assert KINDS[found["classes"][number].argmax()] == (item["shape"], item["colour"])
            assert KINDS[found["objects"][number]] == (item["shape"], item["colour"])
            assert found["object_confidence"][number] == found["classes"][number].max() > 0.1
            assert TEXTURES[found["attributes"][number]] == item["texture"]
    np.testing.assert_allclose(found["classes"].sum(1), 1.0, rtol=1e-5)


def test_noise_is_drawn_by_seed_and_position_and_may_be_none():
    first, second = (regions(Scenes().scene(i))["features"][0] for i in (0, 1))
    np.testing.assert_array_equal(first, regions(Scenes().scene(0))["features"][0])
    errors = first - first.round(), second - second.round()
    assert np.abs(errors[0] - errors[1]).max() > 0.05
    assert set(regions(Scenes().scene(0), noise=0.0)["features"].ravel().tolist()) == {0.0, 1.0}
