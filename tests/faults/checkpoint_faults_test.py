"""Damage after the save: one flipped bit, a file cut or gone, a marker missing, a false step."""

import pathlib
import random
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.training import manifest, orbax_arrays
from mmjax.training.checkpoint import Checkpoints, Saved, SaveFailed, SetAside, restore_params

FLIPS = 50


def state(step: int) -> dict[str, Any]:
    kernel = np.random.default_rng(step).normal(size=(40, 25)).astype(np.float32)
    return {"step": jnp.int32(step), "params": {"kernel": jnp.asarray(kernel)}}


LIKE = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0))


def save(checkpoints: Checkpoints, step: int) -> Any:
    checkpoints.save(step, state(step), {"config.json": '{"a": 1}'}, {"loss": 1 / step})
    checkpoints.wait()
    return checkpoints.poll()


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("three") / "checkpoints"
    checkpoints = Checkpoints(folder, keep_last=3)
    for step in (1, 2, 3):
        (event,) = save(checkpoints, step)
        assert isinstance(event, Saved)
    return folder


def falls_back(folder: pathlib.Path, damaged: list[int], named: str) -> None:
    """A new run sets the damaged steps aside, names the file, and goes on from the next."""
    good = max({1, 2, 3} - set(damaged))
    checkpoints = Checkpoints(folder, keep_last=3)
    checkpoints.clean()
    assert checkpoints.latest() == good
    events = checkpoints.poll()
    assert {event.step for event in events} == set(damaged)
    assert all(isinstance(event, SetAside) for event in events)
    assert all(named in event.message for event in events), (named, events)
    assert all(f"damaged-{event.step}-1" in event.message for event in events)
    restored = checkpoints.restore(None, LIKE)
    assert np.array_equal(restored["params"]["kernel"], state(good)["params"]["kernel"])
    assert int(restored["step"]) == good
    assert all((folder / f"damaged-{step}-1").is_dir() for step in damaged)
    (event,) = save(checkpoints, 9)
    assert isinstance(event, Saved)
    assert checkpoints.latest() == 9


