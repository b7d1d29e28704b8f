"""A process that is stuck in any part of a run is ended with its stacks, whoever holds the GIL."""

import subprocess
import sys

import pytest

# Each part begins, and the main thread never comes back from it.
STUCK = """
import ctypes, sys, threading, time
from mmjax.parallel.limits import Watchdog
from mmjax.parallel.watchdog import Watch

part, how, seconds = sys.argv[1], sys.argv[2], 0.4
threading.Thread(target=time.sleep, args=(600,), name="bystander", daemon=True).start()


def sleep_here():
    if how == "in C":
        ctypes.PyDLL(None).usleep(600_000_000)  # holds the GIL
    elif how == "in Python":
        while True:
            pass
    elif how == "not":
        return
    time.sleep(600)


with Watch(Watchdog(**{f"{part}_seconds": seconds})) as watch:
    if part == "compile":
        watch.compiling("the first step")
        sleep_here()
    if part == "step":
        for step in range(50):
            watch.stepping(step)
            time.sleep(0.02)  # longer than the limit in all, but not one by one
        sleep_here()
    if part == "evaluation":
        with watch.evaluating(7):
            sleep_here()
    if part == "save":
        with watch.saving(7):
            sleep_here()
        time.sleep(2 * seconds)  # after it the limit of a save is over
time.sleep(seconds)
print("done")
"""


def run(part, how):
    return subprocess.run(
        [sys.executable, "-c", STUCK, part, how], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("part", "how", "what"),
    [
        ("compile", "asleep", "the first step"),
        ("step", "in Python", "step 49"),
        ("step", "in C", "step 49"),
        ("evaluation", "asleep", "the evaluation at step 7"),
        ("save", "asleep", "the save at step 7"),
    ],
)
def test_each_part_has_a_limit_of_its_own(part, how, what):
    ended = run(part, how)
    assert ended.returncode == 1
    assert ended.stdout == ""
    said = f"is stuck: {what} has not ended within 0.4 s. Its main thread does not wait for any"
    assert said in ended.stderr
    assert f"raise --config.watchdog.{part}_seconds" in ended.stderr
    assert "in sleep_here" in ended.stderr
    assert ended.stderr.count("most recent call first") >= 2  # the bystander's too


@pytest.mark.parametrize("part", ["compile", "step", "evaluation", "save"])
def test_what_ends_in_time_is_left_in_peace_and_nothing_is_said(part):
    ended = run(part, "not")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")
