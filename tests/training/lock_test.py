"""The lock of a workdir in one process; other processes stand in tests/faults/lock_faults_test."""

import json
import os
import pathlib
import socket

import pytest

from mmjax.training.lock import Busy, Lock


def test_a_lock_says_who_holds_it_and_goes_without_a_trace(tmp_path: pathlib.Path) -> None:
    lock = Lock(tmp_path)
    lock.acquire()
    body = json.loads((tmp_path / "lock.json").read_text())
    assert body["host"] == socket.gethostname()
    assert body["pid"] == os.getpid()
    assert body["heartbeat"] > 0
    assert not lock.lost
    lock.release()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_second_lock_is_refused_until_the_first_is_released(tmp_path: pathlib.Path) -> None:
    first, second = Lock(tmp_path), Lock(tmp_path)
    first.acquire()
    with pytest.raises(Busy, match="choose another --workdir"):
        second.acquire()
    second.release()  # of what it never had
    assert (tmp_path / "lock.json").exists()
    first.release()
    second.acquire()
    second.release()


def test_a_fork_does_not_release_its_parents_lock(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Lock(tmp_path)
    lock.acquire()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 1)
        lock.release()
    assert (tmp_path / "lock.json").exists()
    lock.release()
    assert not (tmp_path / "lock.json").exists()
