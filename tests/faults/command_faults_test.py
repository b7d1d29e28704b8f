"""What is typed wrong: one line that helps, exit 2, before a device starts; and whose workdir."""

import json
import pathlib
import resource
import signal
import subprocess
import sys
import time

import pytest

NO_DEVICE = {"JAX_PLATFORMS": "no_such_platform"}  # the start of a backend would be an error
ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 3.0  # of the processor: the machine may be busy with other things


def refused(run, *words, seconds=60.0):
    """The one line of a run that was refused."""
    assert run.wait(seconds) == 2, run.err
    lines = run.err.splitlines()
    assert len(lines) == 1, run.err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0], run.err
    return lines[0]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.batchsize=8", ["'batchsize'", "Did you mean 'batch_size'?"]),
        ("--config.rhythm.log_step=1", ["'log_step'", "Did you mean 'log_steps'?"]),
        ("--config.steps=many", ["--config.steps=many"]),
        ("--config.steps=1.5", ["--config.steps=1.5"]),
        ("--config.steps=0", ["steps=0", "at least 1"]),
        ("--config.ema=2", ["ema=2", "below 1"]),
        ("--config.data.path=nowhere-*.tar", ["nowhere-*.tar"]),
        ("--config.data.path=gs://bucket/x.tar", ["gs://bucket/x.tar", "mmjax[gcs]"]),
        ("--config.data.transforms[7].size=3", ["3 members, 0 to 2"]),
        ("--config.data.fields.caption_from=text", ["'text'", "jpg, txt"]),
        ("--config.tokenizer.path=none.json", ["tokenizer.path='none.json'"]),
        ("--config.tokenizer.vocab_size=100", ["tokenizer.vocab_size=100", "at least 259"]),
        ("--config.init_from=nowhere", ["init_from='nowhere'"]),
        ("--config.init_from=me/clip", ["init_from='me/clip'", "written hf://me/clip."]),
        ("--config.best_metric=objective/loss", ["Did you mean 'objectives'?"]),
        ("--config.best_metric=ema/objectives/loss", ["'ema/objectives/loss'", "eval_steps=0"]),
        ("--overwite", ["--overwite", "Did you mean '--overwrite'?"]),
        ("--config.steps", ["has no value"]),
    ],
)
def test_a_wrong_word_is_one_line_before_any_device_starts(trainer, tmp_path, flag, words):
    refused(trainer.start(tmp_path / "run", flag, **NO_DEVICE), *words)
    assert not (tmp_path / "run").exists()


def test_a_backend_would_have_been_noticed(trainer, tmp_path):
    run = trainer.start(tmp_path, **NO_DEVICE)
    assert run.wait() == 2
    assert "JAX_PLATFORMS=no_such_platform: JAX found" in run.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config=configs/quickstrat.py", "--workdir=x"], ["quickstart.py"]),
        (["--config=configs/quickstart.py:smok", "--workdir=x"], ["Did you mean 'smoke'?"]),
        (["--config=configs/quickstart.py"], ["--workdir"]),
        (["--config=configs/quickstart.py", "--workdir=x", "--config.typo=1"], ["'typo'"]),
    ],
)
def test_it_takes_three_seconds_at_most(trainer, arguments, words, imports):
    before = children_seconds()
    refused(trainer.command("train.py", *arguments, **NO_DEVICE), *words)
    assert children_seconds() - before < max(SECONDS, 2 * imports)


@pytest.fixture(scope="module")
def imports():
    """Seconds of the processor that the libraries of any config take: what 3 s are here."""
    before = children_seconds()
    subprocess.run([sys.executable, "-c", "import jax, flax.linen, optax"], check=True)
    return children_seconds() - before


