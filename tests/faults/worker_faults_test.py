"""Worker processes that die, hang or lose their trainer: an error in time, and nothing left."""

import os
import pathlib
import signal
import time

import pytest

WORKERS = 2
# Batches large enough for each word of them to lie in shared memory, and steps without end.
FLAGS = (
    f"--config.reading.workers={WORKERS}",
    "--config.steps=1000000",
    "--config.save_steps=1000000",
    "--config.log_steps=5",
)
STALL = 12.0  # seconds without a batch that end the run


def shared_memory():
    return {path.name for path in pathlib.Path("/dev/shm").iterdir()}


def named_after(run):
    return {name for name in shared_memory() if f"-{run.process.pid}-" in name}


def session(run):
    """{pid: command} of all living processes of a run: they share its session."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or os.getsid(int(entry.name)) != run.process.pid:
                continue
            if (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except (OSError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


def workers(run):
    return sorted(pid for pid, command in session(run).items() if "spawn_main" in command)


def nothing_is_left(run, before, seconds=30.0):
    """Neither processes of a run nor anything in shared memory; what others name as theirs is."""
    deadline = time.monotonic() + seconds
    while True:
        new = shared_memory() - before
        left = {name for name in new if "mmjax-" not in name} | (named_after(run) - before)
        if not session(run) and not left:
            return
        assert time.monotonic() < deadline, (session(run), left)
        time.sleep(0.1)


def assert_no_traceback_of_ours(run):
    """Python's resource tracker, a process of its own, may complain when told of an end twice.

    Grain's worker and its reader both tell it, in an order that nobody decides.
    """
    assert "mmjax/" not in run.err
    assert "train.py" not in run.err


@pytest.fixture
def running(trainer, tmp_path):
    """(a run with two workers under way, what was in shared memory before)."""
    before = shared_memory()
    run = trainer.start(tmp_path, *FLAGS, f"--config.reading.stall_seconds={STALL}")
    run.until_step(10)
    assert len(workers(run)) == WORKERS, session(run)
    assert named_after(run), "batches do not go through shared memory"
    return run, before


@pytest.mark.parametrize("which", [0, 1])
def test_a_worker_that_dies_is_an_error_that_names_it(running, which):
    run, before = running
    os.kill(workers(run)[which], signal.SIGKILL)
    killed = time.monotonic()
    assert run.wait() == 1
    assert time.monotonic() - killed < STALL + 30
    said = run.lines[-1] if run.lines[-1].startswith("error: ") else run.err
    assert "error: worker " in said
    assert f" of {WORKERS} of stream 'main' ended: " in said
    assert "exit code -9" in said
    assert "goes on from the last checkpoint, or begins anew where there is none" in said
    assert_no_traceback_of_ours(run)
    nothing_is_left(run, before)
    assert "leaked" not in run.err  # semaphores: the error stays the last that is said


def test_a_worker_that_hangs_is_an_error_within_the_limit(running):
    run, before = running
    os.kill(workers(run)[0], signal.SIGSTOP)
    stopped = time.monotonic()
    assert run.wait() == 1
    took = time.monotonic() - stopped
    assert STALL * 0.9 < took < STALL + 30
    (line,) = [line for line in run.lines if line.startswith("error: ")]
    assert f"no batch for {STALL:.0f} s: worker " in line
    assert f" of {WORKERS} of stream 'main' is stuck." in line
    assert "--config.reading.stall_seconds" in line
    assert_no_traceback_of_ours(run)
    nothing_is_left(run, before)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_trainer_killed_leaves_neither_orphans_nor_shared_memory(
    running, trainer, tmp_path, stopped
):
    run, before = running
    if stopped:  # a worker that cannot notice by itself that its trainer is gone
        os.kill(workers(run)[1], signal.SIGSTOP)
        time.sleep(0.5)
    os.kill(run.process.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    nothing_is_left(run, before | named_after(run))
    # What a worker had made and told nobody of, when it died, goes at the next start.
    trainer.finish(tmp_path / "next", "--config.steps=3", f"--config.reading.workers={WORKERS}")
    nothing_is_left(run, before)


def test_even_where_all_of_its_processes_are_killed_nothing_stays_for_long(
    running, trainer, tmp_path
):
    run, before = running
    os.killpg(run.process.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    nothing_is_left(run, before | named_after(run))
    trainer.finish(tmp_path / "next", "--config.steps=3", f"--config.reading.workers={WORKERS}")
    nothing_is_left(run, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_at_once_is_a_graceful_stop(running, lab, tmp_path, number):
    run, before = running  # as Ctrl-C at a terminal does, and the end of a job
    os.killpg(run.process.pid, number)
    asked = time.monotonic()
    assert run.wait() == 128 + number
    assert time.monotonic() - asked < 25
    said = f"stopped at step {lab.steps(tmp_path)[-1]}; the same command goes on from there."
    assert said in run.lines  # the resource tracker may speak after it
    assert_no_traceback_of_ours(run)
    nothing_is_left(run, before)


def test_a_run_that_ends_well_leaves_nothing(trainer, lab, undisturbed, tmp_path):
    before = shared_memory()
    run = trainer.finish(tmp_path, f"--config.reading.workers={WORKERS}")
    nothing_is_left(run, before)
    lab.assert_same(lab.state(tmp_path), lab.state(undisturbed))
    assert "leaked" not in run.err
