"""Plans for TPUs that are not here: what fits, what does not and why, and what would."""

import json
import pathlib

import pytest

from mmjax.config import override
from mmjax.parallel.plan import Facts, state_bytes
from mmjax.run import plan_numbers, searching
from mmjax.run.config_file import load
from mmjax.run.plan_text import search_text
from mmjax.run.planning import plan
from mmjax.training.estimates import kept_bytes

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "vit_b16.py"
TOPOLOGY = "v5e:2x2"


def two_layers(**values):
    """Towers of two blocks, wide enough to fill a chip's lanes."""
    made = load(f"{CONFIG}:smoke")
    sizes = {"dim": 256, "num_heads": 2, "mlp_dim": 512}
    wide = {
        f"model__{tower}__{name}": n for tower in ("image", "text") for name, n in sizes.items()
    }
    for path, value in {"model__embed_dim": 256, **wide, **values}.items():
        override(made, path.replace("__", "."), str(value))
    return made


@pytest.fixture
def folder(tmp_path_factory, monkeypatch, chips):
    """A cache of its own; that `chips` comes first leaves this process's TPUs alone."""
    del chips
    made = tmp_path_factory.mktemp("plans")
    monkeypatch.setenv("MMJAX_CACHE", str(made))
    return made


def test_a_small_step_fits_and_all_its_times_are_known(folder):
    file = folder / "plan.json"
    made = plan(two_layers(batch_size=256), TOPOLOGY, str(file), price=1.2)
    assert json.loads(file.read_text()) == json.loads(json.dumps(made))
    assert made["fits"]
    kinds = {k: v for k, v in made["bytes"].items() if k not in ("peak", "usable")}
    assert sum(kinds.values()) <= made["bytes"]["peak"] < made["bytes"]["usable"]
    assert kinds["loss"] > 0
    assert 0 < made["seconds"]["compute"] < made["by"]["estimated_cycles"]["seconds"]
    assert {one["axes"] for one in made["collectives"]} == {("data",)}
    for one in made["by"].values():
        assert 0 < one["mfu"] < 1
        assert one["cost"] == pytest.approx(1.2 * one["device_hours"])


@pytest.fixture
def quick(folder, monkeypatch):
    """What a compiler would say, told from shapes: a compile that fails may take minutes."""

    def facts(compiled, topology):
        given = state_bytes(compiled.layout, compiled.batches, compiled.mesh)
        kept = kept_bytes(compiled)
        asked.append(compiled)
        return Facts(peak_bytes=sum(given.values()) + kept, temporary_bytes=kept, cycles=10**9)

    asked = []
    monkeypatch.setattr(searching, "MICRO_BATCHES", (1, 16))
    monkeypatch.setattr(searching, "REMAT", ("none", "dots_no_batch", "full"))
    monkeypatch.setattr(plan_numbers, "_facts", facts)
    monkeypatch.setattr(plan_numbers, "loss_bytes", lambda compiled, topology: 0)
    return asked


def test_what_does_not_fit_is_told_with_its_culprit_and_the_cheapest_that_fits(quick, capsys):
    given = two_layers(batch_size=4 << 15)
    made = plan(given, TOPOLOGY)
    assert made["fits"] is False
    said = capsys.readouterr().out
    assert "most of it is activations: " in said
    assert "15.75 can be used" in said
    switch = made["switch"]
    assert switch["peak_bytes"] < made["bytes"]["usable"] < made["bytes"]["peak"]
    assert f"it fits with {switch['changes']}" in said
    # By recomputing the forward pass a step takes a third more; by micro-batches too. Keeping the
    # products with weights costs less than either, and would do.
    assert switch["overrides"] == {
        "model.image.remat": "dots_no_batch",
        "model.text.remat": "dots_no_batch",
    }
    for path, value in switch["overrides"].items():
        override(given, path, value)
    assert plan(given, TOPOLOGY)["fits"]


def test_a_search_compiles_the_likeliest_and_ranks_all(quick, capsys):
    made = plan(two_layers(batch_size=4 << 15), TOPOLOGY, compiles=3)["search"]
    assert len(quick) >= 3
    compiled = [row for row in made if row["compiled"]]
    assert len(compiled) == 3
    assert made[0]["fits"]
    assert [row["fits"] for row in made] == sorted(
        (row["fits"] for row in made), key=[True, None, False].index
    )
    assert {row["micro_batches"] for row in made} == {1, 16}
    assert {tuple(row["mesh"].values()) for row in made} == {(4, 1, 1), (2, 2, 1), (1, 4, 1)}
    said = capsys.readouterr().out
    assert f"the best of them: {made[0]['changes']}" in said
    assert max(map(len, search_text(made).splitlines())) <= 80


def test_where_no_switch_helps_that_is_said(quick, capsys):
    assert plan(two_layers(batch_size=4 << 23), TOPOLOGY)["switch"] is None
    assert "Take more devices, or a smaller batch" in capsys.readouterr().out
