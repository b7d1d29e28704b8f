"""Labels of drawn scenes, which occur in training."""

import pickle

import numpy as np
import pytest

from mmjax.data.datasets.scene_labels import SceneLabels, label_names, labels_names
from mmjax.data.datasets.scenes import Scenes


def test_labels_are_the_largest_object_and_all_that_is_shown():
    labels = pickle.loads(pickle.dumps(SceneLabels()))
    names = set()
    for i in range(300):
        objects = labels.scenes.scene(i)["objects"]
        record = labels[i] if i < 20 else None
        largest = sorted(objects, key=lambda item: -item["diameter"])[0]
        names.add(f"{largest['colour']} {largest['shape']}")
        if record:
            assert label_names()[record["label"]] == f"{largest['colour']} {largest['shape']}"
            shown = {name for name, on in zip(labels_names(), record["labels"]) if on}
            assert shown == {o["shape"] for o in objects} | {o["colour"] for o in objects}
            np.testing.assert_array_equal(record["image"], labels.scenes[i]["image"])
    assert len(names) == 40
    assert names < set(label_names())


def test_the_fingerprint_is_that_of_the_scenes_and_the_noise():
    other = SceneLabels(Scenes(seed=1)), SceneLabels(noise=0.2)
    assert len({labels.fingerprint() for labels in (SceneLabels(), *other)}) == 3
    assert len(SceneLabels(Scenes(num_scenes=7))) == 7
    with pytest.raises(ValueError, match="noise=-1"):
        SceneLabels(noise=-1.0)
