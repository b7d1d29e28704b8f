"""Two writers, dead writers, numbers used again, clocks that jump: the lock of a workdir."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from mmjax.training import lock as lock_module
from mmjax.training.lock import Busy, Lock
from mmjax.training.workdir import locked

HOLD = """
import sys, time
from mmjax.training.lock import Busy, Lock
lock = Lock(sys.argv[1], float(sys.argv[2]))
try:
    lock.acquire()
except Busy as busy:
    print("busy", busy, flush=True)
else:
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def hold(folder: pathlib.Path, stale_seconds: float = 60.0, seconds: float = 60.0) -> Any:
    """A process that tries to take the lock, then sleeps."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(stale_seconds), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )


def word(process: Any) -> str:
    return process.stdout.readline().strip()


def end(process: Any) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


def rewrite(folder: pathlib.Path, **fields: Any) -> None:
    """Makes the lock that lies there another process's."""
    path = folder / "lock.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def foreign(folder: pathlib.Path, heartbeat: Any) -> None:
    """The lock of a process on a host that cannot be asked."""
    body = {"host": "elsewhere", "boot": "b", "space": "s", "pid": 7, "started": "1", "token": "t"}
    (folder / "lock.json").write_text(json.dumps({**body, "heartbeat": heartbeat}))


def test_two_writers_are_refused_in_one_line_and_a_killed_one_is_stale_at_once(
    tmp_path: pathlib.Path,
) -> None:
    holder = hold(tmp_path)
    assert word(holder) == "held"
    second = hold(tmp_path)
    answer = word(second)
    assert answer.startswith("busy")
    assert f"process {holder.pid} on" in answer
    assert "another --workdir" in answer
    end(second)
    holder.send_signal(signal.SIGKILL)
    while (
        f"/{holder.pid}" and pathlib.Path(f"/proc/{holder.pid}/stat").read_text().split()[2] != "Z"
    ):
        time.sleep(0.01)
    start = time.monotonic()
    with locked(tmp_path) as mine:  # the dead one was not even waited for: it is a zombie
        assert mine is not None
        assert time.monotonic() - start < 2
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
        assert not mine.lost
    end(holder)
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_process_still_holds_its_lock(tmp_path: pathlib.Path) -> None:
    holder = hold(tmp_path, stale_seconds=0.5)
    assert word(holder) == "held"
    holder.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    with pytest.raises(Busy):
        Lock(tmp_path, 0.5).acquire()
    end(holder)


def test_the_lock_goes_when_its_process_ends(tmp_path: pathlib.Path) -> None:
    holder = hold(tmp_path, seconds=0.0)
    assert word(holder) == "held"
    assert holder.wait() == 0
    holder.stdout.close()
    assert list(tmp_path.iterdir()) == []


def test_a_number_used_again_is_not_the_writer(tmp_path: pathlib.Path) -> None:
    holder = hold(tmp_path)
    assert word(holder) == "held"
    rewrite(tmp_path, started="12345")
    lock = Lock(tmp_path)
    lock.acquire()
    lock.release()
    end(holder)


def test_the_same_process_cannot_take_it_twice(tmp_path: pathlib.Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(Busy, match="by this process already"),
        locked(tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_one_of_many_takes_a_stale_lock(tmp_path: pathlib.Path) -> None:
    foreign(tmp_path, time.time() - 1000)
    many = [hold(tmp_path, stale_seconds=1.0) for _ in range(6)]
    words = [word(process).split()[0] for process in many]
    for process in many:
        end(process)
    assert sorted(words) == ["busy"] * 5 + ["held"]


@pytest.mark.parametrize("offset", [0.0, -20.0, 20.0])
def test_another_host_with_a_fresh_heartbeat_is_alive(
    tmp_path: pathlib.Path, offset: float
) -> None:
    foreign(tmp_path, time.time() + offset)
    start = time.monotonic()
    with pytest.raises(Busy, match="process 7 on elsewhere"):
        Lock(tmp_path).acquire()
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("heartbeat", [0.0, -1e12, 1e12, 1e300, None, "soon", True])
def test_another_host_without_a_heartbeat_is_given_up_whatever_the_clocks_say(
    tmp_path: pathlib.Path, heartbeat: Any
) -> None:
    foreign(tmp_path, heartbeat)
    with Held(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_a_heart_that_beats_is_alive_whatever_the_clocks_say(
    tmp_path: pathlib.Path, jump: float
) -> None:
    holder = hold(tmp_path, stale_seconds=0.6)
    assert word(holder) == "held"
    mine = json.loads((tmp_path / "lock.json").read_text())
    shifted = Lock(tmp_path, 12.0)  # watches for up to 5 s, ends at the first beat
    now = time.time
    try:
        lock_module.time.time = lambda: now() + jump  # our clock jumped, or theirs did
        me = {**mine, "host": "elsewhere"}
        assert shifted._alive(me) is not None
        assert shifted._watch(mine, "it", 5.0) == "it"
    finally:
        lock_module.time.time = now
    end(holder)


def test_a_heart_goes_on_beating_when_the_disk_is_full_and_the_clock_jumps_back(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    with Held(tmp_path, 0.3):
        size = (tmp_path / "lock.json").stat().st_size
        inode = (tmp_path / "lock.json").stat().st_ino
        monkeypatch.setattr(lock_module.time, "time", lambda: now - 1e5)
        deadline = time.monotonic() + 10
        while (found := json.loads((tmp_path / "lock.json").read_text()))["heartbeat"] > now - 1e4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert found["pid"] == os.getpid()
        assert (tmp_path / "lock.json").stat().st_size == size
        assert (tmp_path / "lock.json").stat().st_ino == inode


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00" * 512, '{"pid": 99999999999999999999}'])
def test_a_lock_of_anything_else_is_given_up(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "lock.json").write_text(text)
    with Held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_taken_away_is_noticed_and_left_alone(tmp_path: pathlib.Path) -> None:
    lock = Lock(tmp_path, 0.3)
    lock.acquire()
    assert not lock.lost
    foreign(tmp_path, time.time())
    taken = (tmp_path / "lock.json").read_bytes()
    assert lock.lost
    time.sleep(0.3)
    lock.release()
    assert (tmp_path / "lock.json").read_bytes() == taken


def test_a_file_system_without_links_will_do(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(lock_module.os, "link", refuse)
    with Held(tmp_path), pytest.raises(Busy):
        Lock(tmp_path).acquire()
    assert list(tmp_path.iterdir()) == []


class Held:
    """A lock in a `with`, with little patience."""

    def __init__(self, folder: pathlib.Path, stale_seconds: float = 0.6):
        self.lock = Lock(folder, stale_seconds)

    def __enter__(self) -> Lock:
        self.lock.acquire()
        return self.lock

    def __exit__(self, *_: object) -> None:
        self.lock.release()
