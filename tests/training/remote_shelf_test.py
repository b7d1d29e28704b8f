"""Checkpoints in a store: bit for bit, committed by a manifest, verified when they come back."""

import pathlib
import socket
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.training import manifest
from mmjax.training.checkpoint import Checkpoints, Saved, SaveFailed, SetAside, restore_params
from mmjax.training.home import local_source
from mmjax.training.remote_shelf import RemoteShelf
from mmjax.training.store import Store

URL = "bucket://store/run/checkpoints"


def state(step: int) -> Any:
    key = jax.random.key(step)
    return {"params": {"kernel": jax.random.normal(key, (16, 8)), "bias": jnp.zeros(0)}}


def like() -> Any:
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(lambda: state(0))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), shapes)


def opened(folder: pathlib.Path, **options: Any) -> Checkpoints:
    return Checkpoints(folder, shelf=RemoteShelf(Store(URL), folder), **options)


def save(checkpoints: Checkpoints, *steps: int) -> list[Any]:
    events = []
    for step in steps:
        checkpoints.save(step, state(step), {"config.json": f"{step}"}, {"R@1": 1.0 / step})
        checkpoints.wait()
        events += checkpoints.poll()
    return events


def assert_restored(folder: pathlib.Path, step: int) -> None:
    checkpoints = opened(folder)
    assert checkpoints.latest() == step
    found = checkpoints.restore(step, like())
    jax.tree.map(np.testing.assert_array_equal, found, state(step))
    assert checkpoints.restore_files(step) == {"config.json": f"{step}".encode()}


def test_what_was_saved_is_restored_elsewhere_and_old_steps_go(
    bucket: Any, tmp_path: pathlib.Path
) -> None:
    checkpoints = opened(tmp_path / "a", keep_best="R@1")
    assert checkpoints.latest() is None
    events = save(checkpoints, 1, 2, 3, 4)
    assert [type(event) for event in events] == [Saved] * 4, events
    assert checkpoints.steps() == [1, 3, 4]
    assert checkpoints.best() == 1
    assert not list((tmp_path / "a").iterdir())  # the disk here holds nothing of it
    assert_restored(tmp_path / "b", 4)
    with local_source("bucket://store/run") as source:
        params, _ = restore_params(source)
        np.testing.assert_array_equal(params["kernel"], state(4)["params"]["kernel"])


