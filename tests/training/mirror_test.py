"""A folder's small files and their copies: metrics in parts, nothing appended, nothing renamed."""

import json
import pathlib
from typing import Any

import pytest

from mmjax.training import mirror as mirrors
from mmjax.training.logging import MetricLog
from mmjax.training.mirror import Mirror
from mmjax.training.remote_home import RemoteHome
from mmjax.training.store import Store, StoreError

URL = "bucket://store/run"


@pytest.fixture
def pair(bucket: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(mirrors, "PART_BYTES", 200)
    (tmp_path / "run").mkdir()
    return Mirror(Store(URL), tmp_path / "run"), tmp_path / "run"


def stored() -> bytes:
    """metrics.jsonl, as its parts have it."""
    store = Store(URL)
    return b"".join(store.read(name) for name in store.sizes() if name.startswith("metrics-"))


def test_metrics_go_into_parts_of_which_the_last_alone_grows(pair: Any) -> None:
    mirror, folder = pair
    with MetricLog(folder, tensorboard=False) as log:
        for step in range(1, 31):
            log.write(step, "train", {"loss": 1.0 / step})
            if step % 4 == 0:
                mirror.push()
                assert stored() == (folder / "metrics.jsonl").read_bytes()
        mirror.push()
    sizes = {n: s for n, s in Store(URL).sizes().items() if n.startswith("metrics-")}
    assert list(sizes) == [f"metrics-{n:06}.jsonl" for n in range(1, len(sizes) + 1)]
    assert len(sizes) > 3
    assert all(200 <= size < 300 for size in list(sizes.values())[:-1])
    for name in sizes:  # whole lines
        assert [json.loads(line) for line in Store(URL).read(name).splitlines()]


def test_a_torn_line_waits(pair: Any) -> None:
    mirror, folder = pair
    (folder / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"st')
    mirror.push()
    assert stored() == b'{"step": 1}\n'


def test_another_host_goes_on_and_lost_steps_go_from_the_parts(
    pair: Any, tmp_path: pathlib.Path
) -> None:
    mirror, folder = pair
    with MetricLog(folder, tensorboard=False) as log:
        for step in range(1, 31):
            log.write(step, "train", {"loss": 1.0 / step})
    mirror.push()
    (tmp_path / "other").mkdir()
    again = Mirror(Store(URL), tmp_path / "other")
    again.pull()
    assert (tmp_path / "other" / "metrics.jsonl").read_bytes() == stored()
    with MetricLog(tmp_path / "other", resumed_step=8, tensorboard=False) as log:
        again.push()
        assert [json.loads(line)["step"] for line in stored().splitlines()] == list(range(1, 9))
        log.write(9, "train", {"loss": 0.5})
        again.push()
    assert [json.loads(line)["step"] for line in stored().splitlines()] == list(range(1, 10))


def test_what_is_brought_stays_below_the_folder(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror, _ = pair
    Store(URL).write("evaluations/2/retrieval.json", b"1")
    sizes = Store(URL).sizes()
    foreign = {"evaluations/../../elsewhere": 1, "evaluations/": 0}
    monkeypatch.setattr(Store, "sizes", lambda self, prefix="": {**sizes, **foreign})
    monkeypatch.setattr(Store, "download", lambda self, name, path, size=None: made.append(name))
    monkeypatch.setattr(mirrors, "_stamp", lambda path: (0, 0))
    made: list[str] = []
    mirror.pull()
    assert made == ["evaluations/2/retrieval.json"]


def test_metrics_that_were_put_before_they_are_mended_are_put_anew(pair: Any) -> None:
    mirror, folder = pair
    with MetricLog(folder, tensorboard=False) as log:
        for step in range(1, 31):
            log.write(step, "train", {"loss": 1.0 / step})
    mirror.push()
    with MetricLog(folder, resumed_step=8, tensorboard=False) as log:
        mirror.push()
        assert stored() == (folder / "metrics.jsonl").read_bytes()
        log.write(9, "train", {"loss": 0.5})
        mirror.push()
    assert stored() == (folder / "metrics.jsonl").read_bytes()


def test_who_only_reads_puts_no_metrics(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store, read = Store(URL), Store.read
    names = [mirrors.part_name(number) for number in (1, 2)]
    for name in names:
        store.write(name, b'{"step": 1}\n')
    home = RemoteHome(URL)
    with monkeypatch.context() as patch:  # the run is putting the second one anew just then
        patch.setattr(Store, "read", lambda s, n, size: None if n == names[1] else read(s, n))
        home.look()
    (home.folder / "report.html").write_text("1")
    home.close()
    assert set(store.sizes()) == {*names, "report.html"}


def test_what_has_changed_is_put_and_nothing_foreign(pair: Any, bucket: Any) -> None:
    mirror, folder = pair
    files = (
        "config.json",
        "evaluations/2/retrieval.json",
        "tensorboard/events",
        "own.txt",
        "r.tmp",
    )
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1")
    (folder / "evaluations" / "half.partial").write_text("1")
    mirror.push()
    assert set(Store(URL).sizes()) == set(files[:2])
    mirror.push(large=True)
    assert set(Store(URL).sizes()) == set(files[:3])
    bucket.failing(**{"config.json": {"fail": 99}})
    mirror.push(large=True)  # which has nothing to put
    (folder / "evaluations/2/retrieval.json").write_text("other")
    mirror.push()
    assert Store(URL).read("evaluations/2/retrieval.json") == b"other"


def test_what_could_not_be_put_is_put_by_the_next(
    pair: Any, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmjax.data.sources.retrying.FIRST_WAIT", 0.01)
    mirror, folder = pair
    (folder / "report.html").write_text("1")
    bucket.failing(**{"report.html": {"fail": 5}})
    with pytest.raises(StoreError, match=r"report\.html, 5 times tried"):
        mirror.push()
    mirror.start()
    mirror.kick()
    mirror.close()
    mirror.push()
    assert Store(URL).read("report.html") == b"1"
