"""NLVR in the layout of its official files."""

import json
import pickle

import numpy as np
import pytest

from mmjax.data.datasets.nlvr import NLVR, sides
from mmjax.data.sources.base import BadSample

SQUARE = {"size": 20, "x_loc": 40, "type": "square", "y_loc": 80, "color": "Yellow"}
CIRCLE = {"size": 10, "x_loc": 5, "type": "circle", "y_loc": 9, "color": "#0099ff"}
TRIANGLE = {"size": 30, "x_loc": 61, "type": "triangle", "y_loc": 0, "color": "Black"}
DRAWN = [[SQUARE], [], [CIRCLE, TRIANGLE]]
TOLD = {
    "7-0": ("There is a tower.", "true"),
    "7-1": ("There is a tower.", "false"),
    "9-0": ("there is  a tower", "true"),
    "12-3": ("there is a circle", "false"),
}


def write(folder, told=TOLD, drawn=DRAWN):
    rows = [
        {"sentence": sentence, "label": label, "identifier": name, "structured_rep": drawn}
        for name, (sentence, label) in told.items()
    ]
    (folder / "dev.json").write_text("\n".join(map(json.dumps, rows)))
    return str(folder / "dev.json")


def pictures(names=TOLD, orders=(0, 4)):
    return {f"dev-{name}-{order}.png": name.encode() for name in names for order in orders}


def test_a_statement_comes_with_its_picture_and_the_objects_where_they_are(tmp_path, write_tar):
    shard = write_tar(tmp_path / "x.tar", pictures())
    source = pickle.loads(pickle.dumps(NLVR(write(tmp_path), shard)))
    assert len(source) == 8
    plain, turned = source[0], source[1]
    assert (plain["identifier"], turned["identifier"]) == ("dev-7-0-0", "dev-7-0-4")
    assert (plain["png"], plain["statement"], plain["truth"]) == (b"7-0", TOLD["7-0"][0], True)
    assert (plain["width"], plain["height"]) == (400, 100)
    np.testing.assert_array_equal(
        plain["boxes"], [[40, 80, 60, 100], [305, 9, 315, 19], [361, 0, 391, 30]]
    )
    # The fourth order is third, first, second box.
    np.testing.assert_array_equal(
        turned["boxes"], [[5, 9, 15, 19], [61, 0, 91, 30], [190, 80, 210, 100]]
    )
    np.testing.assert_array_equal(
        turned["features"],
        [
            [0, 1, 0, 0, 0, 1, 1, 0, 0, 1, 0, 0],
            [0, 0, 1, 0, 1, 0, 0, 0, 1, 1, 0, 0],
            [1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0],
        ],
    )
    np.testing.assert_array_equal(turned["classes"].argmax(1), [5, 7, 0])
    assert [NLVR(write(tmp_path), shard, orders=(4,))[n]["identifier"] for n in (0, 3)] == [
        "dev-7-0-4",
        "dev-12-3-4",
    ]


def test_an_empty_picture_has_no_regions_and_a_strange_object_is_a_bad_sample(tmp_path, write_tar):
    shard = write_tar(tmp_path / "x.tar", pictures())
    found = NLVR(write(tmp_path, drawn=[[], [], []]), shard)[0]
    assert [found[name].shape for name in ("boxes", "features", "classes")] == [
        (0, 4),
        (0, 12),
        (0, 9),
    ]
    strange = NLVR(write(tmp_path, drawn=[[{**SQUARE, "color": "pink"}], [], []]), shard)
    with pytest.raises(BadSample, match=r"no object of NLVR's: .*'pink'"):
        strange[0]
    with pytest.raises(ValueError, match="7-0: structured_rep holds no three boxes"):
        NLVR(write(tmp_path, drawn=[[]]), shard)


def test_no_presentation_and_no_sentence_is_on_both_sides(tmp_path, write_tar):
    told = {
        f"{n}-{k}": (f"sentence {n % 30}" if k else f"of {n}", "true")
        for n in range(60)
        for k in range(2)
    }
    found = sides({name: {"sentence": sentence} for name, (sentence, _) in told.items()}, 0.3)
    for n in range(30):
        assert len({found[f"{m}-{k}"] for m in (n, n + 30) for k in range(2)}) == 1
    assert 0.15 < np.mean(list(found.values())) < 0.45
    shard, path = write_tar(tmp_path / "x.tar", pictures(told, (1,))), write(tmp_path, told)
    parts = [NLVR(path, shard, split, held_out=0.3) for split in ("train", "held_out")]
    names = [{part[place]["identifier"] for place in range(len(part))} for part in parts]
    assert names[1] == {f"dev-{name}-1" for name, held in found.items() if held}
    assert len(names[0] | names[1]) == len(told) == len(names[0]) + len(names[1])
    assert parts[0].fingerprint() != parts[1].fingerprint()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dev-7-0-0", "dev-8-0-0"], "1 of 2 pictures have no statement .*dev-8-0-0"),
        (["dev-7-0-0"], "3 of 4 statements have no picture .* such as 12-3, 7-1, 9-0"),
    ],
)
def test_what_does_not_match_is_refused_with_its_names(tmp_path, write_tar, names, message):
    shard = write_tar(tmp_path / "x.tar", {f"{name}.png": b"" for name in names})
    with pytest.raises(ValueError, match=message):
        NLVR(write(tmp_path), shard)


def test_wrong_splits_are_refused(tmp_path):
    with pytest.raises(ValueError, match="split='val' is one of all, train, held_out"):
        NLVR("x.json", "x.tar", "val")
    with pytest.raises(ValueError, match=r"held_out=1\.0 between"):
        NLVR("x.json", "x.tar", held_out=1.0)
