"""The cache of fetched shards: whole ones only, bounded, shared, and honest about failures."""

import base64
import concurrent.futures
import errno
import hashlib
import os
import pathlib
import threading
import time
import types

import pytest

from mmjax.data.sources import addresses, shard_cache
from mmjax.data.sources.fetching import FetchError


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    waits = []
    clock = types.SimpleNamespace(sleep=waits.append, time_ns=time.time_ns)
    monkeypatch.setattr(shard_cache, "time", clock)
    return waits


@pytest.fixture
def put(flaky):
    """Puts a file into the store; what `addresses` says of it."""

    def write(name, data):
        (flaky.root() / name).write_bytes(data)
        return addresses.look(f"flaky://{name}")

    return write


def make(tmp_path, limit=1000, tries=4):
    return shard_cache.ShardCache(str(tmp_path / "cache"), limit, tries)


def content(held):
    return pathlib.Path(held.path).read_bytes()


def kept(tmp_path):
    """The shards in the cache, by their own names."""
    names = [path.name for path in (tmp_path / "cache").iterdir()]
    assert not [name for name in names if name.endswith(".tmp")]
    return sorted(name[21:] for name in names if not name.endswith((".lock", ".fetch")))


def test_a_shard_is_fetched_once_and_then_kept(tmp_path, flaky, put):
    file, cache = put("a.tar", b"a" * 100), make(tmp_path)
    for _ in range(3):
        assert content(cache.hold(file)) == b"a" * 100
    assert content(make(tmp_path).hold(file)) == b"a" * 100
    assert flaky.reads("a.tar") == 1
    assert cache.retries == 0


def test_many_readers_fetch_a_shard_once(tmp_path, flaky, put):
    flaky.order(a_tar={"slow": 0.01})
    file, together = put("a.tar", b"a" * 900), threading.Barrier(8)

    def read(_):
        together.wait()
        return content(make(tmp_path).hold(file))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(8))) == {b"a" * 900}
    assert flaky.reads("a.tar") == 1


def test_what_was_unused_for_longest_makes_room(tmp_path, flaky, put):
    files = [put(f"{name}.tar", name.encode() * 300) for name in "abcde"]
    cache = make(tmp_path)
    for at, file in enumerate(files[:3]):
        os.utime(cache.hold(file).path, (at, at))
    cache.hold(files[0])
    cache.hold(files[3])
    assert kept(tmp_path) == ["a.tar", "c.tar", "d.tar"]
    assert len(list((tmp_path / "cache").glob("*.lock"))) == 4  # three, and that of the room
    cache.hold(files[1])
    assert kept(tmp_path) == ["a.tar", "b.tar", "d.tar"]


def test_a_shard_that_is_held_once_more_is_not_taken_for_a_changed_one(tmp_path, flaky, put):
    file, cache = put("a.tar", b"a" * 600), make(tmp_path)
    path = cache.hold(file).path
    os.utime(path, (5, 5))
    cache.hold(file)  # while another process makes its index
    assert os.stat(path).st_mtime == 5
    assert os.stat(path).st_atime > 5


def test_what_lies_beside_a_shard_comes_and_goes_with_it(tmp_path, flaky, put):
    file, beside, cache = put("a.tar", b"a" * 600), put("a.tar.mmjax-index", b"i"), make(tmp_path)
    held = cache.hold(file, (beside,))
    assert pathlib.Path(held.path + ".mmjax-index").read_bytes() == b"i"
    held.release()
    held.release()
    cache.hold(put("b.tar", b"b" * 600))
    assert kept(tmp_path) == ["b.tar"]


def test_a_shard_in_use_stays_and_the_one_that_finds_no_room_says_what_to_do(tmp_path, flaky, put):
    first, second, cache = put("a.tar", b"a" * 600), put("b.tar", b"b" * 600), make(tmp_path)
    held = make(tmp_path).hold(first)
    with pytest.raises(
        shard_cache.NoRoom, match=r"b\.tar has 600 .*600 are in use.*Raise fetching"
    ):
        cache.hold(second)
    assert kept(tmp_path) == ["a.tar"]
    held.release()
    assert content(cache.hold(second)) == b"b" * 600


def test_a_fetch_that_fails_is_tried_again_and_said_once(tmp_path, flaky, put, caplog, no_waiting):
    file, cache = put("a.tar", b"a"), make(tmp_path)
    flaky.order(a_tar={"fail": 3})
    assert content(cache.hold(file)) == b"a"
    assert cache.retries == 3
    assert no_waiting == [1, 2, 4]
    (line,) = caplog.messages
    assert "fetching flaky://a.tar failed (OSError: ordered to fail)" in line


