"""A trace is taken of the steps asked for, wherever a run begins and ends."""

import json
import pathlib

import jax
import jax.numpy as jnp
import pytest

from mmjax.run.config_file import load
from mmjax.run.hooks import Profile
from mmjax.run.options import Options
from mmjax.run.training import train

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


@pytest.fixture
def asked(monkeypatch):
    """Each beginning and end of a trace, in order, among the steps taken."""
    events = []
    for name in ("start_trace", "stop_trace"):
        monkeypatch.setattr(
            jax.profiler, name, lambda *_, name=name: events.append(name.removesuffix("_trace"))
        )
    return events


def run(profile, start, steps, events):
    """Takes steps start+1 to `steps` and ends as a run does."""
    step = start

    def take_step():
        nonlocal step
        step += 1
        events.append(step)
        return step

    traced = profile.wrap(take_step, start)
    try:
        for _ in range(start, steps):
            traced()
    finally:
        profile.close()


def test_a_trace_lies_in_the_workdir_afterwards(tmp_path):
    profile = Profile("2:3", tmp_path)
    double = jax.jit(lambda x: 2 * x)
    traced = profile.wrap(double, 0)
    x = jnp.ones(4)
    for _ in range(4):
        x = traced(x)
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1
    profile.close()
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1


def test_a_run_that_ends_before_the_trace_writes_what_there_is(tmp_path):
    profile = Profile("1:9", tmp_path)
    profile.wrap(jax.jit(lambda x: 2 * x), 0)(jnp.ones(4))
    assert not list(tmp_path.rglob("*.xplane.pb"))
    profile.close()
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1


def test_both_steps_named_are_in_the_trace(asked, tmp_path):
    run(Profile("2:4", tmp_path), 0, 6, asked)
    assert asked == [1, "start", 2, 3, 4, "stop", 5, 6]


def test_a_run_that_resumes_inside_begins_its_trace_at_once(asked, tmp_path):
    run(Profile("2:5", tmp_path), 3, 6, asked)
    assert asked == ["start", 4, 5, "stop", 6]


@pytest.mark.parametrize("start", [4, 5, 9])
def test_a_run_that_resumes_at_or_after_the_end_takes_none(asked, tmp_path, start):
    run(Profile("2:5", tmp_path), start, 10, asked)
    assert asked == list(range(start + 1, 11))


def test_a_run_that_ends_inside_closes_its_trace_once(asked, tmp_path):
    profile = Profile("2:5", tmp_path)
    run(profile, 0, 3, asked)
    profile.close()
    assert asked == [1, "start", 2, 3, "stop"]


def test_a_step_that_fails_inside_leaves_no_trace_running(asked, tmp_path):
    def fail():
        raise RuntimeError("no memory")

    profile = Profile("1:5", tmp_path)
    with pytest.raises(RuntimeError, match="no memory"):
        profile.wrap(fail, 0)()
    profile.close()
    assert asked == ["start", "stop"]


def test_a_trace_that_cannot_be_written_is_not_asked_for_again(asked, tmp_path, monkeypatch):
    def full():
        raise OSError("no space left")

    profile = Profile("1:2", tmp_path)
    traced = profile.wrap(lambda: None, 0)
    traced()
    with monkeypatch.context() as patch:
        patch.setattr(jax.profiler, "stop_trace", full)
        with pytest.raises(OSError, match="no space left"):
            traced()
    profile.close()
    assert asked == ["start"]


def test_without_a_wish_the_step_is_left_as_it_is(asked, tmp_path):
    profile = Profile("", tmp_path)
    assert profile.wrap(run, 0) is run
    profile.close()
    assert asked == []
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("text", ["ten", "3", "0:4", "5:5", "6:5", "1:2:3", "-2:4"])
def test_what_is_no_two_steps_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match=f"--profile={text}: give two steps as start:stop"):
        Profile(text, tmp_path)


def test_a_trace_beyond_the_run_is_refused(tmp_path):
    Profile("2:9", tmp_path, steps=2)
    with pytest.raises(ValueError, match="--profile=3:9: the run ends at step 2"):
        Profile("3:9", tmp_path, steps=2)


def test_a_first_step_that_is_saved_has_no_speed(tmp_path):
    """It compiled, and what is said of the time to the end would be of that."""
    config = load(f"{CONFIGS / 'features'}.py:smoke")
    assert config.rhythm.save_steps == 1
    train(config, str(tmp_path), Options())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    speeds = {line["step"]: line.get("step_seconds") for line in lines if line["kind"] == "train"}
    assert speeds[1] is None
    assert speeds[2] < 5
