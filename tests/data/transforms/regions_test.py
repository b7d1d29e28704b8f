"""Regions out of records of every kind, in each model's form, and what cannot be used."""

import io
import json

import numpy as np
import pytest

from mmjax.data.sources.array_record import ArrayRecordSource, write_array_record
from mmjax.data.sources.base import BadSample
from mmjax.data.sources.parquet import Parquet
from mmjax.data.transforms.mask_regions import MaskRegions
from mmjax.data.transforms.regions import Regions

DIM, FOUND = 4, 3
FEATURES = np.arange(FOUND * DIM, dtype=np.float32).reshape(FOUND, DIM)
BOXES = np.array([[0, 0, 20, 5], [10, 5, 20, 10], [0, 0, 10, 10]], np.float32)  # of 20 x 10
PARTS = BOXES / np.array([20, 10, 20, 10], np.float32)
CLASSES = np.array([[0.5, 0.5], [0.25, 0.75], [1, 0]], np.float32)
ARRAYS = {
    "features": FEATURES,
    "boxes": BOXES,
    "width": np.int64(20),
    "height": np.int64(10),
    "classes": CLASSES,
    "objects": np.array([7, -9, 2]),
    "object_confidence": np.array([0.5, 0.25, 1], np.float16),
    "attributes": np.array([1, 2, 3]),
}


def npz(**changes):
    file = io.BytesIO()
    np.savez(file, **{name: x for name, x in {**ARRAYS, **changes}.items() if x is not None})
    return {"npz": file.getvalue()}


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def run(transform, record):
    sample = {"key": "a", "record": {"__key__": "a", **record}}
    return transform(sample, np.random.default_rng(0))


def read(count=5, **options):
    return Regions(count=count, feature_dim=DIM, **options)


def test_lxmerts_form_is_parts_of_width_and_height_filled_up_and_masked():
    made = run(read(), npz())
    np.testing.assert_array_equal(made["regions"][:FOUND], FEATURES)
    np.testing.assert_allclose(made["boxes"][:FOUND], PARTS, rtol=1e-6)
    np.testing.assert_array_equal(made["region_mask"], [True] * FOUND + [False] * 2)
    assert (made["regions"][FOUND:] == 0).all()
    assert (made["boxes"][FOUND:] == 0).all()
    for word, shape in (("regions", (5, DIM)), ("boxes", (5, 4))):
        assert made[word].shape == shape
        assert made[word].dtype == np.float32


