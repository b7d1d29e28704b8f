"""What a written path means: which kind of source, one name or several."""

import io
import tarfile

import pytest

from mmjax.data.dataset import Dataset, open_source
from mmjax.data.sources.folder import Folder, Table
from mmjax.data.sources.webdataset import WebDataset


def tar(path, names):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 1
            file.addfile(entry, io.BytesIO(b"x"))
    return str(path)


def test_a_shard_whose_own_path_has_spaces_is_taken_whole(tmp_path):
    path = tar(tmp_path / "my data.tar of 2024" / "a b.tar", ["0.jpg", "1.jpg"])
    source = open_source(path)
    assert isinstance(source, WebDataset)
    assert len(source) == 2


def test_several_shards_and_globs_are_separated_by_spaces(tmp_path):
    one = tar(tmp_path / "one.tar", ["0.jpg"])
    for number in range(2):
        tar(tmp_path / f"more-{number}.tar", ["1.jpg", "2.jpg"])
    assert len(open_source(f"{one} {tmp_path}/more-*.tar")) == 5
    with pytest.raises(FileNotFoundError, match=r"two\.tar"):
        open_source(f"{one} {tmp_path}/two.tar")


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tar(tmp_path / "one.tar", ["0.jpg"])
    tar(tmp_path / "a b" / "two.tar", ["0.jpg", "1.jpg"])
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"A")
    (tmp_path / "rows.csv").write_text("title\na\n")
    assert len(open_source("~/one.tar")) == 1
    assert len(open_source("~/a b/two.tar")) == 2
    assert isinstance(open_source("~/pictures"), Folder)
    assert isinstance(open_source("~/rows.csv"), Table)
    with pytest.raises(ValueError, match=r"Nearby: .*one\.tar"):
        open_source("~/rows")


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "csv", "tsv"])
def test_each_ending_that_a_table_takes_is_opened_as_one(tmp_path, ending):
    path = tmp_path / f"some rows.{ending}"
    path.write_text('{"n": 1}\n{"n": 2}\n' if "json" in ending else "n\n1\n2\n")
    source = open_source(str(path))
    assert isinstance(source, Table)
    assert len(source) == 2
    with pytest.raises(FileNotFoundError, match="no file"):
        open_source(str(tmp_path / f"no rows.{ending}"))


def test_a_folder_is_a_folder_whatever_its_name_ends_in(tmp_path):
    for name in ("a b", "shards.tar", "rows.csv"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(b"A")
        assert isinstance(open_source(str(tmp_path / name)), Folder)


@pytest.mark.parametrize("path", [" ", "\t \n"])
def test_a_blank_path_is_refused_in_one_line(path):
    with pytest.raises(ValueError, match="blank path") as caught:
        Dataset(path=path)
    assert "\n" not in str(caught.value)


def test_lmdb_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "data.mdb").write_bytes(b"LMDB")
    for path in (tmp_path / "features", tmp_path / "trainval_feat.lmdb", tmp_path / "x.lmdb/"):
        with pytest.raises(ValueError, match=r"holds pickles .* \.npz members"):
            open_source(str(path))


@pytest.mark.parametrize(
    ("name", "command"),
    [("a.tar.gz", "gunzip -k"), ("a.tgz", "gunzip -k"), ("{0..3}.tar.zst", "unzstd")],
)
def test_a_compressed_shard_is_called_so_with_the_way_out(tmp_path, name, command):
    with pytest.raises(ValueError, match=rf"is compressed.*as with '{command} .*{name[-4:]}'"):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), 1e101])
def test_a_weight_that_is_none_is_refused_where_it_stands(weight):
    with pytest.raises(ValueError, match=r"weight=.* above 0 and at most 1e"):
        Dataset(source=[1], weight=weight)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("pipe:cat x.tar", "local or mounted"),
        ("gs://bucket/x.tar", "pip install 'mmjax.gcs.'"),
        ("nowhere://bucket/x.tar", "nowhere"),
        ("gs://bucket/x.parquet", "tar or .array_record"),
        ("nowhere.xyz", "is no data"),
    ],
)
def test_a_path_that_means_no_source_is_refused(path, message):
    with pytest.raises(ValueError, match=message):
        Dataset(path=path)


def test_a_dataset_is_given_by_path_or_by_source():
    with pytest.raises(ValueError, match=r"either path.* it has neither\."):
        Dataset()
    with pytest.raises(ValueError, match=r"either path.* it has both\."):
        Dataset(path="a.tar", source=[])
    with pytest.raises(ValueError, match="weight"):
        Dataset(path="a.tar", weight=0.0)
