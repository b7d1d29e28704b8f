"""SIGTERM and Ctrl-C: the step is finished, the state saved, and nothing is lost."""

import signal
import time

import pytest

WITHIN = 25.0  # seconds from the signal to the exit
MANY = ("--config.steps=3000", "--config.save_steps=1000")


def ends_saved(run, lab, workdir, number, asked):
    """The exit status, the time, the words, and a checkpoint of the very step it stopped at."""
    assert run.wait() == 128 + number
    assert time.monotonic() - asked < WITHIN
    assert "Traceback" not in run.err
    last = run.lines[-1]
    assert last.startswith("stopped at step ")
    stopped = int(last.split()[3].rstrip(";"))
    assert lab.steps(workdir)[-1] == stopped
    assert stopped >= run.step() > 0
    return stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_process_saves_and_goes_on_to_the_same_end(trainer, lab, undisturbed, tmp_path, number):
    run = trainer.start(tmp_path)
    run.until_step(5)
    run.process.send_signal(number)
    asked = time.monotonic()
    stopped = ends_saved(run, lab, tmp_path, number, asked)
    assert 5 < stopped < 24
    assert f"{number.name}: finishing this step, saving, then leaving." in run.err
    assert not (tmp_path / "lock.json").exists()
    told = f"Ended<ul><li>{run.lines[-1]}"
    assert told in (tmp_path / "report.html").read_text()
    again = trainer.finish(tmp_path)
    assert again.resumed_from() == stopped
    assert "Ended<ul>" not in (tmp_path / "report.html").read_text()
    lab.assert_same(lab.state(tmp_path), lab.state(undisturbed))
    made, wanted = lab.losses(tmp_path), lab.losses(undisturbed)
    assert made == wanted  # no step was lost, none was made twice


def test_a_second_signal_during_the_save_cuts_nothing_short(trainer, lab, tmp_path):
    run = trainer.start(tmp_path, *MANY)
    run.until_step(5)
    asked = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    sent = 0
    while run.going and time.monotonic() - asked < WITHIN:  # all through step, save and exit
        run.process.send_signal(signal.SIGTERM if sent % 2 else signal.SIGINT)
        sent += 1
        time.sleep(0.02)
    assert sent > 3
    assert "still saving" in run.err
    stopped = ends_saved(run, lab, tmp_path, signal.SIGINT, asked)
    assert lab.state(tmp_path)["folder"] == stopped
    again = trainer.start(tmp_path, *MANY)
    again.until_step(stopped + 1)
    again.process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    ends_saved(again, lab, tmp_path, signal.SIGTERM, asked)
    assert again.resumed_from() == stopped


@pytest.mark.parametrize("stopped", [True, False])
def test_a_last_save_that_fails_is_no_good_end(trainer, lab, tmp_path, stopped):
    flags = ("--config.steps=200000",) if stopped else ("--config.steps=300",)
    run = trainer.start(tmp_path, *flags, "--config.save_steps=100000")
    run.until_step(3)
    (tmp_path / "checkpoints").write_text("a file where the folder would be made")
    if stopped:
        run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 1
    last = run.lines[-1]
    assert last.startswith("error: step ")
    assert "could not be saved" in last
    assert "Traceback" not in run.err
    (tmp_path / "checkpoints").unlink()
    again = trainer.finish(tmp_path, "--config.steps=4", "--resume")
    assert again.resumed_from() == 0
    assert lab.steps(tmp_path)[-1] == 4


PAIR = ("--config.steps=120", "--config.save_steps=1000")


@pytest.fixture(scope="module")
def whole_pair(trainer, lab, tmp_path_factory):
    """The last state of a run of two processes that nothing happened to."""
    workdir = tmp_path_factory.mktemp("pair") / "run"
    runs = trainer.pair(workdir, *PAIR)
    assert [run.wait() for run in runs] == [0, 0], [run.err for run in runs]
    return lab.state(workdir, 120)


@pytest.mark.parametrize("which", [0, 1])
def test_of_two_processes_one_signal_stops_both_at_the_same_step(
    trainer, lab, whole_pair, tmp_path, which
):
    runs = trainer.pair(tmp_path, *PAIR)
    runs[0].until_step(5)
    runs[which].process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    assert [run.wait() for run in runs] == [128 + signal.SIGTERM] * 2, [run.err for run in runs]
    assert time.monotonic() - asked < WITHIN
    last = {run.lines[-1] for run in runs}
    (stopped,) = lab.steps(tmp_path)
    assert last == {f"stopped at step {stopped}; the same command goes on from there."}
    assert 5 < stopped < 120
    assert ["SIGTERM: finishing" in run.err for run in runs] == [which == 0, which == 1]
    again = trainer.pair(tmp_path, *PAIR)
    assert [run.wait() for run in again] == [0, 0], [run.err for run in again]
    assert again[0].resumed_from() == stopped
    lab.assert_same(lab.state(tmp_path, 120), whole_pair)


def test_two_processes_that_get_ctrl_c_twice_each_save_and_go_on(
    trainer, lab, whole_pair, tmp_path
):
    runs = trainer.pair(tmp_path, *PAIR)
    runs[0].until_step(5)
    for _ in range(2):  # as a terminal does: to all of a group at once
        for run in runs:
            run.process.send_signal(signal.SIGINT)
        for run in runs:  # two that come together would be one
            run.until(lambda run=run: "SIGINT: finishing" in run.err)
    asked = time.monotonic()
    stopped = ends_saved(runs[0], lab, tmp_path, signal.SIGINT, asked)
    assert runs[1].wait() == 128 + signal.SIGINT
    assert runs[1].lines[-1] == runs[0].lines[-1]
    assert all("SIGINT: still saving" in run.err for run in runs), [run.err for run in runs]
    assert lab.steps(tmp_path) == [stopped]
    assert stopped < 120
    again = trainer.pair(tmp_path, *PAIR)
    assert [run.wait() for run in again] == [0, 0], [run.err for run in again]
    assert again[0].resumed_from() == stopped
    lab.assert_same(lab.state(tmp_path, 120), whole_pair)