def test_vilberts_form_begins_with_the_mean_and_knows_how_much_is_covered():
    made = run(read(boxes="area", classes_from="npz:classes"), npz())
    np.testing.assert_allclose(made["regions"][0], FEATURES.mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(made["regions"][1 : 1 + FOUND], FEATURES)
    np.testing.assert_array_equal(made["boxes"][0], [0, 0, 1, 1, 1])
    np.testing.assert_allclose(made["boxes"][1 : 1 + FOUND, :4], PARTS, rtol=1e-6)
    np.testing.assert_allclose(made["boxes"][1 : 1 + FOUND, 4], [0.5, 0.25, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(made["region_mask"], [True] * 4 + [False] * 2)
    np.testing.assert_array_equal(made["region_classes"][1 : 1 + FOUND], CLASSES)
    assert (made["region_classes"][[0, 4, 5]] == 0).all()


def test_visualberts_form_has_no_boxes_and_asks_for_none():
    made = run(read(boxes=""), npz(boxes=None, width=None, height=None))
    assert "boxes" not in made
    np.testing.assert_array_equal(made["regions"][:FOUND], FEATURES)


def test_the_first_regions_are_kept_and_the_mean_is_of_those():
    made = run(read(count=2, boxes="area"), npz())
    np.testing.assert_allclose(made["regions"][0], FEATURES[:2].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(made["regions"][1:], FEATURES[:2])
    assert made["region_mask"].all()


def test_labels_come_with_how_sure_they_are():
    options = {"objects_from": "npz:objects", "attributes_from": "npz:attributes"}
    made = run(read(**options, object_confidence_from="npz:object_confidence"), npz())
    np.testing.assert_array_equal(made["object_labels"], [7, -1, 2, -1, -1])
    np.testing.assert_array_equal(made["object_confidence"], [0.5, 0.25, 1, 0, 0])
    np.testing.assert_array_equal(made["attribute_labels"], [1, 2, 3, -1, -1])
    np.testing.assert_array_equal(made["attribute_confidence"], [1, 1, 1, 0, 0])
    assert made["object_labels"].dtype == np.int32


LISTS = {
    "features": FEATURES.tolist(),
    "boxes": BOXES.tolist(),
    "width": 20,
    "height": 10,
}
FLAT = {**LISTS, "features": FEATURES.ravel().tolist(), "boxes": BOXES.ravel().tolist()}
INSIDE = {f"{name}_from": f"json:found.{name}" for name in LISTS}


def stored(kind, folder):
    """(record, options) of the same regions as each kind of source gives them."""
    if kind == "npy members":
        members = {f"{name}.npy": npy(ARRAYS[name]) for name in ("features", "boxes")}
        members |= {"width": 20, "height": 10}
        return members, {}
    if kind == "json":
        return {"json": json.dumps({"found": LISTS}).encode()}, INSIDE
    if kind.startswith("array records"):
        lists = FLAT if "flat" in kind else LISTS
        write_array_record(f"{folder}/a.array_record", [{"__key__": "a", **lists}])
        return ArrayRecordSource(f"{folder}/a.array_record")[0], {}
    import pyarrow as pa
    from pyarrow import parquet as pq

    lists = FLAT if "flat" in kind else LISTS
    pq.write_table(pa.table({name: [x] for name, x in lists.items()}), f"{folder}/a.parquet")
    return Parquet(f"{folder}/a.parquet")[0], {}


@pytest.mark.parametrize(
    "kind",
    ["npy members", "json", "array records", "array records, flat", "parquet", "parquet, flat"],
)
def test_every_kind_of_storage_gives_the_same(kind, tmp_path):
    record, options = stored(kind, tmp_path)
    made, wanted = run(read(**options), record), run(read(), npz())
    for word in ("regions", "boxes", "region_mask"):
        np.testing.assert_array_equal(made[word], wanted[word])


def test_boxes_may_be_stored_as_parts_already():
    made = run(read(width_from="", height_from=""), npz(boxes=PARTS, width=None))
    np.testing.assert_array_equal(made["boxes"][:FOUND], PARTS)


def test_several_pictures_of_a_row_are_an_axis():
    options = {
        f"{name}_from": f"{{}}.npz:{name}" for name in ("features", "boxes", "width", "height")
    }
    transform = read(pictures=("left", "right"), boxes="area", **options)
    right = npz(features=FEATURES[:1] + 1, boxes=BOXES[:1])
    made = run(transform, {"left.npz": npz()["npz"], "right.npz": right["npz"]})
    assert made["regions"].shape == (2, 6, DIM)
    assert made["boxes"].shape == (2, 6, 5)
    np.testing.assert_array_equal(made["regions"][0, 1:4], FEATURES)
    np.testing.assert_array_equal(made["regions"][1, :2], [FEATURES[0] + 1] * 2)
    np.testing.assert_array_equal(made["region_mask"].sum(axis=1), [4, 2])
    masked = MaskRegions(rate=0.9)(made, np.random.default_rng(0))
    assert masked["masked_regions"].shape == (2, 6, DIM)
    assert not masked["region_asked"][:, 0].any()


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({}, {"features": None}, "missing: a.*features_from='npz:features.*found npz:boxes"),
        ({}, {"boxes": None}, "missing: .*boxes_from"),
        ({}, {"width": None}, "missing: .*width_from"),
        ({}, {"features": FEATURES[:, :3]}, r"\(3, 3\), not \[regions, numbers\] of any and 4"),
        ({}, {"features": FEATURES[:0]}, "has no regions"),
        ({}, {"features": FEATURES + np.inf}, "not finite"),
        ({}, {"features": FEATURES.astype(float) + 1e300}, "not finite"),
        ({}, {"features": np.array(["a"])}, "not numbers"),
        ({}, {"boxes": BOXES[:2]}, r"is \(2, 4\), not \[regions, numbers\] of 3 and 4"),
        (
            {},
            {"boxes": BOXES + np.eye(4, dtype=np.float32)[2]},
            r"box 0 is \[0.0, 0.0, 21.0, 5.0\] in a picture of",
        ),
        ({}, {"boxes": BOXES - np.eye(4, dtype=np.float32)[0]}, "box 0"),
        ({}, {"boxes": BOXES[:, [2, 1, 0, 3]]}, "box 0 is .* in this order"),
        ({}, {"boxes": BOXES * np.nan}, "box 0"),
        ({}, {"width": np.int64(0)}, "no length in pixels"),
        ({}, {"height": np.array([10, 10])}, "no length in pixels"),
        ({}, {"height": np.float32(np.nan)}, "no length in pixels"),
        ({"width_from": "", "height_from": ""}, {}, "in a picture of 1 x 1"),
        ({"classes_from": "npz:classes"}, {"classes": CLASSES * 2}, "no probabilities"),
        ({"classes_from": "npz:classes"}, {"classes": CLASSES - 0.5}, "no probabilities"),
        ({"classes_from": "npz:classes"}, {"classes": CLASSES[:2]}, r"is \(2, 2\), not"),
        ({"objects_from": "npz:objects"}, {"objects": np.ones(3)}, "no whole numbers"),
        ({"objects_from": "npz:objects"}, {"objects": np.arange(4)}, r"is \(4,\) for 3 regions"),
        ({"objects_from": "npz:objects"}, {"objects": np.full(3, 1 << 40)}, "no class numbers"),
        (
            {"objects_from": "npz:objects", "object_confidence_from": "npz:object_confidence"},
            {"object_confidence": np.array([0, 1, 1.5])},
            "not of 0 to 1",
        ),
    ],
)
def test_what_cannot_be_used_is_one_bad_sample(options, changes, message):
    with pytest.raises(BadSample, match=message):
        run(read(**options), npz(**changes))


def test_rounding_at_the_edge_is_no_fault():
    made = run(read(), npz(boxes=BOXES * np.float32(1 + 3e-6)))
    assert made["boxes"].max() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count=0"),
        ({"boxes": "middle"}, "'corners', 'area' or ''"),
        ({"features_from": ""}, "features are needed"),
        ({"boxes_from": ""}, "boxes where boxes='corners'"),
        ({"width_from": ""}, "both width_from and height_from"),
        ({"features_from": "npz:"}, "write it as"),
        ({"features_from": "a;;b"}, "write it as"),
        ({"pictures": ("left", "right")}, "stands for a picture's name"),
        ({"features_from": "{}.npz:features"}, "stands for a picture's name"),
        ({"object_confidence_from": "npz:x"}, "objects_from is not"),
    ],
)
def test_wrong_options_are_refused_when_they_are_written(options, message):
    with pytest.raises(ValueError, match=message):
        Regions(**options)
