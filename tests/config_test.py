"""Configs: every trap of ml_collections that the house knows, and every error a person can make."""

import dataclasses
import json
import math
import re
import sys

import optax
import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from mmjax.config import ConfigError, build, from_json, lock, override, spec, to_json


@dataclasses.dataclass(frozen=True)
class Part:
    size: int
    rate: float = 0.5
    name: str = "a"
    limit: int | None = None
    clip: float | None = 1.0
    shape: tuple[int, ...] = (1, 2)
    flag: bool = False
    hook: object = None


def combine(first: int, second: int = 2) -> int:
    return first * 10 + second


def make() -> ConfigDict:
    config = ConfigDict()
    config.steps = 100
    config.size = 8
    config.part = spec(Part, size=config.get_ref("size"))
    config.parts = (spec(Part, size=config.get_ref("size") * 2), spec(Part, size=3))
    config.half = spec(combine, first=config.get_ref("steps") // 2)
    return lock(config)


def test_spec_names_the_nearest_argument():
    with pytest.raises(ConfigError, match=r"Part takes no 'siez'. Did you mean 'size'\?"):
        spec(Part, siez=3)


def test_spec_says_which_argument_is_missing():
    with pytest.raises(ConfigError, match="Part needs 'size'"):
        spec(Part)


def test_plain_defaults_are_filled_in_and_others_left_to_the_target():
    made = spec(Part, size=1)
    assert made.rate == 0.5
    assert made.shape == (1, 2)
    assert "hook" not in made


def test_a_field_that_is_none_can_be_overridden():
    config = make()
    assert config.part.limit is None
    override(config, "part.limit", "7")
    assert build(config.part).limit == 7
    override(config, "part.limit", "none")
    assert build(config.part).limit is None


def test_what_may_be_any_object_and_is_none_takes_a_spec_later():
    """So that a recipe can take another's config and give its data a source."""
    config = ConfigDict({"part": spec(Part, size=1, hook=None)})
    saved = to_json(config)
    assert to_json(from_json(saved)) == saved
    with pytest.raises(
        ConfigError, match=r"--config\.part\.hook=5: an object cannot be set on the"
    ):
        override(config, "part.hook", "5")
    config.part.hook = spec(combine, first=3)
    assert build(config)["part"].hook == 32
    override(config, "part.hook.first", "4")
    assert build(config)["part"].hook == 42


def test_none_is_a_value_only_where_the_target_or_a_none_says_so():
    config = make()
    override(config, "part.clip", "none")
    assert build(config.part).clip is None
    override(config, "part.clip", "2")
    assert build(config.part).clip == 2.0
    for path in ("steps", "part.size", "part.rate"):
        with pytest.raises(ConfigError, match=f"--config.{path}=none: 'none' is no"):
            override(config, path, "none")
    with config.unlocked():
        config.later = placeholder(int)
    override(config, "later", "none")
    assert config.later is None
    override(config, "later", "4")
    assert config.later == 4


def test_none_follows_the_targets_signature_in_a_saved_config_too():
    config = from_json(to_json(make()))
    override(config, "part.clip", "none")
    override(config, "part.limit", "7")
    assert (config.part.clip, config.part.limit) == (None, 7)
    refused = from_json(json.dumps({"target": "os:system", "rate": 1.0}))
    with pytest.raises(ConfigError, match="'none' is no number"):
        override(refused, "rate", "none")


def test_the_shortest_public_path_is_stored():
    assert spec(optax.adamw, learning_rate=0.1).target == "optax:adamw"


@pytest.mark.parametrize("target", [lambda x: x, Part(1), "os:system", len])
def test_targets_are_top_level_classes_and_functions(target):
    with pytest.raises(ConfigError, match="top of a module"):
        spec(target)


def test_a_partial_waits_for_the_arguments_it_names():
    made = build(spec(combine, partial=("first",), second=4))
    assert made(first=3) == 34
    with pytest.raises(ConfigError, match="takes no 'third'"):
        spec(combine, partial=("third",))


def test_references_follow_an_override_also_inside_tuples():
    config = make()
    override(config, "size", "16")
    override(config, "steps", "3e2")
    made = build(config)
    assert made["part"].size == 16
    assert [part.size for part in made["parts"]] == [32, 3]
    assert made["half"] == 1502


def test_an_override_reaches_into_a_member_of_a_tuple():
    config = make()
    override(config, "parts[1].size", "256")
    assert build(config.parts)[1].size == 256


def test_a_plain_sequence_is_replaced_as_a_whole():
    config = make()
    override(config, "part.shape", "(4, 5, 6)")
    assert build(config.part).shape == (4, 5, 6)
    with pytest.raises(ConfigError, match="replaced as a whole"):
        override(config, "part.shape[0]", "3")


def test_lock_reaches_specs_inside_tuples():
    config = make()
    for locked in (config, config.part, config.parts[0]):
        with pytest.raises(AttributeError, match="locked"):
            locked.new_key = 3


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("stesp", "3", "no key 'stesp' in config. Did you mean 'steps'?"),
        ("part.siez", "3", "no key 'siez' in part. Did you mean 'size'?"),
        (
            "rate",
            "3",
            "no key 'rate' in config. It stands at part.rate, parts[0].rate, parts[1].rate.",
        ),
        ("part.steps", "3", "no key 'steps' in part. It stands at steps."),
        ("steps", "3.5", "'3.5' is no whole number"),
        ("steps", "many", "'many' is no whole number"),
        ("steps", "inf", "'inf' is no whole number"),
        ("steps", "nan", "'nan' is no whole number"),
        ("steps", "-1e999", "'-1e999' is no whole number"),
        ("part.rate", "fast", "'fast' is no number"),
        ("part.flag", "maybe", "'maybe' is no bool"),
        ("part.shape", "(1,", "is no tuple like (1, 2)"),
        ("parts[7].size", "3", "'parts' has 2 members, 0 to 1"),
        ("parts", "3", "member by member"),
        ("part", "3", "that is a group"),
        ("part.target", "os:system", "another target is another config"),
        ("part.size.x", "3", "'size' has no fields"),
        ("part..size", "3", "a path reads like"),
    ],
)
def test_a_wrong_override_is_one_line_that_says_what_is_allowed(path, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        override(make(), path, text)
    assert "\n" not in str(raised.value)
    assert f"--config.{path}={text}" in str(raised.value)


def test_json_and_back_is_the_same_config():
    config = make()
    text = to_json(config)
    back = from_json(text)
    assert to_json(back) == text
    assert isinstance(back.parts, tuple)
    assert build(back)["part"] == build(config)["part"]
    assert list(json.loads(text)) == sorted(json.loads(text))


@pytest.mark.parametrize(
    "target",
    [
        "os:system",
        "subprocess:run",
        "builtins:eval",
        "mmjax.config:importlib",
        "mmjax.run:os",
        "mmjax.training.workdir:settle",
        "mmjax.training.logging:MetricLog",
        "mmjax.evaluation.report:write_report",
        "mmjax.data.sources.array_record:write_array_record",
        "mmjax.run.training:train",
        "flax.training.checkpoints:save_checkpoint",
    ],
)
def test_a_saved_config_cannot_name_what_is_not_trusted(target):
    with pytest.raises(ConfigError, match=r"refused|does not exist"):
        build(from_json(json.dumps({"target": target, "command": "true"})))


def test_a_saved_config_cannot_reach_a_foreign_module_through_ours():
    with pytest.raises(ConfigError, match="refused"):
        build(from_json(json.dumps({"target": "mmjax.config:functools"})))


def test_a_callers_own_package_is_allowed_by_name():
    saved = from_json(json.dumps({"target": "fractions:Fraction", "numerator": 3}))
    with pytest.raises(ConfigError, match="Allow its package by name"):
        build(saved)
    assert build(saved, allow=("fractions",)) == 3


def test_a_target_that_refuses_its_arguments_is_named():
    with pytest.raises(ConfigError, match=r"constant: .*argument"):
        build(from_json(json.dumps({"target": "mmjax.training.schedules:constant", "wrong": 3})))


def refuse(size: int) -> int:
    raise ValueError(f"size={size} is wrong.")


def test_nan_is_no_value_wherever_it_stands():
    config = ConfigDict({"goals": {"a": {"weights": (1.0, math.nan)}}})
    with pytest.raises(ConfigError, match=r"^goals\.a\.weights\[1\]: nan stands for no number"):
        build(config)


def test_an_error_of_a_target_names_the_key_that_it_stands_at():
    config = ConfigDict()
    config.size = 3
    config.eval_data = spec(Part, size=config.get_ref("size"))
    config.eval_data.hook = (spec(Part, size=1), spec(refuse, size=config.get_ref("size")))
    with pytest.raises(ConfigError, match=r"^eval_data\.hook\[1\]: refuse: size=3 is wrong\.$"):
        build(config)
    with pytest.raises(ConfigError, match=r"^refuse: size=3 is wrong\.$"):
        build(config.eval_data.hook[1])
    with pytest.raises(ConfigError, match=r"^a\.b: target 'os:system' is refused"):
        build({"a": {"b": {"target": "os:system"}}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"steps": 1', "Expecting ',' delimiter: line 1 column 12"),
        ("", "Expecting value"),
        ("[" * 100_000, "recursion"),
        ('{"steps": ' + "1" * 5000 + "}", "4300 digits"),
        ('{"a.b": 1}', "a.b"),
        ("[1, 2]", "'[1, 2]'"),
    ],
    ids=["cut", "empty", "deep", "long", "dotted", "list"],
)
def test_what_is_no_config_as_json_is_refused_in_one_line(text, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        from_json(text)
    assert "\n" not in str(raised.value)


def test_importing_the_package_is_fast_and_loads_no_jax():
    import subprocess

    code = (
        "import time, sys; t = time.perf_counter(); import mmjax; "
        "assert time.perf_counter() - t < 1; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
