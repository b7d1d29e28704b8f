import json

from mmjax.evaluation.report_read import read_run


def write(folder, *lines):
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_series_are_by_kind_and_by_ascending_step(tmp_path):
    write(
        tmp_path,
        '{"step": 4, "kind": "train", "loss": 1}',
        '{"step": 2, "kind": "train", "loss": 2.5, "name": "x", "on": true}',
        '{"step": 4, "kind": "evaluate", "retrieval/R@1": 0.5}',
        '{"step": 4, "kind": "evaluate", "zero_shot/top1": 0.25}',
        '{"step": 4, "kind": "event", "message": "saved"}',
    )
    run = read_run(tmp_path)
    assert run.train == {"loss": [(2, 2.5), (4, 1.0)]}
    assert run.evaluate == {"retrieval/R@1": [(4, 0.5)], "zero_shot/top1": [(4, 0.25)]}
    assert [event["message"] for event in run.events] == ["saved"]
    assert run.last_step() == 4


def test_a_step_that_was_run_again_counts_with_its_last_values(tmp_path):
    write(
        tmp_path,
        '{"step": 5, "kind": "train", "loss": 9}',
        '{"step": 6, "kind": "train", "loss": 9}',
        '{"step": 5, "kind": "train", "loss": 1}',
    )
    assert read_run(tmp_path).train["loss"] == [(5, 1.0), (6, 9.0)]


def test_why_a_run_ended_is_told_until_it_goes_on(tmp_path):
    lines = [
        '{"step": 5, "kind": "train", "loss": 9}',
        '{"step": 6, "kind": "event", "event": "ended", "message": "stopped at step 6."}',
        '{"step": 6, "kind": "event", "event": "saved", "saved_step": 6}',
    ]
    write(tmp_path, *lines)
    assert read_run(tmp_path).ended == "stopped at step 6."
    write(tmp_path, *lines, '{"step": 6, "kind": "evaluate", "retrieval/R@1": 0.5}')
    assert read_run(tmp_path).ended == ""


def test_values_that_are_not_finite_are_counted_not_drawn(tmp_path):
    write(
        tmp_path,
        '{"step": 1, "kind": "train", "loss": 2}',
        '{"step": 2, "kind": "train", "loss": NaN}',
        '{"step": 3, "kind": "train", "loss": Infinity}',
        '{"step": 4, "kind": "train", "loss": "nan", "note": "nano", "more": ["nan"]}',
    )
    run = read_run(tmp_path)
    assert run.train == {"loss": [(1, 2.0)]}
    assert run.notes.count("note: 1 value(s) were not finite and are not drawn.") == 0
    assert "loss: 3 value(s) were not finite and are not drawn." in run.notes


def test_damaged_lines_are_counted_and_a_torn_end_is_told_apart(tmp_path):
    good = '{"step": 1, "kind": "train", "loss": 2}'
    bad = (
        '{"step": ',
        "[]",
        '{"step": "x", "kind": "train"}',
        '{"kind": "train"}',
        '{"step": 2, "kind": ["train"]}',
        f'{{"step": {10**400}, "kind": "train"}}',
        f'{{"step": {"9" * 5000}, "kind": "train"}}',
    )
    (tmp_path / "metrics.jsonl").write_text("\n".join([good, *bad, good[:-5]]))
    run = read_run(tmp_path)
    assert run.train["loss"] == [(1, 2.0)]
    assert any("7 damaged line(s), the first is line 2" in note for note in run.notes)
    assert any("torn" in note for note in run.notes)


def test_the_newest_artifact_of_each_evaluator_is_taken(tmp_path):
    def put(step, name):
        path = tmp_path / "evaluations" / step / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"kind": name}))

    for step, name in (("9", "a"), ("10", "a"), ("9", "b"), ("9", "ema/c"), ("9", "c")):
        put(step, name)
    put("10", "c")
    put("partial", "a")
    put("10", "ema/a")
    chosen = {
        name: (artifact["name"], artifact["step"])
        for name, artifact in read_run(tmp_path).artifacts.items()
    }
    assert chosen == {"a": ("ema/a", 10), "b": ("b", 9), "c": ("c", 10)}
