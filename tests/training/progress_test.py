import io
import itertools
import subprocess
import sys
import textwrap

import pytest

from mmjax.training.progress import Pace, Progress


class Clock:
    """A clock that the test moves."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal, in some encoding."""

    def __init__(self, encoding="utf-8"):
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    def isatty(self):
        return True

    def text(self):
        return self.buffer.getvalue().decode(self.encoding)


def test_the_estimate_leaves_out_compiling_and_evaluating():
    clock = Clock()
    pace = Pace(clock=clock)
    with pace.pause():
        clock.now += 500  # compiling
    for step in range(1, 11):
        clock.now += 2
        if step == 5:
            with pace.pause():
                clock.now += 3000  # evaluating
    assert pace.seconds_left(10, 100) == pytest.approx(180)
    assert pace.interval(10, batch_size=8)["images_per_second"] == pytest.approx(4)


def test_after_a_restart_the_first_step_does_not_count():
    clock = Clock()
    pace = Pace(clock=clock)
    clock.now += 60
    pace.restart(1)
    assert pace.seconds_left(1, 11) is None
    clock.now += 3
    assert pace.seconds_left(2, 12) == pytest.approx(30)


def test_the_estimate_follows_a_change_of_pace():
    clock = Clock()
    pace = Pace(clock=clock)
    step = 0
    for seconds, intervals in ((10, 30), (1, 20)):
        for _ in range(intervals):
            clock.now += seconds
            step += 1
            pace.interval(step, 1)
    assert pace.seconds_left(step, step + 100) == pytest.approx(100)


def test_the_share_of_waiting_for_data_is_that_of_the_interval():
    clock = Clock()
    pace = Pace(step=7, clock=clock)
    for wait, share in ((1.0, 0.25), (3.0, 0.75), (0.0, 0.0)):
        with pace.waiting():
            clock.now += wait
        clock.now += 4 - wait
        step = {1.0: 9, 3.0: 11, 0.0: 13}[wait]
        assert pace.interval(step, batch_size=6) == pytest.approx(
            {"step_seconds": 2.0, "images_per_second": 3.0, "data_wait_fraction": share}
        )


def test_a_pause_within_a_wait_counts_as_neither():
    clock = Clock()
    pace = Pace(clock=clock)
    with pace.waiting():
        clock.now += 1
        with pace.pause():
            clock.now += 100
    clock.now += 1
    found = pace.interval(1, batch_size=1)
    assert (found["step_seconds"], found["data_wait_fraction"]) == pytest.approx((2.0, 0.5))


def test_an_interval_without_steps_or_time_gives_no_numbers():
    clock = Clock()
    pace = Pace(clock=clock)
    assert pace.interval(3, 8) == {}
    clock.now += 1
    assert pace.interval(0, 8) == {}
    assert pace.interval(1, 8)["step_seconds"] == pytest.approx(1)


def test_the_estimate_is_never_negative_whatever_the_clock_does():
    clock = Clock()
    pace = Pace(clock=clock)
    for step, jump in zip(itertools.count(1), (5, -1e9, 3, 1e9, -7, 0, 2)):
        clock.now += jump
        with pace.waiting():
            clock.now -= jump / 2
        left = pace.seconds_left(step, 10)
        assert left is not None
        assert left >= 0
        for value in pace.interval(step, 4).values():
            assert value >= 0
    assert pace.seconds_left(12, 10) == 0  # beyond the end


def test_without_a_terminal_each_interval_is_one_plain_line():
    clock, stream = Clock(), io.StringIO()
    pace = Pace(clock=clock)
    progress = Progress(4000, pace, stream=stream)
    progress.advance(1)
    assert stream.getvalue() == ""
    clock.now += 10
    values = {"loss": 4.85123, "images_per_second": 1234.4, "data_wait_fraction": 0.031, "x": 1.0}
    progress.show(10, values)
    progress.note("evaluating")
    assert stream.getvalue().splitlines() == [
        "step 10/4000  loss 4.8512  1,234 images/s  3% waiting for data  ETA 1:06:30",
        "evaluating",
    ]


def test_before_the_first_step_the_estimate_is_open():
    stream = io.StringIO()
    Progress(10, Pace(clock=Clock()), stream=stream).show(0, {"loss": float("nan")})
    assert stream.getvalue() == "step 0/10  loss nan  ETA -:--:--\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_terminal_gets_a_bar_in_any_encoding(encoding):
    clock, stream = Clock(), Terminal(encoding)
    pace = Pace(clock=clock)
    with Progress(100, pace, stream=stream) as progress:
        clock.now += 10
        progress.advance(10)
        progress.show(10, {"loss": 1.5})
        progress.note("caption [red]héllo ✓")
    text = stream.text()
    assert "10/100" in text
    assert "loss 1.5000" in text
    assert "ETA 0:01:30" in text
    shown = {"utf-8": "héllo ✓", "latin-1": "héllo ?", "ascii": "h?llo ?"}[encoding]
    assert f"caption [red]{shown}" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_a_closed_stream_ends_the_display_and_not_the_run(terminal):
    stream = Terminal()
    progress = Progress(10, Pace(clock=Clock()), stream=stream, terminal=terminal)
    stream.close()
    progress.show(1, {"loss": 1.0})
    progress.advance(2)
    progress.note("on we go")
    progress.close()


def test_a_process_that_is_not_the_first_shows_nothing():
    stream = Terminal()
    with Progress(10, Pace(clock=Clock()), stream=stream, active=False) as progress:
        progress.show(1, {"loss": 1.0})
        progress.advance(2)
        progress.note("nothing")
    assert stream.text() == ""


def test_a_locale_without_utf8_and_without_a_terminal_prints_lines():
    program = """
        from mmjax.training.progress import Pace, Progress
        progress = Progress(10, Pace(), active=True)
        progress.note("\\u2713 \\u56fe")
        progress.show(5, {"loss": 1.0})
    """
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", textwrap.dedent(program)],
        capture_output=True,
        env={"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.decode("ascii").splitlines()[0] == "? ?"
    assert done.stderr.decode("ascii").splitlines()[1].startswith("step 5/10  loss 1.0000")
