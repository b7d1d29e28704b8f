"""Checkpoints in one process: saved, kept, restored on other devices, and refused in one line."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmjax.training import manifest, orbax_arrays
from mmjax.training.checkpoint import Checkpoints, Saved, SaveFailed, SetAside, restore_params
from mmjax.training.optimizers.adafactor import Adafactor
from mmjax.training.optimizers.lamb import LAMB
from mmjax.training.optimizers.muon import Muon
from mmjax.training.schedules import constant


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Small:
    """A state as the trainer's: dataclass, nested dicts, tuples, types, something empty."""

    step: Any
    params: Any
    opt_state: Any
    ema: Any


def small(seed: int, devices: int = 1) -> Small:
    """A state whose matrix is split over the devices and whose rest is copied to each."""
    random = np.random.default_rng(seed)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))

    def put(value: Any, *axes: str) -> jax.Array:
        return jax.device_put(jnp.asarray(value), NamedSharding(mesh, PartitionSpec(*axes)))

    matrix = random.normal(size=(16, 8)).astype(np.float32)
    params = {
        "image": {"kernel": put(matrix, "data"), "bias": put(random.normal(size=3))},
        "text": {"table": put(jnp.asarray(matrix, jnp.bfloat16)), "none": put(np.zeros((0, 4)))},
    }
    moments = {"image": {"kernel": put(matrix * 2, "data")}}
    return Small(
        step=put(np.int32(seed)),
        params=params,
        opt_state=({"count": put(np.int32(7)), "mu": moments}, (), None),
        ema={"image": {"kernel": put(matrix * 3, "data")}},
    )


def like(state: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def same(one: Any, other: Any) -> bool:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(
        a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs
    )


def save(checkpoints: Checkpoints, step: int, metrics: dict[str, float] | None = None) -> None:
    assert checkpoints.save(step, small(step), {"config.json": "{}"}, metrics)
    checkpoints.wait()
    (event,) = checkpoints.poll()
    assert isinstance(event, Saved), event


def test_what_was_saved_is_restored_bit_for_bit(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    state = small(3)
    files = {"config.json": '{"a": 1}', "preprocess.json": b"\x00\xff"}
    assert checkpoints.save(3, state, files, {"R@1": 0.25, "loss": float("nan")})
    checkpoints.wait()
    (event,) = checkpoints.poll()
    assert isinstance(event, Saved)
    assert event.step == 3
    assert event.total_bytes > 1000
    assert checkpoints.poll() == []
    again = Checkpoints(tmp_path)
    assert again.latest() == 3
    assert same(again.restore(3, like(state)), state)
    assert same(again.restore(None, like(state)), state)
    assert again.restore_files(None) == {"config.json": b'{"a": 1}', "preprocess.json": b"\x00\xff"}
    assert manifest.read(tmp_path / "3").metrics == {"R@1": 0.25, "loss": None}


@pytest.mark.parametrize(("wrote", "reads"), [(8, 1), (1, 8), (8, 2), (2, 8)])
def test_another_number_of_devices_restores_the_same(
    tmp_path: pathlib.Path, wrote: int, reads: int
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, small(1, wrote))
    checkpoints.wait()
    wanted = small(1, reads)
    found = checkpoints.restore(1, like(wanted))
    assert same(found, wanted)
    kernel = found.params["image"]["kernel"]
    assert kernel.sharding == wanted.params["image"]["kernel"].sharding
    assert len(kernel.sharding.device_set) == reads


@pytest.mark.parametrize("kind", [Adafactor, LAMB, Muon])
def test_the_state_of_an_optimizer_comes_back(tmp_path: pathlib.Path, kind: Any) -> None:
    layer = {"kernel": jnp.ones((2, 40, 36)), "bias": jnp.ones((2, 36))}
    params = {"image": {"blocks": {"mlp": {"up": layer}}}}
    optimizer = kind(constant(0.1), mu_dtype="bfloat16")
    transform = optimizer.transform(params)
    _, state = jax.jit(transform.update)(params, transform.init(params), params)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state)
    checkpoints.wait()
    assert same(checkpoints.restore(1, like(state)), state)
    assert "bfloat16" in {leaf.dtype.name for leaf in jax.tree.leaves(state)}


def test_steps_that_donate_the_state_do_not_reach_the_save(tmp_path: pathlib.Path) -> None:
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = step({"w": jnp.zeros((1024, 1024)), "v": jnp.ones(300_000)})
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state)
    shapes = like(state)
    for _ in range(20):
        state = step(state)
    jax.block_until_ready(state)
    checkpoints.wait()
    found = checkpoints.restore(1, shapes)
    assert np.all(np.asarray(found["w"]) == 1)
    assert np.all(np.asarray(found["v"]) == 2)


