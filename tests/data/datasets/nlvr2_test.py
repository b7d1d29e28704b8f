"""NLVR2 in the layout of its official files."""

import json
import pickle

import pytest

from mmjax.data.datasets.nlvr2 import NLVR2
from mmjax.data.fields import Fields, check_first

TOLD = {"dev-8-0-0": "True", "dev-8-0-1": "False", "dev-8-1-0": "False", "dev-11-2-1": "True"}
PAIRS = ("dev-8-0", "dev-8-1", "dev-11-2")


def write(folder, names=TOLD, labels=True):
    rows = []
    for name in names:
        row = {"sentence": f"said of {name}", "identifier": name, "left_url": "https://l"}
        rows.append(json.dumps(row | ({"label": TOLD[name]} if labels else {})))
    (folder / "dev.json").write_text("\n".join(rows))
    return str(folder / "dev.json")


def test_a_statement_comes_with_its_two_pictures(tmp_path, write_tar):
    files = {f"{pair}-img{n}.png": f"{pair}{n}".encode() for pair in PAIRS for n in range(2)}
    shard = write_tar(tmp_path / "x.tar", files)
    folder = tmp_path / "pictures" / "17"
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    for pictures in (shard, str(tmp_path / "pictures")):
        source = pickle.loads(pickle.dumps(NLVR2(write(tmp_path), pictures)))
        records = [source[place] for place in range(len(source))]
        assert [(r["left"], r["right"]) for r in records][1:3] == [
            (b"dev-8-00", b"dev-8-01"),
            (b"dev-8-10", b"dev-8-11"),
        ]
        assert [record["identifier"] for record in records] == list(TOLD)
        assert [record["truth"] for record in records] == [True, False, False, True]
    fields = Fields(
        images_from=("left", "right"),
        caption_from="statement",
        truth_from="truth",
        facts_from=("identifier",),
    )
    sample = check_first(source, fields)
    assert (sample["truth"], sample["captions"]) == (1, ("said of dev-8-0-0",))
    unlabelled = NLVR2(write(tmp_path, labels=False), shard)
    assert "truth" not in unlabelled[0]
    assert unlabelled.describe() == "NLVR2, 4 statements about two pictures, without labels"
    assert unlabelled.fingerprint() != source.fingerprint()


def test_statements_without_two_pictures_are_refused(tmp_path, write_tar):
    shard = write_tar(tmp_path / "x.tar", {"dev-8-0-img0.png": b"", "dev-8-1-img0.png": b""})
    with pytest.raises(ValueError, match=r"4 of 4 statements have no two pictures .*dev-11-2-1"):
        NLVR2(write(tmp_path), shard)
    (tmp_path / "dev.json").write_text('{"sentence": "a", "identifier": "8-0"}')
    with pytest.raises(ValueError, match="'8-0' is no identifier of NLVR2"):
        NLVR2(str(tmp_path / "dev.json"), shard)


def test_two_pictures_of_one_name_are_refused(tmp_path, write_tar):
    names = [f"dev-8-0-img{n}.png" for n in range(2)]
    for folder in ("17", "18"):
        (tmp_path / "pictures" / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / "pictures" / folder / name).write_bytes(folder.encode())
    with pytest.raises(ValueError, match=r"2 names of pictures .* once, .* such as dev-8-0-img0"):
        NLVR2(write(tmp_path, ["dev-8-0-0"]), str(tmp_path / "pictures"))
