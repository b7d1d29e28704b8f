import sys
import types

import pytest

from mmjax.training.weights_and_biases import WeightsAndBiases, check_installed


class FakeRun:
    def __init__(self, how):
        self.how, self.axes, self.lines, self.code = how, [], [], None

    def define_metric(self, name, step_metric=None):
        self.axes.append((name, step_metric))

    def log(self, values):
        self.lines.append(values)

    def finish(self, exit_code):
        self.code = exit_code


@pytest.fixture
def made(monkeypatch):
    """Runs begun in a stand-in for the package."""
    module, runs = types.ModuleType("wandb"), []
    module.init = lambda **how: runs.append(FakeRun(how)) or runs[-1]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return runs


def test_numbers_are_drawn_over_the_runs_own_steps_so_that_one_may_come_twice(made, tmp_path):
    online = WeightsAndBiases("towers", "abc", "b16", {"seed": 1}, tmp_path)
    online.write(5, {"loss": 2.0})
    online.write(5, {"loss": 1.9})
    online.close()
    (run,) = made
    assert run.how == {
        "project": "towers",
        "id": "abc",
        "name": "b16",
        "config": {"seed": 1},
        "dir": str(tmp_path),
        "resume": "allow",
    }
    assert run.axes == [("step", None), ("*", "step")]
    assert run.lines == [{"loss": 2.0, "step": 5}, {"loss": 1.9, "step": 5}]
    assert run.code == 0


def test_a_run_that_fails_is_marked_as_failed_there(made, tmp_path):
    online = WeightsAndBiases("towers", "abc", "b16", {}, tmp_path)

    def end():
        try:
            raise RuntimeError
        finally:
            online.close()

    with pytest.raises(RuntimeError):
        end()
    assert made[0].code == 1


def test_a_missing_package_is_named_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"'towers' needs .* pip install 'mmjax\[wandb\]'"):
        check_installed("towers")
