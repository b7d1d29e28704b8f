"""A signal where steps take seconds, or amid an evaluation: heard at once, saved, left in time."""

import pathlib
import signal
import time

import pytest

WITHIN = 25.0  # seconds from the signal to the exit

# The tiny config. In `step` each step waits on the device; in `evaluation` each batch of one waits.
CONFIG = """
import dataclasses, pathlib, time
import jax, numpy as np
from ml_collections import ConfigDict
from mmjax.config import spec
from mmjax.run.config_file import load
from mmjax.objectives.contrastive import Contrastive
from mmjax.run.evaluating import Evaluation
from mmjax.training.step import Goal

WHERE, SECONDS, NOTE, TINY = {where!r}, {seconds}, pathlib.Path({note!r}), {tiny!r}
fetch = Evaluation._fetch


def wait(x):
    time.sleep(SECONDS)
    return np.asarray(x)


def slow_fetch(self, known):
    with NOTE.open("a") as note:
        note.write("batch ")
    time.sleep(SECONDS)
    return fetch(self, known)


@dataclasses.dataclass(frozen=True)
class Slow(Contrastive):
    def compare(self, embeddings, scalars, state):
        loss = super().compare(embeddings, scalars, state)
        like = jax.ShapeDtypeStruct((), loss.count.dtype)
        return dataclasses.replace(loss, count=jax.pure_callback(wait, like, loss.count))


if WHERE == "evaluation":
    Evaluation._fetch = slow_fetch


def get_config():
    config = load(TINY)
    if WHERE == "step":
        with config.unlocked():
            config.goals = ConfigDict()
            config.goals.slow = spec(Goal, objective=spec(Slow))
    return config
"""


@pytest.fixture
def slow(trainer, lab, tmp_path):
    """Starts runs of one process or two that are slow somewhere."""

    def start(where, seconds, processes, *flags):
        config = tmp_path / "slow.py"
        words = {"where": where, "seconds": seconds, "note": str(tmp_path / "note")}
        config.write_text(CONFIG.format(tiny=str(lab.TINY), **words))
        paths = (f"--config.data.path={trainer.train}", f"--config.eval_data.path={trainer.train}")
        how = {"config": config}
        if processes == 2:
            return trainer.pair(tmp_path / "run", *paths, *flags, **how)
        return [trainer.start(tmp_path / "run", *paths, *flags, **how)]

    return start


def batches(note: pathlib.Path) -> int:
    return note.read_text().count("batch") if note.exists() else 0


@pytest.mark.parametrize(("processes", "most"), [(1, 1), (2, 2)])
def test_of_long_steps_few_are_taken_after_the_signal(slow, lab, tmp_path, processes, most):
    runs = slow("step", 1.5, processes, "--config.steps=200", "--config.save_steps=1000")
    runs[0].until_step(6)
    shown = runs[0].step()
    time.sleep(0.5)  # amid the next
    asked = time.monotonic()
    runs[-1].process.send_signal(signal.SIGTERM)
    assert [run.wait(60) for run in runs] == [128 + signal.SIGTERM] * processes
    assert time.monotonic() - asked < WITHIN
    (saved,) = lab.steps(tmp_path / "run")
    # The lines come a step late where steps are short; here the step after the one shown runs.
    assert shown < saved <= shown + 1 + most
    assert f"stopped at step {saved};" in runs[0].lines[-1]


def test_an_evaluation_ends_early_on_both_and_the_state_is_saved(slow, lab, tmp_path):
    flags = ("--config.eval_steps=4", "--config.save_steps=1000")
    runs = slow("evaluation", 0.7, 2, *flags)  # 16 batches
    runs[0].until(lambda: batches(tmp_path / "note") >= 2)
    asked = time.monotonic()
    runs[1].process.send_signal(signal.SIGTERM)
    assert [run.wait(60) for run in runs] == [128 + signal.SIGTERM] * 2
    assert time.monotonic() - asked < WITHIN
    assert batches(tmp_path / "note") < 20  # of 32, both processes' together
    assert lab.steps(tmp_path / "run") == [4]
    assert lab.log(tmp_path / "run", "evaluate") == []
    assert runs[0].lines[-1] == "stopped at step 4; the same command goes on from there."


def test_a_last_evaluation_that_is_cut_short_is_no_good_end(slow, lab, tmp_path):
    (run,) = slow("evaluation", 0.7, 1, "--config.steps=4")
    run.until(lambda: batches(tmp_path / "note") >= 1)
    run.process.send_signal(signal.SIGINT)
    assert run.wait(60) == 128 + signal.SIGINT
    assert lab.steps(tmp_path / "run")[-1] == 4
    assert "stopped at step 4; all steps are made; eval.py makes the last" in run.lines[-1]
