"""The drawn scenes as a source: purity, the division into splits, classes, and what leaks."""

import json
import pickle

import numpy as np
import pytest

from mmjax.data.datasets.scene_grammar import (
    BACKGROUNDS,
    COLOURS,
    OPPOSITE,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    is_true,
    parse,
)
from mmjax.data.datasets.scene_layout import CLASSES
from mmjax.data.datasets.scenes import Scenes, class_names


@pytest.fixture(scope="module")
def train_records():
    scenes = Scenes(num_scenes=2000)
    return [scenes.scene(i) for i in range(len(scenes))]


@pytest.fixture(scope="module")
def held_out():
    return Scenes("held_out")


@pytest.fixture(scope="module")
def held_out_records(held_out):
    return [held_out.scene(i) for i in range(len(held_out))]


def triples(records):
    """Every (shape, colour, relation) that is true of the first object of any ordered pair."""
    return {
        (record["objects"][a]["shape"], record["objects"][a]["colour"], relation)
        for record in records
        for a, relation, _ in record["relations"]
    }


def test_a_scene_is_a_function_of_seed_split_and_position(held_out):
    for scenes in (Scenes(seed=3), held_out):
        again = pickle.loads(pickle.dumps(Scenes(scenes.split, seed=scenes.seed)))
        backwards = [again[i] for i in (17, 5, 0)][::-1]
        for i, other in zip((0, 5, 17), backwards):
            record = scenes[i]
            assert set(record) == set(other)
            np.testing.assert_array_equal(record["image"], other["image"])
            assert record["txt"] == other["txt"]
            assert record["json"] == other["json"]
    assert Scenes(seed=3)[0]["json"] != Scenes(seed=4)[0]["json"]
    assert Scenes(seed=3)[0]["json"] != Scenes(seed=3)[1]["json"]


def test_a_scene_does_not_depend_on_how_many_there_are(held_out):
    few = Scenes("held_out", num_scenes=40)
    assert [few.scene(i) for i in range(40)] == [held_out.scene(i) for i in range(40)]


def test_a_record_has_the_members_of_a_sample(held_out):
    record = held_out[37]
    assert record["__key__"] == "scene-held_out-00000037"
    assert record["image"].shape == (64, 64, 3)
    assert record["image"].dtype == np.uint8
    full = json.loads(record["json"])
    assert record["txt"].split("\n") == full["captions"]
    assert record["label"] == full["label"] == 37 % 32
    assert full == held_out.scene(37)
    assert "label" not in Scenes()[37]


def test_positions_outside_are_refused(held_out):
    for position in (-1, 256):
        with pytest.raises(IndexError, match=f"scene {position} of 256"):
            held_out[position]


def test_splits_share_no_triple_of_shape_colour_and_relation(train_records, held_out_records):
    in_training = triples(train_records)
    other_seed = Scenes("held_out", num_scenes=64, seed=9)
    assert not in_training & triples(held_out_records)
    assert not in_training & triples([other_seed.scene(i) for i in range(64)])
    assert {shape for shape, _, _ in in_training} == set(SHAPES)
    assert {colour for _, colour, _ in in_training} == set(COLOURS)
    assert {relation for _, _, relation in in_training} == set(RELATIONS)
    assert set(CLASSES) <= triples(held_out_records)


def test_relations_are_those_of_the_boxes(train_records):
    def centre(box):
        return np.array([box[0] + box[2], box[1] + box[3]]) / 2

    for record in train_records[:500]:
        objects = record["objects"]
        found = {(a, b): relation for a, relation, b in record["relations"]}
        assert set(found) == {
            (a, b) for a in range(len(objects)) for b in range(len(objects)) if a != b
        }
        for (a, b), relation in found.items():
            assert found[b, a] == OPPOSITE[relation]
            one, two = objects[a]["box"], objects[b]["box"]
            if relation == "left of":
                assert one[2] <= two[0] + 1
            elif relation == "above":
                assert one[3] <= two[1] + 1
            elif relation == "inside":
                assert np.abs(centre(one) - centre(two)).max() <= 0.15 * (two[2] - two[0])
                assert one[2] - one[0] < 0.6 * (two[2] - two[0])


def test_classes_are_balanced_and_exactly_one_holds(held_out_records):
    names = class_names("held_out")
    assert len(set(names)) == len(CLASSES) == 32
    claims = [parse(name) for name in names]
    counts = np.zeros(32, int)
    for record in held_out_records:
        assert [i for i, claim in enumerate(claims) if is_true(claim, record)] == [record["label"]]
        assert record["class"] == names[record["label"]]
        counts[record["label"]] += 1
    assert set(counts) == {8}
    assert class_names("train") == ()


