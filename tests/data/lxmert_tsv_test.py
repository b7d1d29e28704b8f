"""LXMERT's table as shards: what is in them, and one line for each kind of damage."""

import base64
import json

import numpy as np
import pytest

from mmjax.__main__ import main
from mmjax.data.dataset import open_source
from mmjax.data.lxmert_tsv import COLUMNS, ConversionError, convert
from mmjax.data.transforms.regions import Regions

DIM = 4


def coded(array, kind):
    return base64.b64encode(np.ascontiguousarray(array, kind).tobytes()).decode()


def picture(number, boxes=2, **changes):
    """(fields of a line, the arrays behind them)."""
    rng = np.random.default_rng(number)
    low = rng.uniform(0, 4, (boxes, 2))
    arrays = {
        "objects_id": rng.integers(0, 1600, boxes),
        "objects_conf": rng.uniform(0, 1, boxes).astype(np.float32),
        "attrs_id": rng.integers(0, 400, boxes),
        "attrs_conf": rng.uniform(0, 1, boxes).astype(np.float32),
        "boxes": np.concatenate([low, low + 2], axis=1).astype(np.float32),
        "features": rng.normal(size=(boxes, DIM)).astype(np.float32),
    }
    fields = {"img_id": f"COCO_{number}", "img_h": "10", "img_w": "20", "num_boxes": str(boxes)}
    fields |= {name: coded(x, x.dtype) for name, x in arrays.items()}
    return {**fields, **changes}, arrays


def line(fields):
    return "\t".join(fields[column] for column in COLUMNS)


def write(path, *lines, end="\r\n"):
    path.write_bytes("".join(one + end for one in lines).encode())
    return str(path)


def test_each_picture_is_a_sample_with_all_that_was_in_the_table(tmp_path):
    pictures = [picture(number, boxes=1 + number) for number in range(5)]
    table = write(tmp_path / "in.tsv", *(line(fields) for fields, _ in pictures))
    made = convert(table, str(tmp_path / "out" / "train"), samples=2)
    names = [f"{tmp_path}/out/train-00000{n}.tar" for n in range(3)]
    assert made == (tuple(names), 5, 0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        name.rpartition("/")[2] for name in names
    ]
    source = open_source(f"{tmp_path}/out/train-{{000000..000002}}.tar")
    transform = Regions(
        count=5,
        feature_dim=DIM,
        objects_from="npz:objects",
        object_confidence_from="npz:object_confidence",
        attributes_from="npz:attributes",
        attribute_confidence_from="npz:attribute_confidence",
    )
    words = {
        "object_labels": "objects_id",
        "object_confidence": "objects_conf",
        "attribute_labels": "attrs_id",
        "attribute_confidence": "attrs_conf",
        "regions": "features",
    }
    for number, (_, arrays) in enumerate(pictures):
        record = source[number]
        assert record["__key__"] == f"COCO_{number}"
        sample = transform({"record": record}, np.random.default_rng(0))
        found = 1 + number
        assert sample["region_mask"].sum() == found
        for word, column in words.items():
            np.testing.assert_array_equal(sample[word][:found], arrays[column])
        parts = arrays["boxes"] / np.array([20, 10, 20, 10])
        np.testing.assert_allclose(sample["boxes"][:found], parts, rtol=1e-6)


def test_the_same_table_gives_the_same_bytes(tmp_path):
    table = write(tmp_path / "in.tsv", *(line(picture(number)[0]) for number in range(3)))
    for name in ("a", "b"):
        convert(table, str(tmp_path / name))
    first, second = ((tmp_path / f"{name}-000000.tar").read_bytes() for name in "ab")
    assert first == second


