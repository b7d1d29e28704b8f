"""A save that fails in the middle of a run: said at once, counted, and nothing else."""

import json

import pytest

# The tiny config; the calls below Python that save STEP at one moment of its life fail.
CONFIG = """
import ctypes, errno, os, pathlib, threading
from mmjax.run.config_file import load
from mmjax.run.hooks import RunHooks
from mmjax.training import manifest
from mmjax.training.checkpoint import Checkpoints

STEP, MOMENT, NOTE, TINY = {step}, {moment!r}, pathlib.Path({note!r}), {tiny!r}
FAIL_ONE, FULL = 1, 3  # modes of shim.c
shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
begin, poll, after = manifest.begin, RunHooks.poll, Checkpoints._after
polled, lock = [0], threading.Lock()


def fail_below(folder, mode, n):
    shim.shim_watch(os.fsencode(folder))
    shim.shim_arm(mode, n, errno.ENOSPC)


def begin_armed(parent, step, token):
    if step == STEP and MOMENT == "begin":
        fail_below(parent, FAIL_ONE, 1)  # the folder of the save
    made = begin(parent, step, token)
    if step == STEP and MOMENT == "write":
        fail_below(made, FULL, 10)  # some arrays are written by then
    if step == STEP and MOMENT == "commit":
        fail_below(parent / str(step), FAIL_ONE, 1)  # the last rename
    return made


def poll_noted(self, step):
    with lock:
        polled[0] = step
        poll(self, step)


def after_noted(self, outcome):
    with lock:
        if outcome.step == STEP:
            NOTE.write_text(str(polled[0]))
        after(self, outcome)


manifest.begin, RunHooks.poll, Checkpoints._after = begin_armed, poll_noted, after_noted


def get_config():
    return load(TINY)
"""
FAILING = 12  # of 24 steps


@pytest.mark.parametrize("moment", ["begin", "write", "commit"])
def test_a_save_that_fails_is_said_within_a_step_and_the_run_ends_as_if_undisturbed(
    trainer, lab, undisturbed, shim, tmp_path, moment
):
    note = tmp_path / "note"
    config = tmp_path / "failing.py"
    words = {"step": FAILING, "moment": moment, "note": str(note), "tiny": str(lab.TINY)}
    config.write_text(CONFIG.format(**words))
    paths = (f"--config.data.path={trainer.train}", f"--config.eval_data.path={trainer.val}")
    workdir = tmp_path / "run"
    run = trainer.finish(workdir, *paths, config=config, LD_PRELOAD=str(shim))

    (event,) = [entry for entry in lab.log(workdir, "event") if entry["event"] == "SaveFailed"]
    begun = f"checkpoint {FAILING} could not be saved: "
    assert event["message"].startswith(begun)
    assert "No space left on device" in event["message"]
    assert event["message"] in run.err
    assert "Traceback" not in run.err
    if moment == "begin":  # no thread was begun
        assert event["step"] == FAILING
    else:
        assert event["step"] == int(note.read_text()) + 1  # its end lay between the two steps

    entries = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    position = entries.index(event)
    for number, entry in enumerate(entries):
        if entry["kind"] == "train":
            assert entry["failed_saves"] == (number > position), entry
    saved = [
        entry["saved_step"] for entry in lab.log(workdir, "event") if entry["event"] == "saved"
    ]
    assert saved == [step for step in range(2, 25, 2) if step != FAILING]
    assert lab.losses(workdir) == lab.losses(undisturbed)
    assert lab.steps(workdir) == [22, 24]
    assert {entry.name for entry in (workdir / "checkpoints").iterdir()} == {"22", "24"}
    lab.assert_same(lab.state(workdir), lab.state(undisturbed))