def test_no_training_scene_shows_a_held_out_class(train_records):
    claims = [parse(name) for name in class_names()]
    assert not any(is_true(claim, record) for claim in claims for record in train_records)


def test_every_caption_is_true_of_its_picture(train_records, held_out_records):
    for record in train_records + held_out_records:
        assert len(record["captions"]) == 4
        for caption in record["captions"]:
            assert is_true(parse(caption), record), caption


def test_no_held_out_caption_is_true_of_two_pictures(held_out_records):
    for i, record in enumerate(held_out_records):
        for caption in record["captions"]:
            claim = parse(caption)
            true_of = [k for k, other in enumerate(held_out_records) if is_true(claim, other)]
            assert true_of == [i], caption


def test_scenes_vary_in_everything(train_records):
    items = [item for record in train_records for item in record["objects"]]
    for name, known in (
        ("shape", SHAPES),
        ("colour", COLOURS),
        ("size", SIZES),
        ("texture", TEXTURES),
    ):
        shares = [np.mean([item[name] == value for item in items]) for value in known]
        assert min(shares) > 0.05, name
    for kind in BACKGROUNDS:
        assert np.mean([r["background"]["kind"] == kind for r in train_records]) > 0.2
    for count in (2, 3, 4):
        assert np.mean([len(r["objects"]) == count for r in train_records]) > 0.05
    captions = [caption for record in train_records for caption in record["captions"]]
    assert len(set(captions)) > 0.7 * len(captions)


def softmax_regression(features, labels, classes, steps=400):
    """Weights of a linear classifier, by gradient descent with momentum."""
    weights = np.zeros((features.shape[1], classes))
    speed = np.zeros_like(weights)
    targets = np.eye(classes)[labels]
    for _ in range(steps):
        logits = features @ weights
        chances = np.exp(logits - logits.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        gradient = features.T @ (chances - targets) / len(labels) + 1e-3 * weights
        speed = 0.9 * speed - 0.5 * gradient
        weights += speed
    return weights


def test_colour_histograms_do_not_tell_the_classes():
    def histograms(scenes):
        rows, labels = [], []
        for i in range(len(scenes)):
            record = scenes[i]
            bins = (record["image"] // 64).astype(int) @ (16, 4, 1)
            rows.append(np.bincount(bins.ravel(), minlength=64) / bins.size)
            labels.append(record["label"])
        return np.sqrt(np.array(rows)), np.array(labels)

    known, labels = histograms(Scenes("held_out", num_scenes=512, seed=1))
    asked, answers = histograms(Scenes("held_out", num_scenes=256, seed=2))
    mean, spread = known.mean(0), known.std(0) + 1e-6
    known, asked = (np.c_[(rows - mean) / spread, np.ones(len(rows))] for rows in (known, asked))
    weights = softmax_regression(known, labels, 32)
    accuracy = np.mean((asked @ weights).argmax(1) == answers)
    assert accuracy < 0.25
    # The histograms do say which colour the class has, so the classifier itself works.
    colours = np.array([COLOURS.index(colour) for _, colour, _ in CLASSES])
    weights = softmax_regression(known, colours[labels], len(COLOURS))
    assert np.mean((asked @ weights).argmax(1) == colours[answers]) > 0.25


def test_options_are_checked():
    with pytest.raises(ValueError, match="split='val'; the scenes have train and held_out"):
        Scenes("val")
    with pytest.raises(ValueError, match="split='val'"):
        class_names("val")
    with pytest.raises(ValueError, match="num_scenes=0"):
        Scenes(num_scenes=0)
    with pytest.raises(ValueError, match="image_size=16"):
        Scenes(image_size=16)
    with pytest.raises(ValueError, match="use some of solid, striped"):
        Scenes(textures=("woolly",))


def test_running_out_of_captions_is_said(monkeypatch):
    monkeypatch.setattr("mmjax.data.datasets.scenes.ATTEMPTS", 1)
    scenes = Scenes("held_out", num_scenes=400, textures=("solid",), backgrounds=("flat",))
    with pytest.raises(ValueError, match="take fewer scenes or more textures"):
        scenes[0]


def test_fingerprint_and_description_say_what_the_data_is():
    assert Scenes().fingerprint() == Scenes(num_scenes=50_000).fingerprint()
    others = [Scenes(seed=1), Scenes("held_out"), Scenes(image_size=96), Scenes(num_scenes=9)]
    assert len({scenes.fingerprint() for scenes in [Scenes(), *others]}) == 5
    assert Scenes().describe() == "50,000 train scenes drawn at 64 px from seed 0"
