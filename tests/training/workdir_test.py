"""The workdir: what is the same run, what is another, and what is removed."""

import json
import pathlib

import pytest

from mmjax.training import manifest, workdir
from mmjax.training.workdir import compare_config, decide, settle

ONE = json.dumps({"model": {"dim": 8, "layers": [{"size": 1}, {"size": 2}]}, "steps": 3})
TWO = json.dumps({"model": {"dim": 9, "layers": [{"size": 1}, {"size": 7}]}, "seed": 0, "steps": 3})


def run(folder: pathlib.Path, config: str = ONE) -> None:
    """A workdir as a run of one checkpoint leaves it."""
    settle(folder, config, decide(folder, config))
    manifest.commit(manifest.begin(folder / "checkpoints", 1, "a"), 1)
    (folder / "metrics.jsonl").write_text("{}\n")


def test_differences_are_named_by_path() -> None:
    assert compare_config(ONE, ONE) == []
    assert compare_config(ONE, TWO) == [
        "model.dim: 8 → 9",
        "model.layers[1].size: 2 → 7",
        "seed: (not there) → 0",
    ]


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', []),
        ('{"a": 1}', '{"a": 1.0}', ["a: 1 → 1.0"]),
        ('{"a": 1}', '{"a": true}', ["a: 1 → true"]),
        ('{"a": NaN}', '{"a": NaN}', []),
        ('{"a": [1, 2]}', '{"a": [1]}', ["a: [1, 2] → [1]"]),
        ('{"a": {"b": 1}}', '{"a": null}', ['a: {"b": 1} → null']),
        ('{"a": "ü"}', "{}", ['a: "ü" → (not there)']),
    ],
)
def test_values_are_compared_as_json(old: str, new: str, changes: list[str]) -> None:
    assert compare_config(old, new) == changes


def test_long_values_are_cut() -> None:
    (change,) = compare_config(json.dumps({"a": "x" * 500}), '{"a": 1}')
    assert len(change) < 120


def test_an_empty_workdir_starts_and_the_same_config_goes_on(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "new" / "workdir"
    decision = decide(folder, ONE)
    assert decision.action == "start"
    assert decision.fresh
    assert not folder.exists()
    run(folder)
    assert (folder / "config.json").read_text() == ONE
    again = decide(folder, json.dumps(json.loads(ONE), indent=4))
    assert (again.action, again.fresh, again.changes) == ("continue", False, ())


def test_another_config_is_refused_with_the_difference(tmp_path: pathlib.Path) -> None:
    run(tmp_path)
    with pytest.raises(ValueError, match=r"model\.dim: 8 → 9; .*--resume.*--overwrite") as caught:
        decide(tmp_path, TWO)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "config.json").read_text() == ONE


def test_resume_goes_on_with_the_new_config(tmp_path: pathlib.Path) -> None:
    run(tmp_path)
    decision = decide(tmp_path, TWO, resume=True)
    assert decision.action == "resume"
    assert "model.dim: 8 → 9" in decision.changes
    settle(tmp_path, TWO, decision)
    assert (tmp_path / "config.json").read_text() == TWO
    assert manifest.steps(tmp_path / "checkpoints") == [1]
    assert decide(tmp_path, TWO, resume=True).action == "continue"


def test_overwrite_removes_the_run_and_nothing_else(tmp_path: pathlib.Path) -> None:
    run(tmp_path)
    (tmp_path / "thesis.tex").write_text("dear to me")
    decision = decide(tmp_path, TWO, overwrite=True)
    assert decision.action == "overwrite"
    assert decision.fresh
    assert manifest.steps(tmp_path / "checkpoints") == [1]
    settle(tmp_path, TWO, decision)
    assert decide(tmp_path, TWO).action == "continue"
    assert not manifest.numbered(tmp_path / "checkpoints")
    workdir.forget(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["config.json", "thesis.tex"]
    assert (tmp_path / "config.json").read_text() == TWO


def test_an_overwritten_run_comes_back_where_the_new_one_is_refused(
    tmp_path: pathlib.Path,
) -> None:
    run(tmp_path)
    (tmp_path / "thesis.tex").write_text("dear to me")
    before = sorted(tmp_path.rglob("*"))
    settle(tmp_path, TWO, decide(tmp_path, TWO, overwrite=True))
    (tmp_path / "tokenizer.json").write_text("the new one's")
    workdir.put_back(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert decide(tmp_path, ONE).action == "continue"
    workdir.put_back(tmp_path)  # nothing is aside any more
    assert sorted(tmp_path.rglob("*")) == before


def test_an_overwrite_cut_short_is_never_taken_for_a_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for allowed in range(4):
        folder = tmp_path / str(allowed)
        run(folder)
        decision = decide(folder, TWO, overwrite=True)
        replace, left = workdir.os.replace, [None] * allowed

        def stop(*names: object, replace: object = replace, left: list = left) -> None:
            if not left:
                raise KeyboardInterrupt
            left.pop()
            replace(*names)

        with monkeypatch.context() as patch:
            patch.setattr(workdir.os, "replace", stop)
            with pytest.raises(KeyboardInterrupt):
                settle(folder, TWO, decision)
        if allowed == 0:
            assert decide(folder, ONE).action == "continue"
            continue
        if manifest.steps(folder / "checkpoints"):
            with pytest.raises(ValueError, match=r"holds checkpoints but no config\.json"):
                decide(folder, TWO)
        settle(folder, TWO, decide(folder, TWO, overwrite=True))
        workdir.forget(folder)
        assert [entry.name for entry in folder.iterdir()] == ["config.json"]


def test_checkpoints_without_a_readable_config_are_refused(tmp_path: pathlib.Path) -> None:
    run(tmp_path)
    (tmp_path / "config.json").write_text('{"model": ')
    with pytest.raises(ValueError, match="is no JSON"):
        decide(tmp_path, ONE)
    assert decide(tmp_path, ONE, resume=True).action == "resume"
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds checkpoints but no config\.json"):
        decide(tmp_path, ONE)
    assert decide(tmp_path, ONE, resume=True).action == "resume"
    assert decide(tmp_path, ONE, overwrite=True).action == "overwrite"


def test_a_config_that_cannot_be_read_can_be_overwritten(tmp_path: pathlib.Path) -> None:
    run(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ValueError, match=r"config\.json"):
        decide(tmp_path, ONE)
    assert decide(tmp_path, ONE, overwrite=True).action == "overwrite"


def test_both_flags_and_a_file_as_workdir_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="one of the two"):
        decide(tmp_path, ONE, resume=True, overwrite=True)
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ValueError, match="is a file; choose another --workdir"),
        workdir.locked(tmp_path / "file"),
    ):
        pass
    with (
        pytest.raises(
            ValueError, match="cannot be made: Not a directory; choose another --workdir"
        ),
        workdir.locked(tmp_path / "file" / "run"),
    ):
        pass


def test_a_workdir_that_is_a_link_to_nothing_is_called_so(tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for folder in (tmp_path / "link", tmp_path / "link" / "run"):
        with (
            pytest.raises(ValueError, match=r"link is a link to .*gone, which is not there; make"),
            workdir.locked(folder),
        ):
            pass


def test_what_a_refused_start_has_left_is_no_run(tmp_path: pathlib.Path) -> None:
    settle(tmp_path, ONE, decide(tmp_path, ONE))
    (tmp_path / "tokenizer.json").write_text("{}")
    decision = decide(tmp_path, TWO)
    assert decision.fresh
    settle(tmp_path, TWO, decision)
    assert not (tmp_path / "tokenizer.json").exists()
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="another config"):
        decide(tmp_path, ONE)
