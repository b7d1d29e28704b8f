"""Hostile and damaged files beside weights: config, processor, tokenizer. One line each."""

import itertools
import json
import pathlib
import shutil

import pytest

import mmjax
from mmjax.interop.tensors import WeightsError

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "whole" / "clip_hf"
DEEP = "[" * 200_000 + "]" * 200_000


@pytest.fixture
def folder(tmp_path):
    """A copy of a small CLIP in Hugging Face layout."""
    return pathlib.Path(shutil.copytree(GOLDEN, tmp_path / "weights"))


def refused(source, *words):
    """The one line with which a source is refused by `mmjax.load`."""
    with pytest.raises(WeightsError) as raised:
        mmjax.load(source)
    told = str(raised.value)
    assert len(told.splitlines()) == 1
    for word in words:
        assert word in told
    return told


CONFIGS = {
    "a list": ("[]", "no object"),
    "no JSON": ("{nonsense", "cannot be read"),
    "not UTF-8": (b"\xff\xfe", "cannot be read"),
    "deep": (DEEP, "cannot be read"),
    "of no kind": ("{}", "model_type"),
    "of a kind that is a list": ('{"model_type": ["clip"]}', "is not built"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_is_none_is_refused(folder, name):
    content, word = CONFIGS[name]
    content = content if isinstance(content, bytes) else content.encode()
    (folder / "config.json").write_bytes(content)
    refused(folder, word)


FIELDS = {
    "hidden_size": ("abc", -1, 0, 10**9, 48.5, None, [48], {}, True, float("nan"), 10**400),
    "num_hidden_layers": (10**9, -1, "abc", None),
    "num_attention_heads": (7, 0, -2, "abc", 10**9),
    "image_size": (10**9, -1, 0, "abc", [1, 2]),
    "patch_size": (0, -1, 10**9, "abc"),
    "layer_norm_eps": ("abc", None, [1]),
    "hidden_act": (3, None, [], "import os"),
    "intermediate_size": (10**12, -4),
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_config_with_absurd_values_is_refused(folder, field):
    config = json.loads((GOLDEN / "config.json").read_text())
    for value in FIELDS[field]:
        changed = {**config, "vision_config": {**config["vision_config"], field: value}}
        (folder / "config.json").write_text(json.dumps(changed))
        refused(folder)


def test_parts_of_a_config_that_are_of_another_type_are_refused(folder):
    config = json.loads((GOLDEN / "config.json").read_text())
    for tower, value in itertools.product(("vision_config", "text_config"), ("abc", 3, [1])):
        (folder / "config.json").write_text(json.dumps({**config, tower: value}))
        refused(folder)


PICTURES = {
    "resample": ([], "abc", 99),
    "size": ("abc", {"shortest_edge": "abc"}, {"shortest_edge": 10**9}, -24, {}, None, 24.5),
    "crop_size": ({"height": 9, "width": 9}, {"height": -1, "width": -1}, "abc"),
    "image_mean": ("abc", [0.5], [0, 0, "a"], 3, [[0, 0, 0]] * 3, {"a": 1}),
    "image_std": ([0, 0, 0], [-1, 1, 1], [0.5], [float("nan")] * 3),
    "rescale_factor": (0, "abc", None),
}


@pytest.mark.parametrize("told", ["[]", "{nonsense", DEEP, '{"image_processor": 3}'])
def test_a_processor_that_is_none_is_refused(folder, told):
    (folder / "processor_config.json").write_text(told)
    refused(folder, "processor_config.json")


@pytest.mark.parametrize("field", PICTURES)
def test_a_processor_with_absurd_values_is_refused(folder, field):
    for value in PICTURES[field]:
        told = json.loads((GOLDEN / "processor_config.json").read_text())
        told["image_processor"][field] = value
        (folder / "processor_config.json").write_text(json.dumps(told))
        refused(folder)


def panicking():
    """A tokenizer.json that loads, and makes the library panic on the first text."""
    told = json.loads((GOLDEN / "tokenizer.json").read_text())
    return json.dumps({**told, "pre_tokenizer": {"type": "FixedLength", "length": 0}})


@pytest.mark.parametrize("told", ["[]", "{nonsense", DEEP, "{}"])
def test_a_damaged_tokenizer_is_refused(folder, told):
    (folder / "tokenizer.json").write_text(told)
    refused(folder, "tokenizer.json")


def test_a_tokenizer_that_panics_is_refused(folder):
    (folder / "tokenizer.json").write_text(panicking())
    refused(folder, "tokenizer.json", "panicked")


@pytest.mark.parametrize("told", ["[1]", "{nonsense", DEEP])
def test_damaged_settings_of_a_tokenizer_are_refused(folder, told):
    (folder / "tokenizer_config.json").write_text(told)
    refused(folder, "tokenizer_config.json")