def test_captions_stand_beside_and_pictures_without_one_are_left_out(tmp_path, capsys):
    table = write(tmp_path / "in.tsv", *(line(picture(number)[0]) for number in range(3)), end="\n")
    captions = {"COCO_0": "a\ncat ", "COCO_2": ["one", "two"], "other": "x"}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    arguments = ["convert", "lxmert-tsv", table, str(tmp_path / "out")]
    assert main([*arguments, f"--captions={tmp_path}/captions.json"]) == 0
    assert "2 pictures in 1 shard, 1 without a caption left out" in capsys.readouterr().out
    source = open_source(f"{tmp_path}/out-*.tar")
    assert [source[n]["txt"] for n in range(2)] == [b"a cat", b"one\ntwo"]
    (tmp_path / "captions.json").write_text('{"COCO_0": 1}')
    assert main([*arguments, f"--captions={tmp_path}/captions.json"]) == 2
    assert "no object of captions" in capsys.readouterr().err


NAN = coded(np.full((2, DIM), np.nan), np.float32)
DAMAGED = {
    "half a line": ("features", None, "9 columns where there should be 10"),
    "half of the features": ("features", coded(np.ones(7), np.float32), "28 bytes for 2 boxes"),
    "no features": ("features", "", "features has 0 bytes for 2 boxes"),
    "no base64": ("boxes", "%%%%", "boxes is not base64"),
    "cut base64": ("boxes", "AAA", "boxes is not base64"),
    "another type": ("objects_id", coded([1, 2], np.int32), "objects_id has 8 bytes"),
    "large numbers": ("objects_id", coded([1, 1 << 40], np.int64), "no class numbers"),
    "no numbers": ("features", NAN, "not finite"),
    "no boxes": ("num_boxes", "0", "num_boxes='0' is no number above 0"),
    "many boxes": ("num_boxes", "999999999", "num_boxes=999,999,999"),
    "no width": ("img_w", "-3", "img_w='-3' is no number above 0"),
    "a path": ("img_id", "../x", "is no name of a sample"),
    "a dot": ("img_id", "x.npz", "is no name of a sample"),
    "no name": ("img_id", "", "is no name of a sample"),
    "a name again": ("img_id", "COCO_0", "'COCO_0' was named before"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_line_is_named_and_nothing_is_left_behind(kind, tmp_path, capsys):
    column, value, message = DAMAGED[kind]
    bad = line({**picture(1)[0], column: value or ""})
    bad = bad.rpartition("\t")[0] if value is None else bad
    table = write(tmp_path / "in.tsv", line(picture(0)[0]), bad, line(picture(2)[0]))
    assert main(["convert", "lxmert-tsv", table, str(tmp_path / "out"), "--samples=1"]) == 2
    said = capsys.readouterr().err
    assert f"{table}, line 2: " in said
    assert message in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.tsv"]


def test_what_is_there_is_not_written_over_and_nothing_is_nothing(tmp_path, capsys):
    table = write(tmp_path / "in.tsv", line(picture(0)[0]))
    (tmp_path / "out-000007.tar").write_bytes(b"mine")
    with pytest.raises(ConversionError, match=r"out-000007\.tar is there already"):
        convert(table, str(tmp_path / "out"))
    with pytest.raises(ConversionError, match="it has no lines"):
        convert(write(tmp_path / "empty.tsv"), str(tmp_path / "new"))
    with pytest.raises(ConversionError, match="no picture has a caption"):
        convert(table, str(tmp_path / "new"), captions={})
    with pytest.raises(ConversionError, match="0 samples a shard"):
        convert(table, str(tmp_path / "new"), samples=0)
    assert main(["convert", "lxmert-tsv", str(tmp_path / "no.tsv"), str(tmp_path / "new")]) == 2
    assert "no.tsv" in capsys.readouterr().err


def test_an_endless_line_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("mmjax.data.lxmert_tsv._LONGEST_LINE", 100)
    with pytest.raises(ConversionError, match="line 1 is longer than 100 bytes"):
        convert(write(tmp_path / "in.tsv", "x" * 200), str(tmp_path / "out"))
