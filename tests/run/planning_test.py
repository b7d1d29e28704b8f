"""A config is planned for devices that need not be here, without data and without a workdir."""

import json
import pathlib

import jax
import pytest

from mmjax.config import ConfigError, override
from mmjax.parallel.plan import _said
from mmjax.run import planning, searching
from mmjax.run.config_file import load
from mmjax.run.flags import parse_train
from mmjax.run.options import COMPILES
from mmjax.run.plan_text import plan_text
from mmjax.run.planning import plan

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def config(name="vit_b16", variant=":smoke", **values):
    made = load(f"{CONFIGS / name}.py{variant}")
    for path, value in values.items():
        override(made, path.replace("__", "."), str(value))
    return made


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMJAX_CACHE", str(folder))
        given = config(mesh__fsdp=2, micro_batches=1)
        first = plan(given, "cpu:8", str(folder / "plan.json"))
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(jax.stages.Lowered, "compile", None)  # the second one is kept
            assert plan(given, "cpu:8") == first
    assert json.loads((folder / "plan.json").read_text()) == json.loads(json.dumps(first))
    return first


def test_bytes_by_kind_add_up_to_what_the_step_needs(planned):
    kinds = {k: v for k, v in planned["bytes"].items() if k not in ("peak", "usable")}
    assert sum(kinds.values()) <= planned["bytes"]["peak"] <= 1.2 * sum(kinds.values())
    assert kinds["optimizer"] >= 2 * kinds["parameters"]
    assert 0 < kinds["loss"] < kinds["activations"]


def test_what_is_computed_once_counts_once_under_fsdp_too(planned):
    flops = planned["flops"]
    assert 0 < flops["useful"] <= flops["executed"] < 1.1 * flops["useful"]


def test_parameters_are_gathered_and_gradients_scattered_along_fsdp(planned):
    found = {(one["kind"], tuple(one["axes"])) for one in planned["collectives"]}
    assert {("all-gather", ("fsdp",)), ("reduce-scatter", ("fsdp",))} <= found


def test_of_a_cpu_no_times_are_made_up(planned):
    assert planned["by"] == {}
    assert planned["fits"] is None


@pytest.mark.parametrize(
    ("values", "name", "said"),
    [
        ({}, "v5e:5x5", "no slice of v5e"),
        ({"batch_size": 12}, "cpu:8", "batch_size=12 is no multiple of 8.*Take 8 or 16"),
        ({"mesh__fsdp": 3}, "cpu:8", "mesh -1x3x1.*These do: 8x1x1"),
        ({"micro_batches": 3}, "cpu:8", "micro_batches=3 does not divide the 1 rows"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_compiles(values, name, said):
    with pytest.raises(ConfigError, match=said):
        plan(config(**values), name)


def test_features_of_a_size_that_only_the_data_know_need_the_data():
    with pytest.raises(ConfigError, match="data: Dataset: "):
        plan(config("features", ""), "cpu:8")


def test_the_command_line_needs_a_workdir_or_a_plan():
    given = f"--config={CONFIGS}/vit_b16.py:smoke"
    assert parse_train([given, "--plan=v5e:4x4"])[2].plan == "v5e:4x4"
    with pytest.raises(ConfigError, match="required: --workdir"):
        parse_train([given])
    assert parse_train(["--plan=list"])[2].plan == "list"
    with pytest.raises(ConfigError, match="required: --config"):
        parse_train(["--plan=v5e:4x4"])


def test_bytes_of_the_compilers_refusal_are_read():
    line = "memory required for HLO temporaries (17.91G) exceeds available HBM (15.75G)."
    found = _said(line)
    assert found["needed_bytes"] == round(17.91 * 2**30)
    assert found["available_bytes"] == round(15.75 * 2**30)
    assert _said("another message") == {}


def test_a_search_says_what_it_needs_before_it_looks():
    with pytest.raises(ConfigError, match="nothing is known of the memory and speed of cpu:8"):
        plan(config(), "cpu:8", compiles=1)
    given = f"--config={CONFIGS}/vit_b16.py:smoke"
    with pytest.raises(ConfigError, match="give --plan=TOPOLOGY too"):
        parse_train([given, "--search", "--workdir=here"])
    assert parse_train([given, "--plan=v5e:4x4", "--search"])[2].search == COMPILES
    assert parse_train([given, "--plan=v5e:4x4", "--search=3"])[2].search == 3


def test_of_a_config_that_cannot_run_a_search_says_why(monkeypatch):
    monkeypatch.setattr(searching, "usable_bytes", lambda topology: 1 << 34)
    with pytest.raises(ConfigError, match="num_heads=7 does not divide dim"):
        plan(config(model__image__num_heads=7), "cpu:8", compiles=1)
    with pytest.raises(ConfigError, match="batch_size=7 is no multiple of 8"):
        plan(config(batch_size=7), "cpu:8", compiles=1)


def test_a_refusal_without_numbers_is_told_as_it_is(planned):
    unknown = {**planned["bytes"], "peak": 0, "usable": None}
    said = plan_text({**planned, "fits": False, "error": "RESOURCE_EXHAUSTED", "bytes": unknown})
    assert "NO\n  RESOURCE_EXHAUSTED\n" in said


def test_a_file_for_the_numbers_needs_its_folder(tmp_path):
    with pytest.raises(ConfigError, match="there is no such folder"):
        plan(config(), "cpu:8", f"{tmp_path}/none/plan.json")


def test_a_file_that_cannot_be_written_is_told_before_anything_compiles(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "compiled_for", None)
    with pytest.raises(ConfigError, match=f"--plan-json={tmp_path} cannot be written: Is a dir"):
        plan(config(), "cpu:8", str(tmp_path))
    with pytest.raises(TypeError):  # nothing was wrong with this one, and nothing is left of it
        plan(config(), "cpu:8", str(tmp_path / "plan.json"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("price", ["-1", "nan", "inf"])
def test_a_price_is_a_number_from_0(price):
    with pytest.raises(ConfigError, match=r"--price-per-device-hour=.*: give a price of 0 or more"):
        parse_train(["--config=configs/shards.py", f"--price-per-device-hour={price}"])