def test_save_returns_before_the_disk_has_it_and_poll_never_waits(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    finalize = orbax_arrays.finalize
    monkeypatch.setattr(orbax_arrays, "finalize", lambda folder: (gate.wait(60), finalize(folder)))
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.save(1, small(1))
    assert checkpoints.poll() == []
    assert checkpoints.steps() == []
    assert checkpoints.latest() is None
    assert [entry.name.split("-")[:2] for entry in tmp_path.iterdir()] == [["unfinished", "1"]]
    gate.set()
    checkpoints.wait()
    assert checkpoints.steps() == [1]


def test_a_step_that_is_there_is_not_saved_again(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    assert not checkpoints.save(1, small(2))
    checkpoints.wait()
    assert checkpoints.poll() == []
    assert same(checkpoints.restore(1, like(small(1))), small(1))


def test_a_damaged_step_that_cannot_be_renamed_is_not_taken_for_the_new_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(Checkpoints(tmp_path), 1)
    save(Checkpoints(tmp_path), 2)
    (tmp_path / "2" / "config.json").write_text("{ }")
    checkpoints = Checkpoints(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "set_aside", lambda folder: folder.rename("/dev/null/there"))
        assert checkpoints.latest() == 1
        assert "it cannot be renamed" in checkpoints.poll()[0].message
        assert not checkpoints.save(2, small(2))
        (event,) = checkpoints.poll()
        assert isinstance(event, SaveFailed)
        assert event.message.startswith("checkpoint 2 could not be saved: ")
        assert checkpoints.steps() == [1]
        assert (tmp_path / "2" / "manifest.json").exists()  # nor is it deleted
    assert checkpoints.save(2, small(2))
    checkpoints.wait()
    assert [type(event) for event in checkpoints.poll()] == [SetAside, Saved]
    assert Checkpoints(tmp_path).latest() == 2
    assert (tmp_path / "damaged-2-1").is_dir()


def test_a_step_that_could_not_be_looked_for_is_not_discarded(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    with monkeypatch.context() as patch:

        def refuse(parent: pathlib.Path) -> list[int]:
            raise OSError("no answer")

        patch.setattr(manifest, "steps", refuse)
        assert not checkpoints.save(1, small(1))
    (event,) = checkpoints.poll()
    assert event.message == "checkpoint 1 could not be saved: no answer"
    assert checkpoints.latest() == 1


def test_the_newest_and_the_best_stay(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_best="R@1")
    for step, score in ((1, 0.1), (2, 0.5), (3, 0.3), (4, float("nan")), (5, 0.2)):
        save(checkpoints, step, {"R@1": score})
    save(checkpoints, 6)
    assert checkpoints.steps() == [2, 5, 6]
    assert checkpoints.best() == 2
    lowest = Checkpoints(tmp_path, keep_best="R@1", best_is_lowest=True)
    assert lowest.best() == 5
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["2", "5", "6"]


def test_an_old_step_stays_until_two_newer_ones_are_whole(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    save(checkpoints, 1)
    save(checkpoints, 2)
    (tmp_path / "2" / "config.json").write_text("{ }")
    checkpoints.save(3, small(3))
    checkpoints.wait()
    messages = [event.message for event in checkpoints.poll()]
    assert any("2/config.json" in message and "damaged-2-1" in message for message in messages)
    assert checkpoints.steps() == [1, 3]


def test_fewer_than_two_kept_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="keep_last is 1; at least 2"):
        Checkpoints(tmp_path, keep_last=1)


def test_a_step_that_is_not_there_is_named_with_those_that_are(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint that is whole"):
        checkpoints.restore(None, like(small(1)))
    save(checkpoints, 4)
    with pytest.raises(FileNotFoundError, match="holds no step 5; there are: 4"):
        checkpoints.restore(5, like(small(1)))


def test_what_is_no_array_and_what_has_no_plain_name_is_refused(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(TypeError, match="a float at 'a/b'"):
        checkpoints.save(1, {"a": {"b": 1.0}})
    with pytest.raises(ValueError, match="one path"):
        checkpoints.save(1, {"a": {"b": jnp.ones(2)}, "a/b": jnp.ones(3)})
    for name in ("manifest.json", "state", "a/b", ""):
        with pytest.raises(ValueError, match="cannot be named"):
            checkpoints.save(1, small(1), {name: "x"})
    assert list(tmp_path.iterdir()) == []


def test_parameters_come_alone_raw_or_averaged(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder)
    save(checkpoints, 1)
    save(checkpoints, 2)
    state = small(2)
    for given, step in ((tmp_path, None), (folder, 2), (folder / "2", None)):
        raw, _ = restore_params(given, step=step)
        assert raw.keys() == {"image", "text"}
        assert isinstance(raw["image"]["kernel"], np.ndarray)
        assert (
            raw["image"]["kernel"].tobytes()
            == np.asarray(state.params["image"]["kernel"]).tobytes()
        )
        assert raw["text"]["table"].dtype == jnp.bfloat16
        averaged, _ = restore_params(given, "ema", step)
        assert np.array_equal(averaged["image"]["kernel"], raw["image"]["kernel"] * 3)
        assert np.array_equal(averaged["image"]["bias"], raw["image"]["bias"])
    with pytest.raises(ValueError, match="'best'; allowed are 'params' and 'ema'"):
        restore_params(folder, "best")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        restore_params(tmp_path / "nowhere")


def test_reading_only_changes_nothing(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    save(checkpoints, 2)
    (tmp_path / "2" / "config.json").unlink()
    manifest.begin(tmp_path, 9, "a")
    before = sorted(tmp_path.rglob("*"))
    reader = Checkpoints(tmp_path, read_only=True)
    reader.clean()
    assert reader.latest() == 1
    assert "config.json is missing" in reader.poll()[0].message
    assert np.array_equal(
        restore_params(tmp_path)[0]["image"]["bias"], small(1).params["image"]["bias"]
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_refuses_from_the_start_is_an_event(tmp_path: pathlib.Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert not checkpoints.save(1, small(1))
    (event,) = checkpoints.poll()
    assert isinstance(event, SaveFailed)
    assert "checkpoint 1 could not be saved" in event.message
    (tmp_path / "checkpoints").unlink()
    save(checkpoints, 2)


def test_plain_orbax_reads_the_state(tmp_path: pathlib.Path) -> None:
    save(Checkpoints(tmp_path), 1)
    state = {"step": like(small(1)).step}
    handler = orbax.checkpoint.Checkpointer(orbax.checkpoint.PyTreeCheckpointHandler())
    found = handler.restore(
        tmp_path / "1" / "state",
        args=orbax.checkpoint.args.PyTreeRestore(
            state,
            orbax.checkpoint.checkpoint_utils.construct_restore_args(state),
            partial_restore=True,
        ),
    )
    assert int(found["step"]) == 1


def test_importing_checkpoints_does_not_import_orbax() -> None:
    code = "import sys, mmjax.training.checkpoint; print('orbax.checkpoint' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.strip().lower()) is False
