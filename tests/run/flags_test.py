"""What stands on a command line becomes a config, a workdir and options."""

import pathlib

import pytest

from mmjax.config import ConfigError
from mmjax.run.flags import parse_eval, parse_train

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "shards.py"


def test_a_tilde_is_the_home_folder_in_the_paths_of_a_config(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = {"init_from": "~/run", "tokenizer.path": "~/t.json", "answers.path": "~/a.json"}
    flags = [f"--config.{path}={text}" for path, text in given.items()]
    config, _, _ = parse_train([f"--config={CONFIG}", "--workdir=~/new", *flags])
    found = (config.init_from, config.tokenizer.path, config.answers.path)
    assert found == ("/home/me/run", "/home/me/t.json", "/home/me/a.json")
    _, _, overrides, _, _ = parse_eval(["--workdir=~/run", "--config.tokenizer.path", "~/t.json"])
    assert overrides == [("tokenizer.path", "/home/me/t.json")]


@pytest.mark.parametrize("given", ["--steps=3", "--batch_size=8", "--model.image.depth=2"])
def test_a_key_of_the_config_without_its_prefix_is_told_with_it(given):
    right = given.replace("--", "--config.")
    with pytest.raises(ConfigError, match=rf"unknown '{given}'\. .*config is set by {right}\."):
        parse_train([f"--config={CONFIG}", "--workdir=new", given])


def test_a_tilde_is_the_home_folder_in_a_config_file_too(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    file = tmp_path / "mine.py"
    file.write_text(
        f"""
import importlib.util
found = importlib.util.spec_from_file_location("shards", {str(CONFIG)!r})
shards = importlib.util.module_from_spec(found)
found.loader.exec_module(shards)


def get_config(variant=""):
    config = shards.get_config("smoke")
    config.init_from, config.tokenizer.path, config.answers.path = "~/run", "~/t.json", "~/a.json"
    config.first = shards.get_config("smoke")
    config.first.init_from = "~/before"
    return config
"""
    )
    config, _, _ = parse_train([f"--config={file}", "--workdir=new", "--config.answers.path=~"])
    found = (config.init_from, config.tokenizer.path, config.answers.path, config.first.init_from)
    assert found == ("/home/me/run", "/home/me/t.json", "/home/me", "/home/me/before")
