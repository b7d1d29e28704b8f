"""The benchmarks go on working: they are imported, their commands parse, and the small ones run.

Nothing here needs torch or open_clip, which are the benchmarks' own extra.
"""

import argparse
import importlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
from types import ModuleType

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
LIBRARIES = ("peer", "sides")  # imported by the others, no commands


class Parsed(Exception):
    """A script's options were understood."""


@pytest.fixture
def script(monkeypatch):
    """Imports a benchmark by its name."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in NAMES:
        sys.modules.pop(name, None)


def commands() -> list[str]:
    """Every `python benchmarks/...` of the scripts' docstrings and of the documents."""
    texts = [path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py")]
    documents = [FOLDER / "README.md", ROOT / "docs" / "benchmarks.md", ROOT / "README.md"]
    texts += [path.read_text(encoding="utf-8") for path in documents]
    found = {
        line.strip()
        for text in texts
        for line in re.findall(r"python (benchmarks/\w+\.py[^#`\n]*)", text)
    }
    return sorted(found)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_imported_without_the_peer(name, script, monkeypatch):
    for missing in ("torch", "open_clip"):
        monkeypatch.setitem(sys.modules, missing, None)  # importing it fails
    module = script(name)
    assert module.__doc__
    assert hasattr(module, "main") == (name not in LIBRARIES)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LIBRARIES])
def test_its_help_is_shown(name, script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        script(name).main()
    assert ended.value.code == 0
    assert script(name).__doc__.splitlines()[0] in " ".join(capsys.readouterr().out.split())
    assert any(command.startswith(f"benchmarks/{name}.py") for command in commands())


@pytest.mark.parametrize("command", commands())
def test_the_commands_that_are_written_down_parse(command, script, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def parse_alone(*arguments: object) -> None:
        parse(*arguments)
        raise Parsed

    path, *options = shlex.split(command)
    assert (ROOT / path).exists()
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_alone)
    monkeypatch.setattr(sys, "argv", [path, *options])
    with pytest.raises(Parsed):
        script(pathlib.Path(path).stem).main()


def tiny(peer: ModuleType, **fields: int) -> object:
    sizes = {"image_size": 32, "patch_size": 16, "image_width": 64, "text_width": 64, "depth": 1}
    words = {"length": 8, "embed_dim": 32, "vocab_size": 64, "eos_id": 63}
    return peer.Size(**sizes | words | fields)


def test_our_recipe_has_the_numbers_of_the_peer(script):
    peer, sides = script("peer"), script("sides")
    compiled = sides.our_compiled(tiny(peer), 4, "float32")
    optimizer = compiled.recipe.optimizer
    assert (optimizer.b1, optimizer.b2, optimizer.eps) == (*peer.BETAS, peer.EPSILON)
    assert optimizer.weight_decay == peer.WEIGHT_DECAY
    state, metrics = jax.eval_shape(
        compiled.step, compiled.state, compiled.batches, compiled.stop
    )  # the whole step, traced; it runs in step_gpu.py's trial
    assert jax.tree.structure(state) == jax.tree.structure(compiled.state)
    assert metrics["loss"].shape == ()


def test_the_text_tower_has_a_depth_of_its_own(script):
    peer, sides = script("peer"), script("sides")
    one, other = (sides.our_compiled(tiny(peer, text_depth=n), 4, "bfloat16") for n in (0, 2))
    assert one.flops < other.flops


def test_every_side_gets_the_same_batches(script):
    peer, sides = script("peer"), script("sides")
    size = tiny(peer)
    for one, other in zip(sides.made_up(size, 4, 2), sides.made_up(size, 4, 2)):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
        assert ((one[1] == size.eos_id).sum(1) == 1).all()


def test_what_ends_memory_is_known(script):
    sides = script("sides")
    assert sides.is_out_of_memory(MemoryError())
    assert sides.is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory"))
    assert not sides.is_out_of_memory(ValueError("a shape"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Where the scripts keep compiled programs: not in the cache of whoever tests."""
    return tmp_path_factory.mktemp("cache")


# Compiled in two thirds of the time; how fast it then is does not matter here.
FLAGS = "--xla_backend_optimization_level=0"


def run(cache: pathlib.Path, *command: str, code: int = 0) -> tuple[list[dict], str]:
    """The JSON lines of a script, and what it says beside them."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS, "MMJAX_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_input(cache):
    (line,), _ = run(cache, "benchmarks/input.py", "--samples", "200", "--sizes", "500x375")
    assert line["samples"] == 200
    assert line["pipeline_over_bare"] > 0
