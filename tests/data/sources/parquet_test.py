"""Parquet files: rows by row group, flat in memory, and damage that is named."""

import collections
import concurrent.futures
import pickle
import random

import numpy as np
import pyarrow as pa
import pytest
import simplejpeg
from pyarrow import parquet as pq

from mmjax.data.dataset import Dataset, open_source
from mmjax.data.fields import Fields, check_first
from mmjax.data.pipeline import BatchMaker
from mmjax.data.rows import training_rows
from mmjax.data.sources import base
from mmjax.data.sources.parquet import Parquet
from mmjax.data.transforms.decode import pixels


def columns(count=60, seed=0):
    draw = random.Random(seed)
    pictures = [draw.randbytes(draw.randrange(1, 500)) for _ in range(count)]
    return {
        "image": [{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(pictures)],
        "raw": pictures,
        "caption": [f"größe {n}" for n in range(count)],
        "captions": [[f"one {n}", f"two {n}"] for n in range(count)],
        "photo": [{"id": n, "title": f"title {n}"} for n in range(count)],
        "vector": [[n / 2, 1.0] for n in range(count)],
        "label": list(range(count)),
    }


def write(path, data, rows=10, **options):
    pq.write_table(pa.table(data), path, row_group_size=rows, **options)
    return str(path)


def test_rows_are_read_at_random_as_they_were_written(tmp_path):
    data = columns()
    source = Parquet(write(tmp_path / "a.parquet", data))
    for n in random.Random(1).sample(range(60), 60):
        record = source[n]
        assert record["__key__"] == f"a/{n}"
        assert record["image"] == record["raw"] == data["raw"][n]
        assert record["caption"] == data["caption"][n]
        assert record["captions"] == data["captions"][n]
        assert record["photo"] == data["photo"][n]
        np.testing.assert_array_equal(record["vector"], data["vector"][n])
        assert record["label"] == n
    for position in (-1, 60):
        with pytest.raises(IndexError, match="60"):
            source[position]


def test_options_say_what_columns_mean(tmp_path):
    source = Parquet(write(tmp_path / "a.parquet", columns()))
    options = {"image_from": "jpg;image", "caption_from": "captions", "group_from": "photo:id"}
    sample = Fields(**options, label_from="label")(source[7])
    assert sample["image"].data == source[7]["raw"]
    assert sample["captions"] == ("one 7", "two 7")
    assert (sample["group"], sample["label"]) == ("7", 7)
    with pytest.raises(ValueError, match=r"found image, .*photo"):
        check_first(source, Fields())


def test_several_files_are_one_list_and_travel_to_other_processes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.parquet", columns(25), rows=10)
    source = open_source(f"{tmp_path}/*.parquet")
    assert isinstance(source, Parquet)
    assert source.blocks.sizes == (10, 10, 5, 10, 10, 5)
    assert len(source) == 50
    assert source[30]["__key__"] == "b/5"
    copy = pickle.loads(pickle.dumps(source))
    assert copy[49]["label"] == 24
    assert copy.fingerprint() == source.fingerprint()
    assert source.describe().startswith("2 files, 50 samples of image raw caption")


def test_only_the_columns_asked_for_are_read(tmp_path):
    data = {"big": [bytes(1000)] * 60, "a.b": ["x"] * 60, **columns()}
    path = write(tmp_path / "a.parquet", data, use_dictionary=False)
    source = Parquet(path, columns=("caption", "a.b", "photo"), cache_bytes=20_000)
    names = {name for name in source[3] if not name.startswith("__")}
    assert names == {"caption", "a.b", "photo"}
    with pytest.raises(base.BadSample, match=r"found caption, .*big"):
        Fields(image_from="image", caption_from="")(source[3])
    with pytest.raises(ValueError, match=r"no column 'text'; it has big, a.b, image"):
        Parquet(path, columns=("text",))


def test_nulls_are_members_that_are_not_there(tmp_path):
    data = {"caption": ["a", None], "image": [None, {"bytes": None, "path": "x.jpg"}]}
    source = Parquet(write(tmp_path / "a.parquet", data))
    assert set(source[0]) == {"__key__", "__shard__", "caption"}
    assert set(source[1]) == {"__key__", "__shard__"}


@pytest.mark.parametrize("threads", [1, 4])
def test_an_epoch_reads_each_row_group_once_and_keeps_a_few(tmp_path, monkeypatch, threads):
    data = {"raw": [bytes([n % 251]) * 1000 for n in range(1600)]}
    path = write(tmp_path / "a.parquet", data, rows=20, use_dictionary=False)
    source = Parquet(path, cache_bytes=200_000)
    assert source.blocks.window == 4
    reads, kept, read = collections.Counter(), [], Parquet._read

    def counted(self, number):
        reads[number] += 1
        kept.append(pa.total_allocated_bytes())
        return read(self, number)

    monkeypatch.setattr(Parquet, "_read", counted)
    before = pa.total_allocated_bytes()
    rows = training_rows((Dataset(source=source),), 0, "main", 8)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        positions = [rows.order(index)[1] for index in range(1600)]
        found = []
        for at in range(0, 1600, 8):  # batch by batch, as threads read
            batch = positions[at : at + 8]
            found += pool.map(lambda position: source[position]["raw"], batch)
    assert found == [data["raw"][position] for position in positions]
    assert sorted(positions) == list(range(1600))
    assert reads == dict.fromkeys(range(80), 1)
    # The file has 1.6 MB; each read takes some 240 kB of Arrow's own while it lasts.
    assert max(kept) - before < 200_000 + threads * 240_000


def test_row_groups_too_large_for_the_cache_are_refused(tmp_path):
    path = write(tmp_path / "a.parquet", {"raw": [bytes(1000)] * 50}, 50, use_dictionary=False)
    with pytest.raises(ValueError, match=r"row group 0 has 50 rows of 52,.*cache_bytes=60,000"):
        Parquet(path, cache_bytes=60_000)


def test_the_fingerprint_follows_content_and_order_but_not_the_folder(tmp_path):
    prints = []
    for name, seed, cache in (("x", 0, 1 << 20), ("y", 0, 1 << 20), ("z", 1, 1 << 20), ("w", 0, 1)):
        (tmp_path / name).mkdir()
        path = write(tmp_path / name / "a.parquet", columns(seed=seed))
        prints.append(Parquet(path, cache_bytes=max(cache, 60_000)).fingerprint())
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_whether_pages_have_checksums_is_said(tmp_path):
    for version in ("1.0", "2.0"):
        options = {"data_page_version": version}
        without = Parquet(write(tmp_path / "a.parquet", columns(), **options))
        assert without.describe().endswith(
            "(without page checksums: a flipped bit may pass unnoticed)"
        )
        with_them = write(tmp_path / "b.parquet", columns(), write_page_checksum=True, **options)
        assert "checksum" not in Parquet(with_them).describe()
        both = Parquet((str(tmp_path / "a.parquet"), with_them)).describe()
        assert "1 of them, without" in both


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_every_flipped_bit_of_a_page_is_a_bad_sample_or_changes_nothing(tmp_path, compression):
    data = {"raw": [random.Random(n).randbytes(300) for n in range(20)]}
    path = tmp_path / "a.parquet"
    write(path, data, compression=compression, use_dictionary=False, write_page_checksum=True)
    whole = path.read_bytes()
    group = pq.read_metadata(path).row_group(0).column(0)
    bad = 0
    for at in range(
        group.data_page_offset, group.data_page_offset + group.total_compressed_size, 37
    ):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        source = Parquet(str(path))
        assert source[15]["raw"] == data["raw"][15]
        try:
            assert source[5]["raw"] == data["raw"][5]
        except base.BadSample:
            bad += 1
            with pytest.raises(base.BadSample, match=r"^(checksum|read): .*row group 0"):
                source[6]  # and stays one
    assert bad >= 70


@pytest.mark.parametrize("size", [0, 3, 100, -1, -200])
def test_a_cut_file_is_named_at_once(tmp_path, size):
    path = tmp_path / "a.parquet"
    write(path, columns())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"a\.parquet.*(Get it again|get it again)") as caught:
        Parquet(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_without_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no samples"):
        Parquet(write(tmp_path / "a.parquet", {"caption": pa.array([], pa.string())}))


def test_a_file_that_changes_later_gives_bad_samples(tmp_path):
    path = tmp_path / "a.parquet"
    source = Parquet(write(path, columns()))
    write(path, columns(7))
    with pytest.raises(base.BadSample, match="10 at the run's beginning"):
        source[3]
    path.unlink()
    with pytest.raises(base.BadSample, match="read: "):
        source[13]


def test_batches_are_the_same_for_any_number_of_processes_and_miss_a_damaged_group(tmp_path):
    draw = np.random.default_rng(0)
    pictures = [draw.integers(0, 255, (8, 8, 3), dtype=np.uint8) for _ in range(48)]
    data = {"image": [simplejpeg.encode_jpeg(picture) for picture in pictures]}
    path = tmp_path / "a.parquet"
    write(path, data, rows=8, use_dictionary=False, write_page_checksum=True)
    chunk = pq.read_metadata(path).row_group(2).column(0)
    damaged = bytearray(path.read_bytes())
    damaged[chunk.data_page_offset + chunk.total_compressed_size - 100] ^= 1
    path.write_bytes(damaged)
    source = Parquet(str(path), cache_bytes=4 * 8 * 1000)
    assert 1 <= source.blocks.window < 6
    dataset = Dataset(source=source, fields=Fields("image", ""), transforms=(Decoded(),))
    rows = training_rows((dataset,), 3, "main", 16)
    whole = BatchMaker(rows, 16, 0, 1, threads=2)
    halves = [BatchMaker(rows, 16, process, 2, threads=1) for process in range(2)]
    seen, bad = [], 0
    for number in range(3):
        batch, parts = whole(number), [half(number) for half in halves]
        for word in batch:
            joined = np.concatenate([part[word] for part in parts])
            np.testing.assert_array_equal(batch[word], joined)
        assert batch["valid"].all()
        seen += batch["sample_id"][:, 1].tolist()
        bad += int(batch["bad_samples"].sum())
    assert bad >= 8
    assert set(range(48)) - set(seen) >= set(range(16, 24))
    assert set(seen) >= set(range(48)) - set(range(16, 24))


class Decoded:
    """The whole picture as pixels."""

    def __call__(self, sample, rng):
        return {**sample, "image": pixels(sample["image"])}


def test_text_that_is_no_utf_8_is_a_bad_sample_with_its_place(tmp_path):
    path = write(tmp_path / "a.parquet", {"caption": ["größe 1", "größe 2"]}, compression="none")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    at = content.index("größe 2".encode()) + 2
    content[at] ^= 0x80
    (tmp_path / "a.parquet").write_bytes(bytes(content))
    source = Parquet(path)
    assert source[0]["caption"] == "größe 1"
    with pytest.raises(base.BadSample, match=r"a\.parquet: row 1, column 'caption'.*utf-8") as bad:
        source[1]
    assert bad.value.cause == "caption"


def test_times_that_python_has_no_word_for_stop_nobody(tmp_path):
    times = {
        "ns": pa.array([1, None], pa.timestamp("ns")),
        "far": pa.array([10**15, 1], pa.timestamp("ms")),
        "zone": pa.array([1, 2], pa.timestamp("us", tz="Nowhere/None")),
        "day": pa.array([10**8, 1], pa.date32()),
        "span": pa.array([3, 4], pa.duration("ns")),
        "clock": pa.array([5, 6], pa.time64("ns")),
    }
    nested = pa.StructArray.from_arrays([times["ns"], times["day"]], ["made", "seen"])
    lists = pa.array([[1], [2, 3]], pa.list_(pa.timestamp("ns")))
    table = {**times, "both": nested, "many": lists, "caption": pa.array(["a", "b"])}
    record = Parquet(write(tmp_path / "a.parquet", table))[0]
    kept = {name: record[name] for name in table}
    assert kept == {
        "ns": 1,
        "far": 10**15,
        "zone": 1,
        "day": 10**8,
        "span": 3,
        "clock": 5,
        "both": {"made": 1, "seen": 10**8},
        "many": [1],
        "caption": "a",
    }


def test_a_list_of_numbers_has_no_nulls(tmp_path):
    table = {"vector": pa.array([[1, 2], [3, None]], pa.list_(pa.int64()))}
    source = Parquet(write(tmp_path / "a.parquet", table))
    np.testing.assert_array_equal(source[0]["vector"], [1, 2])
    with pytest.raises(base.BadSample, match=r"row 1, column 'vector': nulls in a list of numbers"):
        source[1]


def test_a_cache_of_less_than_nothing_is_named_as_one(tmp_path):
    with pytest.raises(ValueError, match=r"a\.parquet: .*cache_bytes=-5"):
        Parquet(write(tmp_path / "a.parquet", columns()), cache_bytes=-5)


def test_a_file_without_columns_holds_no_samples(tmp_path):
    with pytest.raises(ValueError, match=r"none\.parquet: it holds no samples"):
        Parquet(write(tmp_path / "none.parquet", {}))