def test_a_copy_of_the_store_is_a_local_folder_of_checkpoints(
    bucket: Any, tmp_path: pathlib.Path
) -> None:
    save(opened(tmp_path / "a"), 1)
    copy = Checkpoints(bucket.root() / "store/run/checkpoints", read_only=True)
    found = copy.restore(1, like())
    jax.tree.map(np.testing.assert_array_equal, found, state(1))


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_step_is_set_aside_and_the_one_before_taken(
    bucket: Any, tmp_path: pathlib.Path, damage: str
) -> None:
    save(opened(tmp_path / "a"), 1, 2)
    folder = bucket.root() / "store/run/checkpoints/2"
    largest = max(folder.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    data = largest.read_bytes()
    if damage == "gone":
        largest.unlink()
    else:
        changed = data[:9] + bytes([data[9] ^ 1]) + data[10:]
        largest.write_bytes(changed if damage == "flipped" else data[:-1])
    reader = opened(tmp_path / "r", read_only=True)
    assert reader.latest() == 1
    assert folder.is_dir()
    checkpoints = opened(tmp_path / "b")
    assert checkpoints.latest() == 1
    (event,) = checkpoints.poll()
    assert isinstance(event, SetAside)
    assert event.message.startswith(f"checkpoint 2 is damaged: {URL}/2/state/")
    assert event.message.endswith("set aside as damaged-2-1")
    assert not any(path.is_file() for path in folder.rglob("*"))
    assert (folder.with_name("damaged-2-1") / "manifest.json").exists()
    save(checkpoints, 2)
    assert_restored(tmp_path / "c", 2)


def test_wrong_bytes_on_their_way_here_cost_no_step(
    bucket: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(opened(tmp_path / "a"), 1, 2)
    seen: dict[str, int] = {}
    cat = bucket.Bucket.cat_file

    def flipped(path: str, data: bytes) -> bytes:  # each object comes wrong twice
        seen[path] = seen.get(path, 0) + 1
        return bytes([data[0] ^ 1]) + data[1:] if seen[path] <= 2 else data

    def get(self: Any, path: str, here: str, **_: Any) -> None:
        pathlib.Path(here).write_bytes(flipped(path, cat(self, path)))

    monkeypatch.setattr(bucket.Bucket, "get_file", get)
    monkeypatch.setattr(
        bucket.Bucket, "cat_file", lambda self, path: flipped(path, cat(self, path))
    )
    checkpoints = opened(tmp_path / "b")
    assert checkpoints.latest() == 2
    assert checkpoints.poll() == []
    assert_restored(tmp_path / "b", 2)


def test_a_listing_that_does_not_know_yet_what_was_put_fails_no_save(
    bucket: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, checkpoints = Store.sizes, opened(tmp_path / "a")

    def late(self: Any, prefix: str = "") -> dict[str, int]:
        return {n: s for n, s in sizes(self, prefix).items() if not n.endswith("config.json")}

    monkeypatch.setattr(Store, "sizes", late)
    assert isinstance(*save(checkpoints, 1), Saved)


def test_a_foreign_step_writes_nowhere_but_where_it_is_brought(
    bucket: Any, tmp_path: pathlib.Path
) -> None:
    save(opened(tmp_path / "a"), 1, 2)
    folder = bucket.root() / "store/run/checkpoints"
    made = manifest.read(folder / "2")
    for name in ("config.json", "../../elsewhere"):
        (folder / "2" / name).write_bytes(b"2")
    files = {**made.files, "../../elsewhere": made.files["config.json"]}
    (folder / "2/manifest.json").write_bytes(manifest.encode(manifest.make(2, {}, files)))
    checkpoints = opened(tmp_path / "b")
    assert checkpoints.latest() == 1
    assert (
        "/2/manifest.json names '../../elsewhere', no file of it" in checkpoints.poll()[0].message
    )
    assert not (tmp_path / "elsewhere").exists()


def test_what_has_no_manifest_is_no_step_and_is_swept(bucket: Any, tmp_path: pathlib.Path) -> None:
    save(opened(tmp_path / "a"), 1, 2)
    Store(URL).delete(["2/manifest.json"])  # as a save that was killed, or a deletion
    checkpoints = opened(tmp_path / "b")
    assert checkpoints.steps() == [1]
    checkpoints.clean()
    assert not any(name.startswith("2/") for name in Store(URL).sizes())
    assert_restored(tmp_path / "c", 1)


def test_a_put_that_fails_for_a_while_costs_nothing_and_for_good_one_save(
    bucket: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmjax.data.sources.retrying.FIRST_WAIT", 0.01)
    checkpoints = opened(tmp_path / "a")
    bucket.failing(**{"manifest.ocdbt": {"fail": 2}, "1/manifest.json": {"fail": 3}})
    assert isinstance(*save(checkpoints, 1), Saved)
    bucket.failing(**{"2/manifest.json": {"fail": 5}})
    (failed,) = save(checkpoints, 2)
    assert isinstance(failed, SaveFailed)
    said = (
        f"checkpoint 2 could not be saved: {URL}/2/manifest.json, 5 times tried: OSError: ordered"
    )
    assert failed.message.startswith(said)
    assert not any(name.startswith("2/") for name in Store(URL).sizes())
    assert isinstance(*save(checkpoints, 3), Saved)
    assert checkpoints.steps() == [1, 3]


PAIR = """
import importlib.util, os, pathlib, sys
spec = importlib.util.spec_from_file_location("bucket", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from mmjax.parallel import hosts
from mmjax.parallel.limits import Watchdog
from mmjax.training.checkpoint import Checkpoints, Saved, SaveFailed
from mmjax.training.remote_shelf import RemoteShelf
from mmjax.training import orbax_arrays
from mmjax.training.store import Store

hosts.start(Watchdog(heartbeat_seconds=10))
folder = pathlib.Path(sys.argv[2]) / str(jax.process_index())  # each host has its own disk
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
shardings = {"step": whole, "params": {"kernel": split}}
make = jax.jit(
    lambda step: {"step": step, "params": {"kernel": jnp.arange(64.0).reshape(8, 8) + step}},
    out_shardings=shardings,
)
like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), make(np.int32(0))
)
def opened():
    return Checkpoints(folder, shelf=RemoteShelf(Store("bucket://store/run/checkpoints"), folder))
checkpoints = opened()
for step in (1, 2, 3):
    if step == 2 and not hosts.is_main():
        write, orbax_arrays.write = orbax_arrays.write, None
    assert checkpoints.save(step, make(np.int32(step)), {"config.json": "{}"})
    checkpoints.wait()
    if step == 2 and not hosts.is_main():
        orbax_arrays.write = write
    events = checkpoints.poll()
    if hosts.is_main():
        assert isinstance(events[0], SaveFailed if step == 2 else Saved), events
        assert step != 2 or "process 1: 'NoneType'" in events[0].message, events
assert checkpoints.steps() == [1, 3]
checkpoints = opened()
found = checkpoints.restore(checkpoints.latest(), like)
same = jax.jit(lambda a, b: jnp.all(a["params"]["kernel"] == b["params"]["kernel"]))
assert bool(same(found, make(np.int32(3)))) and int(found["step"]) == 3
"""


def test_two_processes_save_their_parts_and_one_or_two_restore(
    bucket: Any, tmp_path: pathlib.Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    runs = []
    for process in range(2):
        environment = {
            **bucket.os.environ,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "MMJAX_COORDINATOR": f"127.0.0.1:{port}",
            "MMJAX_PROCESSES": "2",
            "MMJAX_PROCESS": str(process),
        }
        command = [sys.executable, "-c", PAIR, bucket.__file__, str(tmp_path)]
        with open(tmp_path / f"{process}.out", "wb") as out:
            runs.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
    for process, run in enumerate(runs):
        said = f"{tmp_path}/{process}.out"
        assert run.wait(120) == 0, pathlib.Path(said).read_text()[-3000:]
    with local_source("bucket://store/run") as source:
        params, _ = restore_params(source)
    np.testing.assert_array_equal(params["kernel"], np.arange(64.0).reshape(8, 8) + 3)