def test_a_fetch_that_fails_for_ever_names_the_address(tmp_path, flaky, put):
    file, cache = put("a.tar", b"a"), make(tmp_path)
    flaky.order(a_tar={"fail": 99})
    with pytest.raises(FetchError, match=r"flaky://a\.tar could not be fetched, 4 times tried: OS"):
        cache.hold(file)
    assert kept(tmp_path) == []
    flaky.order()
    assert content(cache.hold(file)) == b"a"


def test_a_cut_download_is_never_a_shard(tmp_path, flaky, put):
    file, cache = put("a.tar", b"a" * 100), make(tmp_path)
    flaky.order(a_tar={"cut": 2})
    assert content(cache.hold(file)) == b"a" * 100
    assert cache.retries == 2
    other = put("b.tar", b"b" * 100)
    flaky.order(b_tar={"cut": 99})
    with pytest.raises(FetchError, match=r"b\.tar .*50 bytes came instead of 100"):
        cache.hold(other)
    assert kept(tmp_path) == ["a.tar"]


def test_bytes_without_the_md5_that_the_store_tells_are_no_shard(tmp_path, flaky, put, monkeypatch):
    file, cache = put("a.tar", b"a" * 100), make(tmp_path)
    info = flaky.Flaky.info
    sums = [base64.b64encode(hashlib.md5(of).digest()).decode() for of in (b"b", b"a" * 100)]
    for told, good in zip(sums, (False, True)):
        monkeypatch.setattr(
            flaky.Flaky, "info", lambda self, path, md5=told: {**info(self, path), "md5Hash": md5}
        )
        if good:
            assert content(cache.hold(file)) == b"a" * 100
        else:
            with pytest.raises(FetchError, match=r"a\.tar .*do not have the store's MD5"):
                cache.hold(file)


def test_a_shard_that_is_gone_is_not_waited_for(tmp_path, flaky, put, no_waiting):
    file = put("a.tar", b"a")
    (flaky.root() / "a.tar").unlink()
    with pytest.raises(FetchError, match=r"flaky://a\.tar is not there"):
        make(tmp_path).hold(file)
    assert no_waiting == []


def test_a_replaced_shard_is_another_one(tmp_path, flaky, put):
    old, cache = put("a.tar", b"old"), make(tmp_path)
    assert content(cache.hold(old)) == b"old"
    new = put("a.tar", b"new")
    os.utime(flaky.root() / "a.tar", (5, 5))
    new = addresses.look("flaky://a.tar")
    assert new.size == old.size
    assert content(cache.hold(new)) == b"new"
    assert content(cache.hold(old)) == b"old"
    cache.discard(old)
    with pytest.raises(FetchError, match=r"a\.tar was replaced since this run began"):
        cache.hold(old)


def test_a_copy_is_replaced_while_it_is_still_read(tmp_path, flaky, put):
    file, cache = put("a.tar", b"a" * 600), make(tmp_path)
    old = cache.hold(file)
    with open(old.path, "rb") as reading:
        cache.discard(file)
        new = make(tmp_path).hold(file)
        assert content(new) == reading.read()
    old.release()
    with pytest.raises(shard_cache.NoRoom):  # the new copy is held, the old one's lock is gone
        cache.hold(put("b.tar", b"b" * 600))


def test_what_a_killed_process_left_is_removed(tmp_path, flaky, put):
    file, cache = put("a.tar", b"a" * 600), make(tmp_path)
    key = cache.path_of(file).name[:20]
    (tmp_path / "cache" / f".{key}.0123.tmp").write_bytes(b"part")
    (tmp_path / "cache" / ".ffffffffffffffffffff.0123.tmp").write_bytes(bytes(900))
    assert content(cache.hold(file)) == b"a" * 600
    assert kept(tmp_path) == ["a.tar"]


def test_a_full_disk_is_said_before_the_download(tmp_path, flaky, put, monkeypatch):
    file, cache = put("a.tar", b"a" * 600), make(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(shard_cache.NoRoom, match=r"a\.tar .*600 bytes.*No space left.*Make room"):
        cache.hold(file)
    assert flaky.reads("a.tar") == 0
    assert kept(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(FetchError, match=r"cannot be kept there .*Set fetching\.folder"):
        make(tmp_path)
