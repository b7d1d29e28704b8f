"""Every config: its smoke form trains, its numbers run through, its head says what it is."""

import ast
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from mmjax.config import build, override, plain, to_json
from mmjax.parallel.mesh import make_mesh
from mmjax.run.config_file import load
from mmjax.run.options import Options
from mmjax.run.training import train
from mmjax.training.compiled import Compiled
from mmjax.training.step import Recipe

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
each = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
# A value that stands nowhere else in a config, for each number that runs through.
NEW = {
    "steps": 7_654_321,
    "batch_size": 1_234_568,
    "image_size": 208,
    "sequence_length": 61,
    "vocab_size": 54_321,
    "seed": 1_111_111,
}


@each
def test_the_smoke_form_trains_two_steps_evaluates_and_reports(path, tmp_path):
    numbers = train(load(f"{path}:smoke"), str(tmp_path), Options())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(isinstance(line["loss"], float) for line in steps)
    assert any(name.endswith(("R@1", "/accuracy", "/score")) for name in numbers), sorted(numbers)
    assert (tmp_path / "report.html").stat().st_size > 5_000
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [1, 2]


@each
def test_the_full_form_resolves_and_is_data(path):
    config = load(str(path))
    text = to_json(config)
    assert json.loads(text)["steps"] >= 100
    assert plain(config)["seed"] == 0


@each
@pytest.mark.parametrize("name", list(NEW))
def test_a_number_that_runs_through_has_no_second_home(path, name):
    for variant in ("", ":smoke"):
        config = load(f"{path}{variant}")
        if name not in config:
            assert name in ("image_size", "sequence_length", "vocab_size")
            continue
        old = config[name]
        before = to_json(config)
        override(config, name, str(NEW[name]))
        after = to_json(config)
        assert after.count(str(NEW[name])) >= 1
        if variant == "" and name != "seed":  # the held-out scenes keep their own seed
            key = {"sequence_length": r"(sequence_)?length"}.get(name, name)
            left = re.findall(rf'"{key}": {old}\b', after)
            assert not left, f"{name} was {old} and still stands in {left}"
        assert before != after


@each
def test_the_head_says_what_it_is(path):
    head = ast.get_docstring(ast.parse(path.read_text()))
    for word in ("Reproduces:", "Command:", "Devices:"):
        assert word in head
    assert f"configs/{path.name}" in head


@pytest.mark.parametrize("name", ["vit_b16", "clip_vit_b16"])
def test_a_full_size_step_lowers_on_eight_devices(name):
    config = load(str(ROOT / "configs" / f"{name}.py"))
    recipe = Recipe(
        model=build(config.model),
        goals=build(config.goals),
        optimizer=build(config.optimizer),
        contract=build(config.preprocess),
        seed=0,
    )
    size, length, rows = config.image_size, config.sequence_length, config.batch_size
    words = {
        "image": ((rows, size, size, 3), jnp.uint8),
        "token_ids": ((rows, length), jnp.int32),
        "text_mask": ((rows, length), jnp.bool_),
        "row": ((rows,), jnp.int32),
        "valid": ((rows,), jnp.bool_),
        "bad_samples": ((rows, 7), jnp.int32),
        "sample_id": ((rows, 2), jnp.int32),
        "caption_id": ((rows, 2), jnp.int32),
    }
    compiled = Compiled(recipe, make_mesh(), {"main": words}, ((".*", ()),))
    text = compiled.step.lower(compiled.state, compiled.batches, compiled.stop).as_text()
    assert f"tensor<{rows}x{size}x{size}x3xui8>" in text
    assert compiled.flops > 1e14
    parameters = sum(leaf.size for leaf in jax.tree.leaves(compiled.state.params))
    assert parameters > 1.4e8
