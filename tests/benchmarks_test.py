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
# Imported by the others, no commands.
LIBRARIES = ("blinded", "card", "cross_modal_config", "ledger", "peer", "sides")


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


def test_same_pixels_counts_in_grey_levels_what_differs(script):
    module = script("same_pixels")
    file = {"size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}

    def processor(images, return_tensors):
        pixels = np.asarray(images.resize((8, 8), 3)).astype(np.float32)
        pixels[0, 0, 0] += 2  # two grey levels of one number of 192
        return {"pixel_values": ((pixels / 255 - 0.5) / 0.25).transpose(2, 0, 1)[None]}

    pictures = list(module.made_up())[:2]
    found = module.difference(file, processor, pictures)
    assert found == {"largest": 2.0, "share_differing": round(1 / 192, 6)}


def test_same_tokens_makes_the_file_that_published_folders_hold(script):
    whole = ROOT / "tests" / "golden" / "whole"
    golden = json.loads((whole / "open_clip" / "tokenizer.json").read_text(encoding="utf-8"))
    pairs = [tuple(pair) for pair in golden["model"]["merges"]]
    module = script("same_tokens")
    made = module.published(pairs)
    for part in ("added_tokens", "normalizer", "post_processor"):
        assert made[part] == golden[part]
    assert made["model"]["vocab"] == golden["model"]["vocab"]
    encode = module.our_encode(pairs)
    texts = json.loads((whole / "open_clip_texts.json").read_text(encoding="utf-8"))
    with np.load(whole / "open_clip.npz") as file:
        for text, wanted in zip(texts, file["input_ids"]):
            numbers, mask = encode(text)
            short = numbers[mask]
            if len(short) < len(wanted):
                np.testing.assert_array_equal(short, wanted[: len(short)])


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


def test_load_weights(cache):
    lines, _ = run(cache, "benchmarks/load_weights.py", "--size", "tiny", "--turns", "1")
    assert [line["form"] for line in lines] == ["published", "workdir"]
    for line in lines:
        assert line["bytes"] == lines[0]["bytes"] > 4 * line["largest_array_bytes"]
        assert line["time_over_copy"]["median"] > 0


def test_encode_goes_through_its_trial(cache):
    options = ["--trial", "--sides", "ours", "--batch", "3", "--turns", "1"]
    (line,), _ = run(cache, "benchmarks/encode.py", *options, "--block-seconds", "0.01")
    for kind in ("image", "text"):
        assert line[kind]["ours"]["per_second"] > 0


def test_fusion_goes_through_its_trial(cache):
    options = ["--trial", "--sides", "ours", "--models", "visualbert", "--turns", "1"]
    (line,), _ = run(cache, "benchmarks/fusion.py", *options, "--block-seconds", "0.01")
    assert line["model"] == "visualbert"
    assert line["ours"]["examples_per_second"] > 0


def test_step_gpu_goes_through_its_trial(cache, tmp_path):
    options = ["--sides", "ours", "--smallest", "8", "--largest", "16", "--turns", "1"]
    options += ["--device=cpu", "--trial", f"--profile={tmp_path}"]
    (card, fits, beyond, profile), _ = run(cache, "benchmarks/step_gpu.py", *options)
    assert card["measured_flops_per_second"] > 0
    assert fits["batch"] == 8
    assert fits["ours"]["images_per_second"]["median"] > 0
    assert fits["ours"]["mfu_measured"] > 0
    assert "up to 8" in beyond["ours"]["out_of_memory"]
    assert pathlib.Path(profile["file"]).exists()
    assert profile["longest"]


def test_step_gpu_measures_apart_what_does_not_fit_together(script, monkeypatch):
    module, alive = script("step_gpu"), set()

    class Large:
        """A side that has the memory for itself or none; the peer fits nowhere from 128 on."""

        first, peak = 1.0, 7

        def __init__(self, side: str, model: str, batch: int):
            if alive or (side == "open_clip" and batch >= 128):
                raise module.OutOfMemory("no room")
            alive.add(self)

        def seconds(self, steps: int) -> float:
            assert alive == {self}
            return float(steps)

        def close(self) -> None:
            alive.remove(self)

    options = {"device": "cpu", "trial": True, "compile": True, "profile": "", "turns": 3}
    sides = {"sides": ["ours", "open_clip"], "block_seconds": 2.0}
    options |= {"scan": True, "remat": "dots_no_batch"}
    bench = module.Bench(argparse.Namespace(**options, **sides))
    bench.measured = 1e9
    monkeypatch.setattr(bench, "side", Large)
    monkeypatch.setattr(module, "useful_flops", lambda size, batch: 1e6 * batch)
    line, fits = bench.measure("tiny", 64)
    assert fits
    assert not line["together"]
    assert line["ours"]["images_per_second"]["median"] == 64
    assert line["ours"]["peak_bytes"] == 7
    assert line["ours"]["mfu_measured"] == 0.064
    assert line["ours_over_open_clip"] == {"median": 1, "lowest": 1, "highest": 1}
    line, fits = bench.measure("tiny", 128)
    assert fits
    assert line["open_clip"] == {"out_of_memory": "no room"}
    assert "ours_over_open_clip" not in line
    assert not alive


def test_step_gpu_says_in_one_line_that_there_is_no_gpu(cache):
    lines, said = run(cache, "benchmarks/step_gpu.py", code=2)
    assert lines == []
    assert len(said.splitlines()) == 1
    assert "GPU" in said or "gpu" in said


def life(ledger, begun, first, last, kill="", saves=(), evaluations=(), said=()):
    """A process that starts at `begun`, takes 10 s to its first step and 1 s for each."""
    extra, shown = 0.0, []
    looked_at = {*saves, *evaluations} | (set() if kill else {last})
    for number in range(first, last + 1):
        # A line comes when the next step has ended, or at once where something follows the step.
        ended = number - first + (1 if number in looked_at else 2)
        shown.append((begun + 10.0 + ended + extra, f"step {number}/30"))
        extra += 0.5 * (number in saves) + 2.0 * (number in evaluations)
    out = [(begun + 3, "{"), *said]
    err = [(begun + 7, "Finished XLA compilation of jit(_step) in 3.0 sec"), *shown]
    metrics = [{"kind": "event", "event": "saved", "saved_step": s, "step": s + 1} for s in saves]
    metrics += [{"kind": "evaluate", "step": s, "evaluation_seconds": 2.0} for s in evaluations]
    return ledger.Life(begun, 0.0, out, err, metrics, kill)


def test_goodput_accounts_for_all_time(script):
    ledger = script("ledger")
    first = life(ledger, 0.0, 1, 15, kill="between", saves=(10,))
    first.ended = first.shown[15] + 0.25  # in the 17th step; 11 to 16 are lost
    going = (34.0, "going on from step 10.")
    second = life(ledger, 30.0, 11, 30, saves=(20,), evaluations=(20, 30), said=[going])
    reached = second.shown[30]
    second.out += [(reached + 3.0, "step 30:"), (reached + 3.5, "report: here")]
    second.ended = reached + 4.0
    found = ledger.account([first, second], every=10, last=30)
    assert found["wall_seconds"] == pytest.approx(second.ended, abs=0.1)
    assert sum(found["seconds"].values()) == pytest.approx(second.ended, abs=0.1)
    seconds = found["seconds"]
    assert seconds["steps"] == pytest.approx(30.0)
    assert seconds["redone"] == pytest.approx(6.25)
    assert seconds["startup"] == pytest.approx(20.0)
    assert seconds["evaluation"] == pytest.approx(4.0)
    assert seconds["saves"] == pytest.approx(2.0)  # half a second each, and one for the last
    assert found["starts"] == [
        {"import": 3.0, "compile": 3.0, "restore": 0.0, "other": 4.0},
        {"import": 3.0, "compile": 3.0, "restore": 1.0, "other": 3.0},
    ]
    assert found["goodput"] == pytest.approx(30.0 / second.ended, abs=1e-3)


def test_goodput_refuses_what_it_cannot_run(script, monkeypatch, capsys):
    for options in (["--kills", "start"], ["--save-steps", "2"]):
        monkeypatch.setattr(sys, "argv", ["goodput.py", *options])
        with pytest.raises(SystemExit) as ended:
            script("goodput").main()
        assert ended.value.code == 2
        assert options[0] in capsys.readouterr().err
