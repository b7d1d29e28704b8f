"""The manifest: what makes a folder a step, and what shows that a step is damaged."""

import pathlib

import pytest

from mmjax.training import manifest


def make(parent: pathlib.Path, step: int) -> pathlib.Path:
    folder = manifest.begin(parent, step, "a")
    (folder / "state" / "deep").mkdir(parents=True)
    (folder / "state" / "deep" / "data").write_bytes(bytes(range(256)))
    (folder / "config.json").write_text("{}")
    manifest.commit(folder, step, {"loss": 0.5})
    return parent / str(step)


def complaint(folder: pathlib.Path) -> str:
    with pytest.raises(manifest.Damaged) as caught:
        manifest.verify(folder)
    return str(caught.value)


def test_a_committed_folder_verifies(tmp_path: pathlib.Path) -> None:
    found = manifest.verify(make(tmp_path, 3))
    assert found.step == 3
    assert found.metrics == {"loss": 0.5}
    assert found.files.keys() == {"state/deep/data", "config.json"}
    assert found.total_bytes == 258
    assert manifest.steps(tmp_path) == [3]


def test_flipped_bits_are_noticed_in_every_file(tmp_path: pathlib.Path) -> None:
    folder = make(tmp_path, 1)
    for name in ("manifest.json", "config.json", "state/deep/data"):
        path = folder / name
        good = path.read_bytes()
        for bit in range(0, 8 * len(good), 7 if name == "manifest.json" else 41):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bad)
            assert f"{name} is not as it was written" in complaint(folder), bit
        path.write_bytes(good)
    manifest.verify(folder)


def test_missing_extra_cut_and_grown_files_are_named(tmp_path: pathlib.Path) -> None:
    folder = make(tmp_path, 1)
    data = folder / "state" / "deep" / "data"
    data.write_bytes(bytes(range(255)))
    assert "deep/data" in complaint(folder)
    assert "255 bytes, not 256" in complaint(folder)
    data.unlink()
    assert "deep/data is missing" in complaint(folder)
    data.write_bytes(bytes(range(256)))
    (folder / "state" / "more").write_bytes(b"")
    assert "state/more was not written by the save" in complaint(folder)


def test_a_manifest_that_is_missing_or_of_another_step_is_named(tmp_path: pathlib.Path) -> None:
    folder = make(tmp_path, 1)
    folder.rename(tmp_path / "2")
    assert "says that it is step 1, not 2" in complaint(tmp_path / "2")
    (tmp_path / "2" / "manifest.json").unlink()
    assert "manifest.json is missing" in complaint(tmp_path / "2")


@pytest.mark.parametrize(
    "text", ["", "[]", "7", '{"files": 3}', "{" * 100_000, '{"files": {"a": 1}}']
)
def test_a_manifest_of_anything_else_is_damage_and_no_crash(
    tmp_path: pathlib.Path, text: str
) -> None:
    folder = make(tmp_path, 1)
    (folder / "manifest.json").write_text(text)
    assert "not as it was written" in complaint(folder)


def test_what_is_under_way_is_a_leftover_and_no_step(tmp_path: pathlib.Path) -> None:
    folder = manifest.begin(tmp_path, 5, "a")
    (folder / "state").mkdir()
    assert manifest.leftovers(tmp_path) == [folder]
    assert manifest.steps(tmp_path) == []
    assert manifest.begin(tmp_path, 5, "b") != folder


def test_a_commit_cut_short_leaves_a_leftover(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no")

    for name in ("fsync", "rename", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(manifest.os, name, refuse)
            with pytest.raises(OSError, match="no"):
                make(tmp_path, 5)
        assert manifest.steps(tmp_path) == []
        (left,) = manifest.leftovers(tmp_path)
        assert left.name == ("5" if name == "replace" else "unfinished-5-a")
        manifest.remove(left)
    assert list(tmp_path.iterdir()) == []


def test_a_deletion_cut_short_leaves_a_leftover(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path, 1)

    def refuse(*_: object) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(manifest.shutil, "rmtree", refuse)
        with pytest.raises(OSError, match="no"):
            manifest.remove(folder)
    assert manifest.is_leftover(folder)
    assert manifest.steps(tmp_path) == []
    manifest.remove(folder)
    assert not folder.exists()


def test_damaged_steps_are_set_aside_under_names_of_their_own(tmp_path: pathlib.Path) -> None:
    assert manifest.set_aside(make(tmp_path, 1)).name == "damaged-1-1"
    assert manifest.set_aside(make(tmp_path, 1)).name == "damaged-1-2"
    assert manifest.steps(tmp_path) == []
    assert (tmp_path / "damaged-1-2" / "config.json").exists()


def test_only_plain_numbers_name_steps(tmp_path: pathlib.Path) -> None:
    for name in ("7", "07", "-1", "1e3", "x", "²"):
        (tmp_path / name).mkdir()
    (tmp_path / "8").write_text("no folder")
    assert manifest.numbered(tmp_path) == [7]
    assert manifest.numbered(tmp_path / "nowhere") == []


def test_an_atomic_write_that_fails_leaves_the_old_file_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.json"
    manifest.write_atomic(path, b"old")

    def refuse(*_: object) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(manifest.os, "fsync", refuse)
        with pytest.raises(OSError, match="no space"):
            manifest.write_atomic(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]
    assert path.read_bytes() == b"old"
