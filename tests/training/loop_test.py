"""What the loop decides: reading late, evaluating, saving and stopping."""

import numpy as np
import pytest

from mmjax.data.sources.base import CAUSES
from mmjax.training.failing import Failed, Replaced
from mmjax.training.loop import REPLACED, Rhythm, bad_sample_table, train
from mmjax.training.state import State, add_samples, new_counters, samples_seen


class Recorder:
    """Hooks that write down what was asked of them.

    Args:
      asked: the step in which a process that is alone gets a signal.
      at_once: whether each step is looked at before the next.
      cut: the step at which an evaluation is cut short.
    """

    def __init__(self, asked=None, at_once=False, cut=None):
        self.calls, self.asked, self.slow, self.cut, self.step = [], asked, at_once, cut, 0
        self.breaks = False

    def log(self, step, metrics):
        self.calls.append(("log", step))

    def evaluate(self, step, state):
        self.calls.append(("evaluate", step))
        if self.breaks:
            raise ValueError("no label")
        return None if step == self.cut else {"score": float(step)}

    def save(self, step, state, metrics):
        self.calls.append(("save", step, metrics))

    def poll(self, step):
        self.calls.append(("poll", step))

    def stop_word(self):
        self.step += 1
        return np.zeros(1, np.int32)

    def stopping(self):
        return self.asked is not None and self.step >= self.asked

    def at_once(self, step):
        return self.slow

    def of(self, kind):
        return [call[1:] if len(call) > 2 else call[1] for call in self.calls if call[0] == kind]


def state():
    return State(np.int32(0), {}, {}, {}, {}, {}, new_counters())


def metrics(step, bad=0, skipped=0, stop=0, samples=None):
    counts = np.zeros(len(CAUSES), np.int32)
    counts[CAUSES.index("decode")] = bad
    return {
        "loss": np.float32(step),
        "counters/samples": np.array([0, 8 * step if samples is None else samples], np.int32),
        "counters/bad_samples": counts,
        "counters/skipped": np.int32(skipped),
        "counters/skipped_in_a_row": np.int32(skipped),
        "stop": np.int32(stop),
    }


def run(steps, rhythm=None, start=0, made=metrics, hooks=None):
    hooks, taken = hooks or Recorder(), []

    def take_step(before, batch, stop):
        taken.append(batch)
        return before, made(start + len(taken))

    rhythm = rhythm or Rhythm(log_steps=2, save_steps=4)
    try:
        _, last = train(state(), take_step, iter(range(100)), start, steps, rhythm, hooks)
    except Failed as error:
        return hooks, len(taken), error
    return hooks, len(taken), last


def test_each_batch_is_taken_once_and_the_end_is_evaluated_and_saved():
    hooks, taken, last = run(10)
    assert (taken, last) == (10, 10)
    assert hooks.of("save") == [(4, None), (8, None), (10, {"score": 10.0})]
    assert hooks.of("evaluate") == [10]
    assert hooks.of("log") == [1, 2, 4, 6, 8, 10]


def test_metrics_are_read_a_step_late():
    hooks, _, _ = run(3, Rhythm(log_steps=1, save_steps=100))
    order = [call[:2] for call in hooks.calls if call[0] in ("log", "poll")]
    assert order == [("poll", 1), ("log", 1), ("poll", 2), ("log", 2), ("poll", 3), ("log", 3)]


def test_a_checkpoint_carries_the_metrics_of_that_very_step():
    hooks, _, _ = run(9, Rhythm(log_steps=5, save_steps=3, eval_steps=6))
    assert hooks.of("save") == [(3, None), (6, {"score": 6.0}), (9, {"score": 9.0})]


def test_a_resumed_run_takes_only_the_steps_left():
    hooks, taken, last = run(10, start=8)
    assert (taken, last) == (2, 10)
    assert hooks.of("log")[-1] == 10


def test_a_finished_run_does_nothing():
    hooks, taken, last = run(8, start=8)
    assert (taken, last, hooks.calls) == (0, 8, [])


def test_a_request_to_stop_ends_after_the_next_step_with_a_save():
    hooks, taken, last = run(50, made=lambda step: metrics(step, stop=int(step >= 3)))
    assert (taken, last) == (4, 4)
    assert hooks.of("save") == [(4, None)]
    assert hooks.of("evaluate") == []


def test_of_long_steps_none_is_taken_after_the_one_that_brought_the_request():
    stopped = {"made": lambda step: metrics(step, stop=int(step >= 3))}
    hooks, taken, last = run(50, **stopped, hooks=Recorder(at_once=True))
    assert (taken, last) == (3, 3)
    assert hooks.of("save") == [(3, None)]
    assert hooks.of("log") == [1, 2, 3]


