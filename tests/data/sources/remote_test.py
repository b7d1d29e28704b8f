"""Shards at addresses: read as local ones are, a few at a time, the same for everybody."""

import collections
import dataclasses
import io
import json
import pathlib
import pickle
import tarfile
import threading
import time

import fsspec
import numpy as np
import pytest

from mmjax.data.dataset import Dataset, open_source
from mmjax.data.fields import Fields
from mmjax.data.pipeline import BatchMaker
from mmjax.data.rows import training_rows
from mmjax.data.sources import array_record, base, remote, shard_cache, shard_sizes, webdataset
from mmjax.data.sources.fetching import FetchError, Fetching

COUNTS = (7, 9, 8, 10, 6, 9, 11, 8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "shards"
    for thread in threading.enumerate():  # or they would read from the next test's store
        if thread.name == "fetch":
            thread.join(20)


def tar(shard, samples):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as file:
        for number in range(samples):
            for kind, content in (("txt", f"{shard} {number}"), ("n", f"{100 * shard + number}")):
                entry = tarfile.TarInfo(f"{number:03}.{kind}")
                entry.size = len(content)
                file.addfile(entry, io.BytesIO(content.encode()))
    return data.getvalue()


@pytest.fixture
def shards(flaky):
    """Tars s-0.tar ... in the store, with a sizes.json."""
    (flaky.root() / "set").mkdir()
    for number, samples in enumerate(COUNTS):
        (flaky.root() / "set" / f"s-{number}.tar").write_bytes(tar(number, samples))
    sizes = {f"s-{number}.tar": samples for number, samples in enumerate(COUNTS)}
    (flaky.root() / "set" / "sizes.json").write_text(json.dumps(sizes))
    return flaky


def plain(record):
    return {name: value for name, value in record.items() if name != "__shard__"}


def everything(source):
    return [plain(source[position]) for position in range(len(source))]


def reads(flaky):
    return {number: flaky.reads(f"s-{number}.tar") for number in range(len(COUNTS))}


@dataclasses.dataclass(frozen=True)
class Number:
    """A row that says which sample it is."""

    def __call__(self, sample, rng):
        tokens = np.full(2, int(sample["captions"][0]), np.int32)
        return {**sample, "token_ids": tokens, "text_mask": np.ones(2, bool)}


def dataset(source):
    return Dataset(source=source, fields=Fields("", "n"), transforms=(Number(),))


def test_tars_at_an_address_are_read_as_local_ones(tmp_path):
    store = fsspec.filesystem("memory")
    for number, samples in enumerate(COUNTS):
        (tmp_path / f"s-{number}.tar").write_bytes(tar(number, samples))
        store.pipe(f"/tars/s-{number}.tar", tar(number, samples))
    local = webdataset.WebDataset(str(tmp_path / "*.tar"))
    source = open_source("memory://tars/s-{0..3}.tar memory://tars/s-[4-7].tar")
    assert isinstance(source, remote.RemoteShards)
    assert everything(source) == everything(local)
    assert source[8]["__shard__"] == "memory://tars/s-1.tar"
    assert source.describe() == "8 shards at memory://tars, 68 samples"
    copy = pickle.loads(pickle.dumps(source))
    assert everything(copy) == everything(local)
    assert copy.fingerprint() == source.fingerprint()
    for position in (-1, 68):
        with pytest.raises(IndexError, match="68"):
            source[position]


def test_array_records_at_an_address_are_read_as_local_ones(tmp_path):
    made = [{"__key__": f"{n}", "txt": f"caption {n}", "jpg": bytes(n)} for n in range(30)]
    for number in range(3):
        path = str(tmp_path / f"{number}.array_record")
        array_record.write_array_record(path, made[10 * number : 10 * number + 10])
        fsspec.filesystem("memory").put(path, f"/records/{number}.array_record")
    source = open_source("memory://records/*.array_record")
    assert everything(source) == made
    assert source.blocks.sizes == (10, 10, 10)


def test_an_epoch_fetches_each_shard_once_ahead_of_use_and_keeps_few(shards, cache):
    limit = 3 * 2 * len(tar(0, 11))
    source = remote.RemoteShards("flaky://set/s-*.tar", Fetching(window=2, cache_bytes=limit))
    rows = training_rows((dataset(source),), 0, "main", 4)
    seen = []
    for index in range(2 * sum(COUNTS)):
        row, bad = rows.load(index)
        seen.append(int(row["token_ids"][0]))
        assert not bad.any()
        assert sum(path.stat().st_size for path in cache.glob("*.tar")) <= limit
        deadline, (_, near) = time.monotonic() + 10, rows.order.near(index)
        paths = [source._cache.path_of(source._files[number]) for number in near]
        while not all(path.exists() for path in paths):  # the next ones come by themselves
            assert time.monotonic() < deadline
            time.sleep(0.001)
    samples = [100 * shard + n for shard, count in enumerate(COUNTS) for n in range(count)]
    assert sorted(seen) == sorted(2 * samples)
    assert sorted(seen[: len(samples)]) == samples
    assert 8 <= sum(reads(shards).values()) <= 2 * 8 + 2


@pytest.mark.parametrize("lanes", [1, 2])
def test_batches_are_the_same_for_any_number_of_hosts_which_fetch_their_lanes(
    shards, tmp_path, lanes
):
    def maker(process, processes):
        folder = str(tmp_path / f"host-{process}-of-{processes}")
        fetching = Fetching(window=1, lanes=lanes, cache_bytes=1 << 20, folder=folder)
        source = remote.RemoteShards("flaky://set/s-*.tar", fetching)
        rows = training_rows((dataset(source),), 0, "main", 8)
        return BatchMaker(rows, 8, process, processes, threads=2)

    whole, fetched = maker(0, 1), []
    wanted = [whole(number) for number in range(4)]  # half an epoch
    for process in range(2):
        host = maker(process, 2)
        shards.order()
        for number in range(4):
            block = host(number)
            for word, value in block.items():
                same = wanted[number][word][4 * process : 4 * process + 4]
                np.testing.assert_array_equal(value, same, err_msg=word)
        needed = {shard // 100 for batch in wanted for shard in block_of(batch, process)}
        fetched.append(needed)
    both = fetched[0] & fetched[1]
    assert bool(both) == (lanes == 1)


def block_of(batch, process):
    return batch["token_ids"][4 * process : 4 * process + 4, 0].tolist()


def test_workers_and_lanes_do_not_change_pickled_orders(shards):
    fetching = Fetching(window=3, lanes=2)
    source = remote.RemoteShards("flaky://set/s-*.tar", fetching)
    rows = training_rows((dataset(source),), 5, "main", 8)
    copy = pickle.loads(pickle.dumps(rows))
    assert [copy.order(n) for n in range(200)] == [rows.order(n) for n in range(200)]
    prints = {
        remote.RemoteShards(
            "flaky://set/s-*.tar", Fetching(window=w, lanes=n, tries=t)
        ).fingerprint()
        for w, n, t in ((3, 2, 1), (3, 2, 9), (2, 2, 1), (3, 1, 1))
    }
    assert len(prints) == 3


def test_a_sizes_json_tells_the_samples_without_fetching(shards):
    source = remote.RemoteShards("flaky://set/s-*.tar")
    assert source.blocks.sizes == COUNTS
    assert sum(reads(shards).values()) == 0


def test_indexes_beside_the_shards_tell_the_samples_and_the_sums(shards):
    for path in sorted((shards.root() / "set").glob("s-*.tar")):
        webdataset.WebDataset(str(path))
    (shards.root() / "set" / "sizes.json").unlink()
    source = remote.RemoteShards("flaky://set/s-*.tar")
    assert source.blocks.sizes == COUNTS
    assert sum(reads(shards).values()) == 0
    place = shards.root() / "set" / "s-1.tar"
    damaged = place.read_bytes().replace(b"1 5", b"1 6")
    assert damaged != place.read_bytes()
    place.write_bytes(damaged)
    source = remote.RemoteShards("flaky://set/s-*.tar")
    with pytest.raises(base.BadSample, match=r"^checksum: flaky://set/s-1\.tar: 005\.txt"):
        source[7 + 5]
    assert shards.reads("s-1.tar") == 2  # once more, for it might have been our copy
    with pytest.raises(base.BadSample, match=r"^checksum"):
        source[7 + 5]
    assert source[7 + 4]["txt"] == b"1 4"
    assert shards.reads("s-1.tar") == 2


def test_shards_that_nothing_tells_of_are_counted_once_and_it_is_said(shards, caplog):
    (shards.root() / "set" / "sizes.json").unlink()
    for _ in range(2):
        source = remote.RemoteShards("flaky://set/s-*.tar")
        assert source.blocks.sizes == COUNTS
    assert reads(shards) == dict.fromkeys(range(8), 1)
    (line,) = caplog.messages
    assert "the samples of 8 shards at flaky://set, so each is fetched and counted: 1 done" in line


def test_a_sizes_json_that_is_wrong_is_named(shards):
    sizes = shards.root() / "set" / "sizes.json"
    sizes.write_text(json.dumps({f"s-{n}.tar": count + (n == 2) for n, count in enumerate(COUNTS)}))
    source = remote.RemoteShards("flaky://set/s-*.tar")
    assert source[0]["txt"] == b"0 0"
    with pytest.raises(FetchError, match=r"s-2\.tar has 8 samples, flaky://set/sizes\.json says 9"):
        source[7 + 9]
    wrong = ("0", "[]", "Infinity", "1e400", "1.5", "true")
    for text in ("[1]", "{", *(f'{{"s-0.tar": {one}}}' for one in wrong)):
        sizes.write_text(text)
        with pytest.raises(ValueError, match=r"sizes\.json does not read .*Correct or remove"):
            remote.RemoteShards("flaky://set/s-*.tar")


def test_a_shard_replaced_between_runs_is_fetched_anew(shards):
    first = remote.RemoteShards("flaky://set/s-*.tar")
    assert first[3]["txt"] == b"0 3"
    place = shards.root() / "set" / "s-0.tar"
    place.write_bytes(tar(5, 7))
    assert remote.RemoteShards("flaky://set/s-*.tar")[3]["txt"] == b"5 3"
    assert first[3]["txt"] == b"0 3"


def test_a_copy_that_the_disk_damaged_is_fetched_anew(shards, cache):
    source = remote.RemoteShards("flaky://set/s-*.tar")
    assert source[5]["txt"] == b"0 5"
    (copy,) = cache.glob("*-s-0.tar")
    with open(copy, "r+b") as file:
        file.seek(copy.read_bytes().index(b"0 6"))
        file.write(b"9")
    assert [source[n]["txt"] for n in (5, 6, 6)] == [b"0 5", b"0 6", b"0 6"]
    assert shards.reads("s-0.tar") == 2


def test_a_copy_that_another_process_discards_is_fetched_anew(shards, monkeypatch):
    hold, discarded = shard_cache.ShardCache.hold, []

    def losing(self, file, beside=()):
        held = hold(self, file, beside)
        if not discarded:
            discarded.append(file)
            self.discard(file)
        return held

    monkeypatch.setattr(shard_cache.ShardCache, "hold", losing)
    source = remote.RemoteShards("flaky://set/s-0.tar")
    assert len(everything(source)) == COUNTS[0]
    assert shards.reads("s-0.tar") == 2


@pytest.mark.parametrize("listed", [True, False])
def test_a_damaged_tar_is_named_by_its_address(shards, listed):
    place = shards.root() / "set" / "s-1.tar"
    place.write_bytes(place.read_bytes()[:-3000])
    if not listed:
        (shards.root() / "set" / "sizes.json").unlink()
    with pytest.raises(FetchError, match=r"^flaky://set/s-1\.tar: was cut at byte"):
        remote.RemoteShards("flaky://set/s-*.tar")[7]


def test_a_shard_that_fails_ends_the_reading_and_not_the_shard(shards, monkeypatch):
    monkeypatch.setattr(shard_cache, "_FIRST_WAIT", 0.001)
    source = remote.RemoteShards("flaky://set/s-*.tar", Fetching(tries=3))
    shards.order(**{"s-0_tar": {"fail": 1000}})
    rows = training_rows((dataset(source),), 0, "main", 4)
    with pytest.raises(FetchError, match=r"s-0\.tar could not be fetched, 3 times tried"):
        list(map(rows.load, range(sum(COUNTS))))
    assert source.retries >= 2


def test_captions_for_a_tokenizer_come_from_a_few_shards(tmp_path):
    store = fsspec.filesystem("memory")
    for number in range(30):
        store.pipe(f"/many/{number:02}.tar", tar(number, 20))
    store.pipe("/many/sizes.json", json.dumps({f"{n:02}.tar": 20 for n in range(30)}).encode())
    data = Dataset(path="memory://many/*.tar", fields=Fields("", "txt"))
    shards = collections.Counter(caption.split()[0] for caption in data.captions(40))
    assert len(shards) == 8
    assert set(shards.values()) == {5}


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("nowhere://b/x.tar", "Protocol not known: nowhere"),
        ("gs://b/x.tar", r"pip install 'mmjax\[gcs\]'"),
        ("s3://b/x.tar", "pip install 's3fs'"),
        ("memory://b/x.zip", "are .tar or .array_record files"),
        ("memory://b/x.tar", "Nothing is there"),
        ("flaky://set/s-0.tar flaky://set/sizes.json", "are .tar or .array_record files"),
        ("flaky://set/s-{0..9}.tar", r"for 2 of the addresses.*s-8\.tar, flaky://set/s-9\.tar"),
        ("flaky://set/t-*.tar", r"for 1 of the addresses.*t-\*\.tar"),
        ("flaky://set/s-0.tar flaky://set/s-[01].tar", "named twice"),
        ("flaky://set/s-0.tar s-1.tar", "'s-1.tar' is no address"),
        ("flaky://set/s-{9..0}.tar", "runs backwards"),
        ("reference://x.tar::flaky://set/s-0.tar", "chained addresses"),
        ("simplecache::flaky://set/s-0.tar", "address, not a file"),
    ],
)
def test_wrong_addresses_are_refused_in_one_line(shards, path, problem):
    with pytest.raises((ValueError, OSError), match=problem) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


def test_a_cache_too_small_for_the_window_is_refused_with_the_number_that_would_do(shards):
    size = max(path.stat().st_size for path in (shards.root() / "set").glob("*.tar"))
    with pytest.raises(ValueError, match=rf"window=2 .* needs cache_bytes={6 * size:,}"):
        remote.RemoteShards("flaky://set/s-*.tar", Fetching(window=2, cache_bytes=6 * size - 1))


@pytest.mark.parametrize("name", ["cache_bytes", "window", "lanes", "tries"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0; it is 1 or more"):
        Fetching(**{name: 0})


def test_counts_that_were_damaged_are_made_again(shards, tmp_path):
    (shards.root() / "set" / "sizes.json").unlink()
    remote.RemoteShards("flaky://set/s-*.tar")
    (kept,) = (tmp_path / "cache" / "counts").iterdir()
    assert len(shard_sizes.Counts(remote.RemoteShards("flaky://set/s-*.tar")._files).known) == 8
    pathlib.Path(kept).write_text("{")
    assert remote.RemoteShards("flaky://set/s-*.tar").blocks.sizes == COUNTS
