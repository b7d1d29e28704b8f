"""Whole objects: what comes back, what is tried again, and what is said in the end."""

import io
import pathlib
from typing import Any

import pytest

from mmjax.data.sources import retrying
from mmjax.training.store import Store, StoreError


@pytest.fixture(params=["memory", "file", "bucket"])
def url(request: Any, tmp_path: pathlib.Path, bucket: Any) -> str:
    places = {"memory": f"memory://{tmp_path.name}", "file": f"file://{tmp_path}/store"}
    return f"{places.get(request.param, 'bucket://store')}/run"


def test_objects_come_back_and_are_listed_and_deleted(url: str, tmp_path: pathlib.Path) -> None:
    store = Store(url)
    assert store.sizes() == {}
    assert store.read("a.json") is None
    store.write("a.json", b"old")
    store.write("a.json", b"1234")
    assert store.read("a.json") == b"1234"
    assert not store.create("a.json", b"5")
    assert store.create("in/b.json", b"56")
    assert store.read("in/b.json") == b"56"
    (tmp_path / "file").write_bytes(b"789")
    store.upload(tmp_path / "file", "in/c/d.bin")
    store.copy("in/c/d.bin", "e.bin")
    assert store.sizes() == {"a.json": 4, "e.bin": 3, "in/b.json": 2, "in/c/d.bin": 3}
    assert store.sizes("in/") == {"in/b.json": 2, "in/c/d.bin": 3}
    store.download("in/c/d.bin", tmp_path / "there" / "d.bin")
    assert (tmp_path / "there" / "d.bin").read_bytes() == b"789"
    with pytest.raises(FileNotFoundError):
        store.download("gone", tmp_path / "gone")
    with pytest.raises(StoreError, match=rf"^{url}/gone: FileNotFoundError"):
        store.copy("gone", "there")
    store.delete(["a.json", "in/c/d.bin", "gone"])
    assert store.sizes() == {"e.bin": 3, "in/b.json": 2}


def test_a_failing_put_is_tried_again_and_ends_with_the_address(
    bucket: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.01)
    store = Store("bucket://store/run")
    bucket.failing(**{"a.json": {"fail": 4}})
    store.write("a.json", b"1")
    assert store.read("a.json") == b"1"
    assert "bucket://store/run/a.json failed (OSError: ordered to fail); it is" in caplog.text
    bucket.failing(**{"a.json": {"fail": 5}})
    with pytest.raises(StoreError, match=r"^bucket://store/run/a\.json, 5 times tried: OSError"):
        store.write("a.json", b"2")
    assert store.read("a.json") == b"1"


def test_a_guard_stops_every_change(bucket: Any, tmp_path: pathlib.Path) -> None:
    def refuse() -> None:
        raise StoreError("not ours")

    (tmp_path / "file").write_bytes(b"")
    store = Store("bucket://store")
    store.write("a", b"1")
    store.guard = refuse
    for change in (
        lambda: store.write("a", b"2"),
        lambda: store.create("b", b"2"),
        lambda: store.upload(tmp_path / "file", "a"),
        lambda: store.copy("a", "b"),
        lambda: store.delete(["a"]),
    ):
        with pytest.raises(StoreError, match="not ours"):
            change()
    assert store.sizes() == {"a": 1}


def test_a_guard_is_asked_before_each_try(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.01)
    asked: list[int] = []

    def lost_meanwhile() -> None:
        asked.append(1)
        if len(asked) > 1:
            raise StoreError("not ours any more")

    store = Store("bucket://store", guard=lost_meanwhile)
    bucket.failing(a={"fail": 1})
    with pytest.raises(StoreError, match=r"^not ours any more"):
        store.write("a", b"1")
    assert store.sizes() == {}


def test_a_listing_that_tells_too_much_names_no_other_step(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store("bucket://store")
    for name in ("5/a", "50/a"):
        store.write(name, b"1")
    find = bucket.Bucket.find
    monkeypatch.setattr(  # by the letters alone, as stores do
        bucket.Bucket, "find", lambda self, path, **more: find(self, "store", **more)
    )
    assert store.sizes("5/") == {"5/a": 1}


def test_a_chain_and_an_unknown_protocol_are_refused() -> None:
    with pytest.raises(ValueError, match="chained addresses"):
        Store("simplecache::memory://x")
    with pytest.raises(ValueError, match="nowhere://x"):
        Store("nowhere://x")


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.01)
    store, ls = Store("bucket://store/run"), bucket.Bucket.ls
    store.write("a.json", b"1")
    store.write("in/b.json", b"12")
    failing = {"store/run": 2, "store/run/in": 4}

    def refusing(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        failing[path] -= 1
        if failing[path] >= 0:
            raise TimeoutError
        return ls(self, path, *arguments, **options)

    monkeypatch.setattr(bucket.Bucket, "ls", refusing)
    assert store.sizes() == {"a.json": 1, "in/b.json": 2}
    failing["store/run/in"] = 5
    with pytest.raises(StoreError, match=r"^bucket://store/run, 5 times tried: TimeoutError$"):
        store.sizes()


def test_an_object_that_comes_in_part_is_asked_for_again(
    bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.01)
    store, opened = Store("bucket://store/run"), bucket.Bucket._open
    store.write("a.json", b"123456")
    cut = [True, False]

    def cutting(self: Any, path: str, mode: str = "rb", **options: Any) -> Any:
        file = opened(self, path, mode, **options)
        return io.BytesIO(file.read()[:3]) if cut and cut.pop(0) else file

    monkeypatch.setattr(bucket.Bucket, "_open", cutting)
    assert store.read("a.json", 6) == b"123456"
    cut[:] = [True, False]
    store.download("a.json", tmp_path / "a", 6)
    assert (tmp_path / "a").read_bytes() == b"123456"
    assert store.read("a.json", 9) == b"123456"  # another was put since the listing
    assert store.size("a.json") == 6
    assert store.size("gone") is None


def test_what_cannot_be_asked_for_is_not_put_over(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.01)
    store, info = Store("bucket://store/run"), bucket.Bucket.info
    store.write("a.json", b"1")
    failing = [True]

    def refusing(self: Any, path: str, **options: Any) -> Any:
        if failing and failing.pop():
            raise TimeoutError
        return info(self, path, **options)

    monkeypatch.setattr(bucket.Bucket, "info", refusing)
    monkeypatch.setattr(bucket.Bucket, "_open", None)  # it is not come so far
    assert not store.create("a.json", b"2")