def test_every_one_of_fifty_flipped_bits_is_noticed_and_named(
    three_steps: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    dice = random.Random(7)
    files = sorted(path for path in (three_steps / "3").rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    flipped, noticed = set(), 0
    for number in range(FLIPS):
        folder = tmp_path / str(number)
        shutil.copytree(three_steps, folder)
        source = files[number % len(files)] if number < 20 else dice.choices(files, sizes)[0]
        path = folder / source.relative_to(three_steps)
        data = bytearray(path.read_bytes())
        bit = dice.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        flipped.add(path.name)
        reader = Checkpoints(folder, read_only=True)
        assert reader.latest() == 2, (path, bit)
        (event,) = reader.poll()
        assert path.name in event.message
        with pytest.raises(ValueError, match=r"3.*(is not as it was written|says that)"):
            Checkpoints(folder, read_only=True).restore(3, LIKE)
        noticed += 1
        if number % 10 == 0:
            falls_back(folder, [3], path.name)
    assert noticed == FLIPS
    assert {"manifest.json", "config.json", "manifest.ocdbt", "_METADATA"} <= flipped
    assert len(flipped) == len({path.name for path in files})


def largest(folder: pathlib.Path) -> pathlib.Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def cut(folder: pathlib.Path) -> str:
    path = largest(folder)
    path.write_bytes(path.read_bytes()[:-1])
    return path.name


def empty(folder: pathlib.Path) -> str:
    path = largest(folder)
    path.write_bytes(b"")
    return path.name


def remove(folder: pathlib.Path) -> str:
    path = largest(folder)
    path.unlink()
    return path.name


def remove_the_state(folder: pathlib.Path) -> str:
    shutil.rmtree(folder / "state")
    return "state/"


def remove_the_manifest(folder: pathlib.Path) -> str:
    (folder / "manifest.json").unlink()
    return "manifest.json is missing"


def empty_the_manifest(folder: pathlib.Path) -> str:
    (folder / "manifest.json").write_bytes(b"")
    return "manifest.json"


def add(folder: pathlib.Path) -> str:
    (folder / "state" / "d" / "stray").write_bytes(b"x")
    return "stray"


def another_steps_file(folder: pathlib.Path) -> str:
    path = folder / "state" / "_METADATA"
    path.write_bytes(path.read_bytes().replace(b": false", b": true "))
    return "_METADATA"


@pytest.mark.parametrize(
    "harm",
    [
        cut,
        empty,
        remove,
        remove_the_state,
        remove_the_manifest,
        empty_the_manifest,
        add,
        another_steps_file,
    ],
)
@pytest.mark.parametrize("damaged", [[3], [2, 3]])
def test_harm_is_named_and_the_newest_whole_step_taken(
    three_steps: pathlib.Path,
    tmp_path: pathlib.Path,
    harm: Callable[[pathlib.Path], str],
    damaged: list[int],
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(three_steps, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    names = {harm(folder / str(step)) for step in damaged}
    assert before != {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if len(names) == 1:
        falls_back(folder, damaged, names.pop())
    else:  # the largest file bears another name in each step
        falls_back(folder, damaged, "state/")


def test_false_newest_steps_are_not_taken(
    three_steps: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(three_steps, folder)
    shutil.copytree(folder / "3", folder / "100")  # whole, but another step's
    (folder / "101" / "state").mkdir(parents=True)
    shutil.copy(folder / "3" / "manifest.json", folder / "101")
    (folder / "102" / "state").mkdir(parents=True)
    (folder / "102" / "state" / "_METADATA").write_text("{}")
    (folder / "103").mkdir()
    (folder / "104").write_text("not even a folder")
    (folder / "0105").mkdir()
    (folder / "latest").symlink_to("3")
    checkpoints = Checkpoints(folder, keep_last=3)
    assert checkpoints.latest() == 3
    messages = {event.step: event.message for event in checkpoints.poll()}
    assert messages.keys() == {100, 101, 102}
    assert "says that it is step 3, not 100" in messages[100]
    assert "manifest.json is missing" in messages[102]
    assert int(checkpoints.restore(None, LIKE)["step"]) == 3
    checkpoints.clean()
    assert checkpoints.steps() == [1, 2, 3]
    assert not (folder / "103").exists()


def test_no_whole_step_is_said_and_not_guessed(
    three_steps: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(three_steps, folder)
    for step in (1, 2, 3):
        cut(folder / str(step))
    checkpoints = Checkpoints(folder, keep_last=3)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint that is whole"):
        checkpoints.restore(None, LIKE)
    assert len(checkpoints.poll()) == 3
    assert checkpoints.latest() is None


def test_a_warm_start_takes_no_damaged_parameters(
    three_steps: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(three_steps, folder)
    name = cut(folder / "3")
    found, _ = restore_params(tmp_path)
    assert np.array_equal(found["kernel"], state(2)["params"]["kernel"])
    for given, step in ((folder, 3), (folder / "3", None)):
        with pytest.raises(ValueError, match=name):
            restore_params(given, step=step)
    assert (folder / "3").is_dir()


def test_a_failed_save_surfaces_in_a_poll_and_the_next_is_not_skipped(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert isinstance(save(checkpoints, 1)[0], Saved)

    def refuse(_: pathlib.Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(orbax_arrays, "finalize", refuse)
        (event,) = save(checkpoints, 2)
    assert event == SaveFailed(2, "checkpoint 2 could not be saved: [Errno 5] Input/output error")
    assert checkpoints.latest() == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["1"]
    assert isinstance(save(checkpoints, 2)[0], Saved)  # the very step that failed
    assert np.array_equal(
        checkpoints.restore(2, LIKE)["params"]["kernel"], state(2)["params"]["kernel"]
    )


def test_what_dead_saves_left_goes_at_start_and_nothing_else(
    three_steps: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(three_steps, folder)
    left = manifest.begin(folder, 4, "dead")
    (left / "state" / "deep").mkdir(parents=True)
    (left / "state" / "deep" / "data").write_bytes(b"half")
    (folder / "1" / "manifest.json").rename(folder / "1" / manifest.UNFINISHED)
    (folder / "notes.txt").write_text("mine")
    (folder / "mine").mkdir()
    checkpoints = Checkpoints(folder)
    checkpoints.clean()
    assert checkpoints.poll() == []
    assert sorted(entry.name for entry in folder.iterdir()) == ["2", "3", "mine", "notes.txt"]
