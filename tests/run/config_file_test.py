"""A config file is found, read and checked, and what is wrong with it is one line."""

import re

import pytest

from mmjax.config import ConfigError, build, from_json, override, to_json
from mmjax.run.config_file import allowed, check_workers, load
from mmjax.run.flags import parse_eval, parse_train


def test_a_saved_config_that_is_no_json_is_named(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"steps": 1')
    with pytest.raises(ConfigError, match=re.escape(f"{file}: ") + ".*line 1 column 12") as raised:
        load(str(file))
    assert "\n" not in str(raised.value)


def test_what_runs_through_a_config_still_does_once_it_was_saved(tmp_path):
    """Unlinked, an override would change the number at the top and nothing that reads it."""
    config = load("configs/quickstart.py:smoke")
    (tmp_path / "config.json").write_text(to_json(config))
    saved = load(str(tmp_path / "config.json"))
    assert to_json(saved) == to_json(config)
    for one in (config, saved):
        for name, text in (
            ("steps", "7"),
            ("save_steps", "3"),
            ("image_size", "48"),
            ("sequence_length", "12"),
            ("vocab_size", "300"),
        ):
            override(one, name, text)
    assert saved.rhythm.save_steps == 3
    assert saved.preprocess.image_size == saved.model.image.image_size == 48
    assert to_json(saved) == to_json(config)


def test_a_saved_config_has_no_variants(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"steps": 1}')
    assert load(str(file)).steps == 1
    with pytest.raises(ConfigError, match=r"config\.json:smoke: a saved config has no variants"):
        load(f"{file}:smoke")


def test_a_file_of_another_kind_is_refused(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("steps: 1")
    with pytest.raises(ConfigError, match=r"config\.yaml: a config is a \.py file"):
        load(str(file))


def test_what_get_config_returns_must_be_a_config(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def get_config():\n    pass\n")
    with pytest.raises(ConfigError, match=r"x\.py: get_config returns NoneType, not a ConfigDict"):
        load(str(file))


def test_a_saved_config_that_is_no_text_is_named(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ConfigError, match=r"config\.json: .*utf-8"):
        load(str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nx = = 2\n", ":2: SyntaxError: invalid syntax"),
        ("\nimport no_such_package_here\n", ":2: ModuleNotFoundError: No module named"),
        (
            "def get_config():\n    return f()\ndef f():\n    raise OSError('a\\nb')\n",
            ":4: OSError: a b",
        ),
        ("import json\nget_config = lambda: json.loads('{')\n", ":2: JSONDecodeError: Expecting"),
        (
            "from mmjax.config import spec\nfrom mmjax.preprocess import Contract\n"
            "def get_config():\n    return spec(Contract, image_siez=3)\n",
            ":4: Contract takes no 'image_siez'. Did you mean 'image_size'?",
        ),
        (
            "from mmjax.config import spec\nfrom mmjax.training.step import Goal\n"
            "from mmjax.objectives.contrastive import Contrastive\n"
            "def get_config():\n    goal = spec(Goal, objective=spec(Contrastive))\n"
            "    goal.objective = Contrastive()\n    return goal\n",
            ":6: objective is set to an object or to another type than it has. A config describes "
            "objects: write spec(CLASS, field=value), not CLASS(field=value).",
        ),
    ],
    ids=["syntax", "import", "call", "deeper", "spec", "object"],
)
def test_a_config_file_whose_own_code_fails_is_one_line_with_its_place(text, message, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(f"{file}{message}")) as raised:
        load(str(file))
    assert "\n" not in str(raised.value)


def test_a_config_file_without_variants_says_so_without_a_traceback(tmp_path):
    file = tmp_path / "plain.py"
    file.write_text("def get_config():\n    pass\n")
    with pytest.raises(ConfigError, match=r"plain\.py: TypeError: get_config\(\) takes 0"):
        load(f"{file}:smoke")


def test_load_names_the_nearest_file(tmp_path):
    (tmp_path / "vit_b16.py").write_text("def get_config(variant=''):\n    pass\n")
    with pytest.raises(ConfigError, match=r"vit_b16\.py"):
        load(str(tmp_path / "vit_b61.py"))


def test_load_passes_the_variant_and_refuses_others(tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(variant=''):\n    return ConfigDict({'v': variant})\n"
    )
    assert load(f"{file}:smoke").v == "smoke"
    assert load(str(file)).v == ""
    with pytest.raises(ConfigError, match="the one variant is 'smoke'"):
        load(f"{file}:smok")


def test_a_file_may_name_further_variants(tmp_path):
    (tmp_path / "x.py").write_text(
        "from ml_collections import ConfigDict\n"
        "VARIANTS = ('pictures',)\n"
        "def get_config(variant=''):\n    return ConfigDict({'v': variant})\n"
    )
    assert load(f"{tmp_path / 'x.py'}:pictures").v == "pictures"
    assert load(f"{tmp_path / 'x.py'}:smoke").v == "smoke"
    with pytest.raises(ConfigError, match=r"variants are 'smoke', 'pictures'\. Did you mean 'pict"):
        load(f"{tmp_path / 'x.py'}:picture")


def test_a_misspelt_flag_is_named_though_a_required_one_is_missing():
    with pytest.raises(ConfigError, match=r"unknown '--confg=x.py'. Did you mean '--config'\?"):
        parse_train(["--confg=x.py", "--workdir=here"])


OWN_CLASS = """
import dataclasses
from ml_collections import ConfigDict
from mmjax.config import spec

@dataclasses.dataclass(frozen=True)
class Mirror:
    probability: float = 0.5

def get_config(variant=''):
    return ConfigDict({'data': spec(Mirror), 'reading': {'workers': 0}})
"""


def test_a_class_of_a_config_file_is_made_from_the_saved_config_where_the_file_is_allowed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("mmjax.config._named", {})
    monkeypatch.setattr("mmjax.config._allowed", [])
    file, saved = tmp_path / "own_class.py", tmp_path / "config.json"
    file.write_text(OWN_CLASS)
    saved.write_text(to_json(load(str(file))))
    monkeypatch.setattr("mmjax.config._named", {})  # as in another process
    with pytest.raises(
        ConfigError, match=r"own_class\.py defined it.*--allow=FOLDER/own_class\.py"
    ):
        build(from_json(saved.read_text()))
    packages = parse_eval(["--workdir=here", f"--allow={file}"])[3]
    assert build(from_json(saved.read_text()), packages)["data"].probability == 0.5
    config, _, _ = parse_train([f"--config={saved}", "--workdir=here", f"--allow={file}"])
    assert build(config)["data"].probability == 0.5


def test_a_package_and_a_file_are_allowed_side_by_side(tmp_path):
    (tmp_path / "side.py").write_text("")
    assert allowed(f"mine,{tmp_path / 'side.py'}") == ("mine", "mmjax_config_side")
    with pytest.raises(ConfigError, match=r"--allow=nowhere\.py: no such file; give a config file"):
        allowed("nowhere.py")


def test_workers_are_refused_what_a_config_file_defines_before_anything_is_read(tmp_path):
    """They would end in the midst of the first batch, as they cannot import it."""
    file = tmp_path / "own_class.py"
    file.write_text(OWN_CLASS)
    config = load(str(file))
    check_workers(config)
    override(config, "reading.workers", "2")
    with pytest.raises(ConfigError, match=r"cannot import Mirror, which own_class\.py defines"):
        check_workers(config)
