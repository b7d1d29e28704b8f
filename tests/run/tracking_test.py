"""A run here is one run at Weights & Biases, however often it resumes; a stand-in plays theirs."""

import importlib.machinery
import json
import pathlib
import sys
import types

import pytest

from mmjax.config import ConfigError, override
from mmjax.run import tracking
from mmjax.run.config_file import load
from mmjax.run.options import Options
from mmjax.run.training import train

FEATURES = pathlib.Path(__file__).parents[2] / "configs" / "features.py"


def config(**values):
    made = load(f"{FEATURES}:smoke")
    for path, value in {"wandb_project": "towers", **values}.items():
        override(made, path, str(value))
    return made


class FakeRun:
    def __init__(self, how):
        self.how, self.lines, self.code = how, [], None

    def define_metric(self, name, step_metric=None):
        pass

    def log(self, values):
        self.lines.append(values)

    def finish(self, exit_code):
        self.code = exit_code


@pytest.fixture
def package(monkeypatch):
    """The stand-in; `runs` are those begun."""
    module = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    module.runs = []
    module.init = lambda **how: module.runs.append(FakeRun(how)) or module.runs[-1]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_resume_goes_on_with_the_run_whose_id_is_in_the_checkpoint(package, tmp_path):
    train(config(), str(tmp_path / "b16"), Options())
    kept = json.loads((tmp_path / "b16" / "checkpoints" / "2" / "wandb.json").read_text())
    train(config(steps=3), str(tmp_path / "b16"), Options(resume=True))
    first, second = package.runs
    assert kept == {"project": "towers", "id": first.how["id"]}
    assert second.how["id"] == first.how["id"]
    assert first.how["project"] == "towers"
    assert first.how["name"] == "b16"
    assert first.how["config"]["steps"] == 2
    losses = [[line["step"] for line in run.lines if "loss" in line] for run in package.runs]
    assert losses == [[1, 2], [3]]
    assert any("retrieval/text_to_image/R@1" in line for line in first.lines)
    assert first.code == second.code == 0


def test_another_project_gets_a_run_of_its_own(package, tmp_path):
    saved = {"wandb.json": b'{"project": "towers", "id": "abc"}'}
    for project, same in (("towers", True), ("other", False)):
        _, files = tracking.begin(config(wandb_project=project), tmp_path, saved)
        assert package.runs[-1].how["project"] == project
        assert (package.runs[-1].how["id"] == "abc") is same
        assert json.loads(files["wandb.json"])["id"] == package.runs[-1].how["id"]


def test_a_service_that_refuses_stops_the_run_before_it_trains(package, tmp_path):
    def refuse(**how):
        raise ConnectionError("no API key.\nTraceback of theirs")

    package.init = refuse
    with pytest.raises(
        ConfigError, match=r"ConnectionError: no API key. Log in \(wandb login\)"
    ) as e:
        train(config(), str(tmp_path), Options())
    assert "\n" not in str(e.value)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": True}])
def test_a_service_that_refuses_costs_no_run_that_was_there(package, tmp_path, how):
    def refuse(**how):
        raise ConnectionError("no API key.")

    train(config(), str(tmp_path), Options())
    before = (tmp_path / "config.json").read_text()
    package.init = refuse
    with pytest.raises(ConfigError, match="no API key"):
        train(config(steps=3), str(tmp_path), Options(**how))
    assert (tmp_path / "config.json").read_text() == before
    assert (tmp_path / "checkpoints" / "2" / "manifest.json").exists()


def test_a_project_without_the_package_is_refused_at_once(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install"):
        train(config(), str(tmp_path / "run"), Options())
    assert not (tmp_path / "run").exists()
