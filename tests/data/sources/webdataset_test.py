"""Samples of tars, read at random."""

import concurrent.futures
import io
import json
import os
import pathlib
import pickle
import random
import tarfile

import pytest

from mmjax.data.sources import base, index, webdataset


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))


def write(path, files):
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def shards(folder, count=3, samples=20, seed=0):
    """Writes shards; returns what a reader must give, in order."""
    draw, expected = random.Random(seed), []
    folder.mkdir(exist_ok=True)
    for number in range(count):
        files = []
        for position in range(samples + number):
            key = f"{number}-{position:03d}"
            record = {
                "jpg": draw.randbytes(draw.randrange(0, 3000)),
                "txt": f"caption of {key}".encode(),
                "json": json.dumps({"key": key}).encode(),
            }
            files += [(f"{key}.{name}", data) for name, data in record.items()]
            expected.append({"__key__": key, **record})
        write(folder / f"s-{number:03d}.tar", files)
    return expected


def plain(record):
    return {name: value for name, value in record.items() if name != "__shard__"}


def test_every_record_is_read_in_any_order(tmp_path):
    expected = shards(tmp_path / "set")
    source = webdataset.WebDataset(str(tmp_path / "set" / "s-{000..002}.tar"))
    assert len(source) == len(expected) == 63
    order = random.Random(1).sample(range(63), 63)
    assert [plain(source[position]) for position in order] == [expected[p] for p in order]
    assert source[62]["__shard__"].endswith("s-002.tar")
    assert source.describe() == "3 shards, 63 samples of jpg txt json"


@pytest.mark.parametrize("position", [-1, 63])
def test_a_position_that_is_not_there_is_refused(tmp_path, position):
    shards(tmp_path / "set")
    source = webdataset.WebDataset(str(tmp_path / "set" / "*.tar"))
    with pytest.raises(IndexError, match="63"):
        source[position]


def test_only_the_members_asked_for_are_read(tmp_path, monkeypatch):
    files = [("a.jpg", b"j" * 100), ("a.raw", b"r" * 1_000_000), ("a.txt", b"t")]
    shard = write(tmp_path / "a.tar", files)
    source = webdataset.WebDataset(shard, members=("jpeg;jpg", "TXT"))
    read, pread = [], os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: read.append(n) or pread(fd, n, at))
    assert plain(source[0]) == {
        "__key__": "a",
        "__members__": ("jpg", "raw", "txt"),
        "jpg": b"j" * 100,
        "txt": b"t",
    }
    assert sum(read) == 101
    assert source.describe() == "1 shard, 1 samples of jpg txt"


def test_neighbours_cost_one_read(tmp_path, monkeypatch):
    shards(tmp_path / "set")
    source = webdataset.WebDataset(str(tmp_path / "set" / "*.tar"))
    read, pread = [], os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: read.append(n) or pread(fd, n, at))
    source[7]
    assert len(read) == 1


def test_a_member_that_no_shard_holds_is_refused(tmp_path):
    shards(tmp_path / "set")
    with pytest.raises(ValueError, match=r"'png'; they hold jpg, txt, json"):
        webdataset.WebDataset(str(tmp_path / "set" / "*.tar"), members=("txt", "png"))


def test_a_source_is_pickled_without_handles_and_reads_the_same(tmp_path):
    expected = shards(tmp_path / "set")
    source = webdataset.WebDataset(str(tmp_path / "set" / "*.tar"))
    source[0]
    data = pickle.dumps(source)
    assert len(data) < 2000
    copy = pickle.loads(data)
    assert [plain(copy[position]) for position in range(63)] == expected
    assert copy.fingerprint() == source.fingerprint()


def test_a_forked_process_opens_its_own_handles(tmp_path, monkeypatch):
    expected = shards(tmp_path / "set")
    source = webdataset.WebDataset(str(tmp_path / "set" / "*.tar"))
    source[0]
    handles = source._handles
    source._lock.acquire()  # as if a thread of the parent held it at the fork
    monkeypatch.setattr(webdataset.os, "getpid", lambda: -1)
    assert plain(source[0]) == expected[0]
    assert source._handles is not handles


def test_many_threads_read_rightly_though_few_shards_may_be_open(tmp_path):
    expected = shards(tmp_path / "set", count=12, samples=5)
    source = webdataset.WebDataset(str(tmp_path / "set" / "*.tar"), open_shards=2)
    order = [random.Random(2).randrange(len(expected)) for _ in range(800)]
    before = len(os.listdir("/proc/self/fd"))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda position: plain(source[position]), order))
    assert read == [expected[position] for position in order]
    assert len(os.listdir("/proc/self/fd")) <= before + 2 * 2


def test_a_member_above_the_limit_is_a_bad_sample_and_is_not_read(tmp_path):
    shard = write(tmp_path / "a.tar", [("a.jpg", b"j" * 101), ("b.jpg", b"j" * 100)])
    source = webdataset.WebDataset(shard, max_member_bytes=100)
    with pytest.raises(base.BadSample, match=r"too_large: .*a\.tar: a has a member of 101 bytes"):
        source[0]
    assert source[1]["jpg"] == b"j" * 100


def test_the_fingerprint_follows_content_and_not_place_or_time(tmp_path):
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    shards(one)
    shards(two)
    shards(other, seed=1)
    for path in two.iterdir():
        os.utime(path, (5, 5))
    prints = [
        webdataset.WebDataset(str(folder / "*.tar")).fingerprint() for folder in (one, two, other)
    ]
    assert prints[0] == prints[1] != prints[2]
    fewer = webdataset.WebDataset(str(one / "s-{000..001}.tar")).fingerprint()
    words = webdataset.WebDataset(str(one / "*.tar"), members=("txt",)).fingerprint()
    assert len({prints[0], fewer, words}) == 3


def test_an_index_that_vanishes_while_reading_makes_bad_samples_not_a_crash(tmp_path):
    shards(tmp_path / "set", count=2)
    source = webdataset.WebDataset(str(tmp_path / "set" / "*.tar"))
    os.remove(tmp_path / "set" / ("s-000.tar" + index.SUFFIX))
    with pytest.raises(base.BadSample) as caught:
        source[0]
    assert caught.value.cause == "read"
    assert source[30]["txt"]


def test_globs_do_not_meet_indexes(tmp_path):
    shards(tmp_path / "set")
    webdataset.WebDataset(str(tmp_path / "set" / "*"))
    assert len(webdataset.WebDataset(str(tmp_path / "set" / "*"))) == 63


def test_a_folder_is_no_shard(tmp_path):
    pathlib.Path(tmp_path / "a.tar").mkdir()
    with pytest.raises(ValueError, match="not a file"):
        webdataset.WebDataset(str(tmp_path / "a.tar"))


def test_a_shard_stays_open_while_the_interpreter_ends(tmp_path):
    source = webdataset.WebDataset(write(tmp_path / "a.tar", [("0.txt", b"one")]))
    assert source[0]["txt"] == b"one"
    (opened,) = source._handles.values()
    assert opened.closing.alive
    assert not opened.closing.atexit  # decoding threads may still read then
