"""What stands on a command line becomes a config, a workdir and options."""

import pathlib

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