def test_a_name_mistyped_is_told_before_any_library_is_loaded(trainer):
    code = (
        "import sys, train; sys.argv[1:] = ['--config=configs/quickstrat.py']\n"
        "try: train.flags.main(train.run)\n"
        "finally: print(sorted({'jax', 'flax', 'optax', 'grain', 'orbax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "quickstart.py" in done.stderr
    assert (done.returncode, done.stdout) == (2, "[]\n")


def children_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.mesh.data=3"], ["mesh 3x1x1", "2 devices", "2x1x1"]),
        (["--config.batch_size=7"], ["batch_size=7", "multiple of 2", "6 or 8"]),
        (["--config.eval_batch_size=5"], ["batch_size=5", "4 or 6"]),
        (["--profile=ten"], ["--profile=ten", "start:stop"]),
        (["--resume", "--overwrite"], ["--resume", "--overwrite", "one of the two"]),
    ],
)
def test_what_does_not_fit_the_devices_is_refused_before_anything_compiles(
    trainer, tmp_path, flags, words
):
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    run = trainer.start(tmp_path / "run", *flags, JAX_LOG_COMPILES="1", **two)
    refused(run, *words)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_another_config_is_refused_with_the_difference(trainer, lab, tmp_path):
    three = "--config.steps=3"
    trainer.finish(tmp_path, three)
    wanted = lab.state(tmp_path)
    line = refused(trainer.start(tmp_path, "--config.steps=5", "--config.ema=0.8"))
    assert "ema: 0.9 → 0.8; " in line
    assert "steps: 3 → 5" in line
    assert "--resume" in line
    assert "--overwrite" in line
    lab.assert_same(lab.state(tmp_path), wanted)
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 3
    same = trainer.finish(tmp_path, three)  # the same command on a run that is done does no harm
    assert "step 3 of 3 already" in same.out
    on = trainer.finish(tmp_path, "--config.steps=5", "--resume")
    assert "config: steps: 3 → 5" in on.out
    assert on.resumed_from() == 3
    assert lab.steps(tmp_path)[-1] == 5
    line = refused(trainer.start(tmp_path, "--config.steps=7", "--config.seed=1", "--resume"))
    assert "seed: 0 → 1" in line
    assert "--restart-data" in line
    anew = trainer.finish(tmp_path, "--config.seed=1", three, "--overwrite")
    assert anew.resumed_from() == 0
    assert lab.steps(tmp_path) == [2, 3]
    assert [entry["step"] for entry in lab.log(tmp_path)] == [1, 2, 3]


def test_of_two_writers_the_second_is_refused_and_the_first_goes_on(trainer, lab, tmp_path):
    many = ("--config.steps=100000", "--config.save_steps=100000")
    first = trainer.start(tmp_path, *many)
    first.until_step(3)
    line = refused(trainer.start(tmp_path, *many))
    assert f"{tmp_path} is being written by process {first.process.pid} on " in line
    line = refused(trainer.start(tmp_path, *many, "--overwrite"))
    assert "is being written by" in line
    step = first.step()
    first.until_step(step + 3)  # unharmed
    held = json.loads((tmp_path / "lock.json").read_text())
    assert held["pid"] == first.process.pid
    first.process.kill()
    assert first.wait() == -signal.SIGKILL
    assert json.loads((tmp_path / "lock.json").read_text()) == held  # a dead one's lock lies there
    started = time.monotonic()
    third = trainer.start(tmp_path, *many)
    third.until_step(2)
    assert json.loads((tmp_path / "lock.json").read_text())["pid"] == third.process.pid
    assert time.monotonic() - started < 60
    third.process.send_signal(signal.SIGTERM)
    assert third.wait() == 128 + signal.SIGTERM
    assert not (tmp_path / "lock.json").exists()


def test_what_is_no_objective_is_one_line_with_its_place(trainer, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from configs.shards import get_config as shards\n"
        "from mmjax.config import spec\n"
        "from mmjax.training.step import Goal\n"
        "class Own:\n    pass\n"
        "def get_config():\n"
        "    config = shards('smoke')\n"
        "    config.goals.own = spec(Goal, objective=spec(Own))\n"
        "    return config\n"
    )
    words = ["goals.own.objective is Own, no Objective", "mmjax/objectives/base.py"]
    refused(trainer.command("train.py", f"--config={file}", "--workdir=x", **NO_DEVICE), *words)
