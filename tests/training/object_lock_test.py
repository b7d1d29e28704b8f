"""The lock of a workdir in a store: one writer, and a silent one does not keep the others out."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from mmjax.training import object_lock
from mmjax.training.holder import encode, this_process
from mmjax.training.lock import Busy
from mmjax.training.object_lock import ObjectLock
from mmjax.training.store import Store, StoreError

URL = "bucket://store/run"


def elsewhere(**values: Any) -> bytes:
    body = {"host": "elsewhere", "boot": "b", "space": "s", "pid": 7, "started": "1"}
    return json.dumps({**body, "token": "theirs", "heartbeat": time.time(), **values}).encode()


def test_a_lock_says_who_holds_it_and_goes_without_a_trace(bucket: Any) -> None:
    lock, second = ObjectLock(URL), ObjectLock(URL)
    lock.acquire()
    body = json.loads(Store(URL).read("lock.json"))
    assert (body["host"], body["pid"]) == (socket.gethostname(), os.getpid())
    assert body["heartbeat"] > 0
    assert not lock.lost
    with pytest.raises(Busy, match=rf"^{URL} is being written by this process already\. Wait"):
        second.acquire()
    second.release()  # of what it never had
    assert not lock.lost
    lock.release()
    lock.release()
    assert Store(URL).sizes() == {}


def test_a_heart_that_beats_elsewhere_keeps_others_out(bucket: Any) -> None:
    store, ends = Store(URL), threading.Event()
    store.write("lock.json", elsewhere())

    def beat() -> None:
        while not ends.wait(0.05):
            store.write("lock.json", elsewhere())

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.raises(Busy, match="process 7 on elsewhere"):
            ObjectLock(URL, stale_seconds=20.0).acquire()
    finally:
        ends.set()
        heart.join()
    assert json.loads(store.read("lock.json"))["token"] == "theirs"


@pytest.mark.parametrize("beat", [0.0, 1e300, None, "now"])
def test_a_silent_one_elsewhere_is_taken_over_whatever_the_clocks_say(
    bucket: Any, beat: Any, caplog: pytest.LogCaptureFixture
) -> None:
    Store(URL).write("lock.json", elsewhere(heartbeat=time.time() if beat == "now" else beat))
    lock = ObjectLock(URL, stale_seconds=1.5)
    started = time.monotonic()
    lock.acquire()
    if beat == "now":  # it may live: it is watched for as long as it may be silent
        assert time.monotonic() - started > 1.5
        assert "s ago); it is watched for up to 2 s, and taken over where" in caplog.text
    assert json.loads(Store(URL).read("lock.json"))["pid"] == os.getpid()
    lock.release()


def test_a_dead_process_of_this_host_is_taken_over_at_once(bucket: Any) -> None:
    lock = ObjectLock(URL)
    lock.acquire()
    body = json.loads(Store(URL).read("lock.json"))
    lock.release()
    Store(URL).write("lock.json", json.dumps({**body, "started": "another", "token": "x"}).encode())
    started = time.monotonic()
    lock = ObjectLock(URL)
    lock.acquire()
    assert time.monotonic() - started < 10  # it would be watched for 25 s
    lock.release()


def test_who_lost_it_writes_no_more_and_leaves_the_others_lock(bucket: Any) -> None:
    lock = ObjectLock(URL, stale_seconds=0.3)
    lock.acquire()
    store = Store(URL, guard=lock.guard)
    store.write("a", b"1")
    Store(URL).write("lock.json", elsewhere())
    deadline = time.monotonic() + 10
    while not lock.taken:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert lock.lost
    with pytest.raises(StoreError, match="another process has taken over this workdir"):
        store.write("a", b"2")
    lock.release()
    assert json.loads(Store(URL).read("lock.json"))["token"] == "theirs"
    assert store.read("a") == b"1"


def test_who_could_not_renew_it_looks_before_it_writes(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = ObjectLock(URL, stale_seconds=1e4)  # no heartbeat comes within this test
    lock.acquire()
    Store(URL).write("lock.json", elsewhere())
    lock.guard()  # it was ours a moment ago
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 6e3)
    with pytest.raises(StoreError, match="taken over"):
        lock.guard()
    lock.release()


def test_who_could_not_renew_it_looks_before_others_give_it_up(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = ObjectLock(URL, stale_seconds=1e4)
    lock.acquire()
    Store(URL).write("lock.json", elsewhere())
    now = time.monotonic
    # One whose clock is ahead sees an old heartbeat, and watches it for 2.5 / 6 of that time.
    monkeypatch.setattr(time, "monotonic", lambda: now() + 4.1e3)
    with pytest.raises(StoreError, match="taken over"):
        lock.guard()
    lock.release()


def test_a_process_that_ends_with_the_lock_gives_it_back(bucket: Any) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(pathlib.Path(bucket.__file__).parent)!r})\n"
        "import bucket\n"
        "from mmjax.training.object_lock import ObjectLock\n"
        f"ObjectLock({URL!r}).acquire()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert Store(URL).sizes() == {}


def test_of_two_who_put_it_the_last_has_it(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    create = Store.create

    def overtaken(store: Store, name: str, data: bytes) -> bool:
        made = create(store, name, data)
        store.write(name, elsewhere())
        return made

    monkeypatch.setattr(Store, "create", overtaken)
    with pytest.raises(Busy, match="taken by another process this very moment"):
        ObjectLock(URL).acquire()


def test_half_a_lock_that_comes_loses_none(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, read = ObjectLock(URL), Store.read
    lock.acquire()
    cut = [True, False] * 2

    def cutting(self: Store, name: str, size: int | None = None) -> bytes | None:
        data = read(self, name, size)
        return data[:9] if data is not None and cut and cut.pop(0) else data

    monkeypatch.setattr(Store, "read", cutting)
    assert not lock.lost
    lock._beat()
    assert not lock.taken
    assert not cut
    lock.release()


def test_a_dead_ones_lock_is_asked_away_more_than_once(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_lock, "FIRST_WAIT", 0.01)
    dead = {**this_process(), "pid": 1 << 22, "token": "0"}
    Store(URL).write("lock.json", encode({**dead, "heartbeat": time.time()}))
    remove, failing = bucket.Bucket.rm_file, [True, True]

    def refusing(self: Any, path: str) -> None:
        if failing and failing.pop():
            raise OSError("ordered to fail")
        remove(self, path)

    monkeypatch.setattr(bucket.Bucket, "rm_file", refusing)
    lock = ObjectLock(URL)
    lock.acquire()
    assert not lock.lost
    lock.release()
