"""train.py and eval.py refuse a silent CPU before any long work, and the tests' own CPU is one."""

import pathlib

import pytest

from mmjax.config import ConfigError, to_json
from mmjax.run.config_file import load
from mmjax.run.evaluation import evaluate
from mmjax.run.flags import parse_eval, parse_train
from mmjax.run.training import Options, train

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "features.py"


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_what_is_not_there_is_refused_and_nothing_is_begun(tmp_path, platform):
    config = load(f"{CONFIG}:smoke")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text(to_json(config))
    with pytest.raises(ConfigError, match=f"--require={platform}: JAX found 8 x cpu"):
        train(config, str(tmp_path / "new"), Options(require=platform))
    with pytest.raises(ConfigError, match=f"--require={platform}: JAX found 8 x cpu"):
        evaluate(str(tmp_path / "old"), platform=platform)
    assert not (tmp_path / "new").exists()
    assert [entry.name for entry in (tmp_path / "old").iterdir()] == ["config.json"]


def test_the_flags_reach_both_commands():
    arguments = [f"--config={CONFIG}:smoke", "--workdir=w", "--require=gpu", "--replay-check=100"]
    _, _, options = parse_train(arguments)
    assert (options.require, options.replay_check) == ("gpu", 100)
    assert parse_eval(["--workdir=w", "--require=tpu"])[-1] == "tpu"
    with pytest.raises(ConfigError, match=r"--require.*invalid choice: 'cpu'"):
        parse_train([*arguments, "--require=cpu"])


def test_help_says_what_the_replay_check_costs(capsys):
    with pytest.raises(SystemExit):
        parse_train(["--help"])
    assert "memory of a second state" in " ".join(capsys.readouterr().out.split())