@pytest.mark.parametrize("asked", [5, 6, 7, 8])
def test_the_step_at_which_a_run_stops_is_logged_once_and_is_the_last_one_looked_after(asked):
    hooks, taken, _ = run(50, Rhythm(log_steps=3, save_steps=4), hooks=Recorder(asked=asked))
    assert taken == asked
    assert hooks.of("log") == [1, 3] + [6] * (asked > 6) + [asked]
    assert hooks.of("poll") == [*range(1, asked + 1)]
    assert hooks.of("save")[-1] == (asked, None)


def test_the_last_step_is_logged_though_no_line_was_due():
    hooks, _, _ = run(5, Rhythm(log_steps=3, save_steps=4))
    assert hooks.of("log") == [1, 3, 5]


def test_a_process_that_is_alone_stops_after_the_step_it_is_in():
    hooks, taken, last = run(50, hooks=Recorder(asked=3))
    assert (taken, last) == (3, 3)
    assert hooks.of("save") == [(3, None)]
    assert hooks.of("log") == [1, 2, 3]  # no line was lost


def test_an_evaluation_cut_short_ends_the_run_with_a_save():
    rhythm = Rhythm(log_steps=2, save_steps=100, eval_steps=3)
    hooks, taken, last = run(50, rhythm, hooks=Recorder(cut=6))
    assert (taken, last) == (6, 6)
    assert hooks.of("evaluate") == [3, 6]
    assert hooks.of("save") == [(6, None)]
    hooks, _, last = run(8, rhythm, hooks=Recorder(cut=8))
    assert last == 8
    assert hooks.of("save") == [(8, None)]


def test_a_last_evaluation_that_fails_costs_no_step():
    hooks = Recorder()
    hooks.breaks = True
    with pytest.raises(ValueError, match="no label"):
        run(3, hooks=hooks)
    assert hooks.of("save") == [(3, None)]


def test_the_numbers_that_stop_a_run_are_logged_though_no_line_was_due():
    hooks = Recorder()
    rhythm = Rhythm(log_steps=100, save_steps=100, max_skipped=2)
    error = run(9, rhythm, made=lambda step: metrics(step, skipped=step), hooks=hooks)[-1]
    assert isinstance(error, Failed)
    assert hooks.of("log") == [1, 2]


def test_a_run_whose_workdir_is_taken_saves_nothing():
    word = {"made": lambda step: metrics(step, stop=REPLACED if step >= 3 else 0)}
    hooks, _, error = run(50, **word)
    assert isinstance(error, Replaced)
    assert "step 3: another process has taken over this workdir" in str(error)
    assert hooks.of("save") == []


def test_too_many_bad_samples_stop_the_run_with_the_table():
    def made(step):
        return metrics(step, bad=60 * step, samples=500 * step)

    hooks, taken, error = run(50, made=made)
    assert isinstance(error, Failed)
    assert taken == 3  # 1,000 samples at step 2, read at step 3
    assert "120 of 1,120 samples could not be used (10.7%, limit 5.0%)" in str(error)
    assert "decode" in str(error)
    assert hooks.of("save") == []


def test_few_bad_samples_or_few_samples_do_not():
    assert run(9, made=lambda step: metrics(step, bad=25 * step, samples=500 * step))[2] == 9
    assert run(9, made=lambda step: metrics(step, bad=50 * step, samples=100 * step))[2] == 9


def test_updates_skipped_in_a_row_stop_the_run_and_are_not_saved():
    rhythm = Rhythm(log_steps=5, save_steps=100, max_skipped=3)
    hooks, taken, error = run(50, rhythm, made=lambda step: metrics(step, skipped=max(0, step - 4)))
    assert isinstance(error, Failed)
    assert taken == 8
    assert "not finite 3 times in a row" in str(error)
    assert hooks.of("save") == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"log_steps": 0},
        {"save_steps": 0},
        {"eval_steps": -1},
        {"max_skipped": 0},
        {"max_bad_fraction": 1.5},
    ],
)
def test_a_rhythm_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Rhythm(**wrong)


def test_samples_are_counted_beyond_two_billion():
    samples = np.array([0, 0], np.int32)
    for _ in range(3):
        samples = add_samples(samples, 999_999)
    assert samples_seen(samples) == 2_999_997
    assert samples_seen(add_samples(np.array([40_000, 999_999], np.int32), 32_768)) == (
        40_000_999_999 + 32_768
    )


def test_the_table_names_causes_that_happened():
    counts = np.arange(len(CAUSES))
    table = bad_sample_table(counts, 100, 0.05)
    assert CAUSES[0] not in table
    assert all(cause in table for cause in CAUSES[1:])
