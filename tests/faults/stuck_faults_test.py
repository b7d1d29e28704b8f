"""A process that is stuck, killed or stopped: the job ends in time and says where and who."""

import re
import signal
import time

import pytest

# The tiny config; one process sleeps in its main thread when it comes to a moment.
CONFIG = """
import os, time
import jax
from mmjax.run.config_file import load
from mmjax.run.evaluating import Evaluation
from mmjax.run.hooks import RunHooks
from mmjax.training.checkpoint import Checkpoints

MOMENT, PROCESS, TINY = {moment!r}, {process}, {tiny!r}
STEP = 6
where, name = {{
    "step": (RunHooks, "poll"),
    "evaluation": (Evaluation, "__call__"),
    "save": (Checkpoints, "save"),
}}[MOMENT]
usual = getattr(where, name)


def sleepy(self, *arguments, **more):
    if jax.process_index() == PROCESS and (MOMENT == "evaluation" or arguments[0] == STEP):
        sleep_here(600)
    return usual(self, *arguments, **more)


def sleep_here(seconds):
    time.sleep(seconds)


setattr(where, name, sleepy)


def get_config():
    return load(TINY)
"""
LONG = "--config.steps=1000000"
HEARTBEAT = 6.0


@pytest.fixture
def sleeping(trainer, lab, tmp_path):
    """Starts runs one of whose processes sleeps; answers when it is about to."""

    def start(moment, process, processes, *flags):
        config = tmp_path / "sleeping.py"
        config.write_text(CONFIG.format(tiny=str(lab.TINY), moment=moment, process=process))
        paths = (f"--config.data.path={trainer.train}", f"--config.eval_data.path={trainer.val}")
        begin = trainer.pair if processes == 2 else lambda *a, **k: [trainer.start(*a, **k)]
        return begin(tmp_path / "run", *paths, *flags, config=config)

    return start


def named(run, process):
    """How a run's process is called in messages."""
    return rf"process {process} of 2 \([^ ]+, pid {run.process.pid}\)"


def until_said(run, pattern, seconds=30.0):
    """Waits for words of a run, or of the witness that outlives it by a moment."""
    deadline = time.monotonic() + seconds
    while not (found := re.search(pattern, run.err)):
        assert time.monotonic() < deadline, f"{pattern!r} not in:\n{run.err[-3000:]}"
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("guilty", [0, 1])
def test_a_stuck_process_ends_the_job_and_every_process_says_where_it_was(sleeping, guilty):
    limit = 10.0
    runs = sleeping("step", guilty, 2, f"--config.watchdog.step_seconds={limit}")
    runs[0].until_step(5)
    asleep = time.monotonic()
    statuses = [run.wait(90) for run in runs]
    assert time.monotonic() - asleep < limit + 30
    assert statuses[guilty] == 1
    assert 0 not in statuses
    one, other = runs[guilty], runs[1 - guilty]
    until_said(one, rf"error: {named(one, guilty)} is stuck: step 6 has not ended within 10 s\.")
    until_said(one, r"does not wait for any device, so others wait for this process \(File \S+slee")
    assert "in sleep_here" in one.err
    assert one.err.count("most recent call first") >= 3  # all threads
    # The other has ended by its own watchdog, or because the guilty one had gone before.
    waits = "waits for the devices, and so perhaps for another process"
    gone = rf"since {named(one, guilty)} (is gone|failed)"
    until_said(other, rf"({waits}|{gone})")
    assert "Traceback" in other.err or "most recent call first" in other.err


def test_one_process_alone_is_ended_as_well(sleeping):
    (run,) = sleeping("save", 0, 1, "--config.watchdog.save_seconds=4.0")
    assert run.wait(120) == 1
    said = until_said(run, rf"error: the run \([^ ]+, pid {run.process.pid}\) is stuck: (.*)")[1]
    assert said.startswith("the save at step 6 has not ended within 4 s.")
    assert "in sleep_here" in run.err


def test_a_compile_that_is_slow_but_legal_is_not_ended(trainer, lab, tmp_path):
    config = tmp_path / "slow.py"
    config.write_text(
        "import time\n"
        "from mmjax.run.config_file import load\n"
        "from mmjax.training import compiled\n"
        "usual = compiled.train_step\n"
        "def slow(*arguments):\n"
        "    time.sleep(8)\n"
        "    return usual(*arguments)\n"
        "compiled.train_step = slow\n"
        "def get_config():\n"
        f"    return load({str(lab.TINY)!r})\n"
    )
    paths = (f"--config.data.path={trainer.train}", f"--config.eval_data.path={trainer.val}")
    flags = ("--config.watchdog.step_seconds=6.0", "--config.steps=4")
    run = trainer.finish(tmp_path / "run", *paths, *flags, config=config)
    assert "stuck" not in run.err


@pytest.mark.parametrize(
    ("number", "victim"),
    [
        (signal.SIGKILL, 0),
        (signal.SIGKILL, 1),
        (signal.SIGSTOP, 0),
        (signal.SIGSTOP, 1),
    ],
)
def test_a_peer_that_is_gone_ends_the_other_which_says_who_it_was(
    trainer, lab, tmp_path, number, victim
):
    flags = (LONG, f"--config.watchdog.heartbeat_seconds={HEARTBEAT}")
    runs = trainer.pair(tmp_path, *flags)
    runs[0].until_step(5)
    gone, left = runs[victim], runs[1 - victim]
    gone.process.send_signal(number)
    asked = time.monotonic()
    assert left.wait(90) != 0
    assert time.monotonic() - asked < HEARTBEAT + 30
    until_said(left, rf"error: .*since {named(gone, victim)} is gone")
    last = [line for line in left.lines if line.startswith("error: ")][-1]
    assert "goes on from the last checkpoint" in last
    gone.process.send_signal(signal.SIGKILL)
    gone.wait()
    assert lab.steps(tmp_path)[-1] >= 2
    lab.state(tmp_path)  # it is whole


def test_a_process_that_fails_by_itself_is_named_to_the_others(trainer, lab, tmp_path):
    config = tmp_path / "failing.py"
    config.write_text(
        "import jax\n"
        "from mmjax.run.config_file import load\n"
        "from mmjax.run.hooks import RunHooks\n"
        "usual = RunHooks.poll\n"
        "def poll(self, step):\n"
        "    if step == 6 and jax.process_index() == 1:\n"
        "        raise KeyError('no such picture')\n"
        "    usual(self, step)\n"
        "RunHooks.poll = poll\n"
        "def get_config():\n"
        f"    return load({str(lab.TINY)!r})\n"
    )
    paths = (f"--config.data.path={trainer.train}", f"--config.eval_data.path={trainer.val}")
    runs = trainer.pair(tmp_path / "run", *paths, LONG, config=config)
    assert [run.wait(90) for run in runs] == [1, 1]
    assert "KeyError: 'no such picture'" in runs[1].lines[-1]
    until_said(runs[0], rf"since {named(runs[1], 1)} failed \(KeyError: 'no such picture'\)")
