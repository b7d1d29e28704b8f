import json
import logging
import os
import resource
import signal
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from mmjax.training.logging import MetricLog


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder):
    """All events of the event files, checksums verified, in the order of the files."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir(), key=os.path.getmtime):
        data = path.read_bytes()
        while data:
            header, rest = data[:8], data[12:]
            length = int.from_bytes(header, "little")
            assert int.from_bytes(data[8:12], "little") == masked_crc32c(header)
            record = rest[:length]
            assert int.from_bytes(rest[length : length + 4], "little") == masked_crc32c(record)
            found.append(event_pb2.Event.FromString(record))
            data = rest[length + 4 :]
    return found


def scalars(folder):
    """{(step, tag): value} as TensorBoard shows it, later starts hiding what they make again."""
    shown = {}
    for event in events(folder):
        if event.session_log.status == event_pb2.SessionLog.START:
            shown = {key: value for key, value in shown.items() if key[0] < event.step}
        for value in event.summary.value:
            shown[event.step, value.tag] = value.simple_value
    return shown


def test_each_write_is_one_line_and_one_event_a_number(tmp_path):
    with MetricLog(tmp_path) as log:
        log.write(1, "train", {"loss": np.float32(2.5), "loss/contrastive": jnp.asarray(1.5)})
        log.write(2, "evaluate", {"retrieval/text_to_image/R@1": 0.25, "pairs": np.int64(7)})
        log.write(2, "event", {"name": "saved ✓", "verified": True})
    assert lines(tmp_path) == [
        {"step": 1, "kind": "train", "loss": 2.5, "loss/contrastive": 1.5},
        {"step": 2, "kind": "evaluate", "retrieval/text_to_image/R@1": 0.25, "pairs": 7},
        {"step": 2, "kind": "event", "name": "saved ✓", "verified": True},
    ]
    assert (tmp_path / "metrics.jsonl").read_bytes().isascii()
    assert scalars(tmp_path) == {
        (1, "loss"): 2.5,
        (1, "loss/contrastive"): 1.5,
        (2, "retrieval/text_to_image/R_1"): 0.25,
        (2, "pairs"): 7.0,
    }


def test_numbers_that_json_does_not_know_are_strings_that_float_reads(tmp_path):
    with MetricLog(tmp_path) as log:
        log.write(1, "train", {"a": float("nan"), "b": jnp.inf, "c": np.float32("-inf")})

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "metrics.jsonl").read_text()
    line = json.loads(text, parse_constant=refuse)
    assert (line["a"], line["b"], line["c"]) == ("nan", "inf", "-inf")
    assert [float(line[name]) for name in "bc"] == [float("inf"), float("-inf")]
    assert np.isnan(scalars(tmp_path)[1, "a"])


def test_a_resumed_run_does_not_double_the_curves(tmp_path):
    with MetricLog(tmp_path, resumed_step=0) as log:
        for step in (1, 2, 3, 4):
            log.write(step, "train", {"loss": 10.0 + step})
        log.write(4, "evaluate", {"accuracy": 0.5})
        log.write(4, "event", {"name": "bad sample"})
    with MetricLog(tmp_path, resumed_step=2) as log:
        log.write(3, "train", {"loss": 20.0})
    assert [(line["step"], line.get("loss")) for line in lines(tmp_path)] == [
        (1, 11.0),
        (2, 12.0),
        (4, None),  # the event stays: it did happen
        (3, 20.0),
    ]
    assert scalars(tmp_path) == {(1, "loss"): 11.0, (2, "loss"): 12.0, (3, "loss"): 20.0}


def test_without_a_resumed_step_nothing_is_removed(tmp_path):
    with MetricLog(tmp_path, resumed_step=0) as log:
        log.write(5, "train", {"loss": 1.0})
    with MetricLog(tmp_path) as log:
        log.write(3, "evaluate", {"accuracy": 0.5})
    assert [line["step"] for line in lines(tmp_path)] == [5, 3]
    assert set(scalars(tmp_path)) == {(5, "loss"), (3, "accuracy")}


@pytest.mark.parametrize("torn", [b'{"step": 3, "ki', b"{", b'{"step": 3}', b"\0\0\0", b"7"])
def test_a_torn_line_is_mended_at_the_next_start(tmp_path, torn):
    whole = b'{"step": 1, "kind": "train", "loss": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_bytes(whole + torn)
    with MetricLog(tmp_path, resumed_step=2, tensorboard=False) as log:
        log.write(3, "train", {"loss": 3.0})
    assert [line["step"] for line in lines(tmp_path)] == [1, 3]
    assert not list(tmp_path.glob("*.mended"))


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "kind": "train", "loss": 1.0}')
    with MetricLog(tmp_path, tensorboard=False) as log:
        log.write(2, "train", {"loss": 3.0})
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_lines_are_there_after_kill_9(tmp_path):
    program = f"""
        import os, signal
        from mmjax.training.logging import MetricLog
        log = MetricLog({str(tmp_path)!r}, active=True)
        for step in range(5):
            log.write(step, "train", {{"loss": 1.0}})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)])
    assert done.returncode == -signal.SIGKILL
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2, 3, 4]


def test_a_disk_that_takes_no_more_does_not_stop_the_run(tmp_path, caplog):
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = MetricLog(tmp_path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, old_limit[1]))
        with caplog.at_level(logging.ERROR, "mmjax"):
            for step in range(200):
                log.write(step, "train", {"loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert log.failed_writes > 150
    assert len(caplog.records) == 1
    assert "goes on" in caplog.text
    log.write(200, "train", {"loss": 2.0})  # there is room again
    log.close()
    with MetricLog(tmp_path, tensorboard=False):
        pass
    steps = [line["step"] for line in lines(tmp_path)]
    assert steps[:3] == [0, 1, 2]
    assert steps[-1] == 200


def test_only_the_active_process_writes(tmp_path):
    with MetricLog(tmp_path / "other", active=False) as log:
        log.write(1, "train", {"loss": 1.0})
    assert not (tmp_path / "other").exists()


def test_after_close_writes_go_nowhere(tmp_path):
    log = MetricLog(tmp_path)
    log.close()
    log.close()
    log.write(1, "train", {"loss": 1.0})
    assert lines(tmp_path) == []


def test_what_is_no_line_is_refused(tmp_path):
    with MetricLog(tmp_path, tensorboard=False) as log:
        with pytest.raises(ValueError, match="'test' is none of train, evaluate, event"):
            log.write(1, "test", {})
        with pytest.raises(ValueError, match="'step' or 'kind'"):
            log.write(1, "train", {"step": 3})
        with pytest.raises(TypeError, match="loss="):
            log.write(1, "train", {"loss": np.zeros(3)})
    assert lines(tmp_path) == []


def test_importing_the_log_does_not_import_tensorboardx():
    program = "import sys, mmjax.training.logging; sys.exit('tensorboardX' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


class Service:
    """Takes numbers, or fails."""

    def __init__(self, fails=False):
        self.fails, self.taken, self.closed = fails, [], False

    def write(self, step, values):
        if self.fails:
            raise ConnectionError("gone")
        self.taken.append((step, dict(values)))

    def close(self):
        self.closed = True


def test_a_service_gets_the_numbers_of_process_0_but_no_events(tmp_path):
    service, other = Service(), Service()
    with MetricLog(tmp_path, online=service) as log:
        log.write(1, "train", {"loss": jnp.asarray(1.5)})
        log.write(1, "event", {"event": "saved"})
    assert service.taken == [(1, {"loss": 1.5})]
    assert service.closed
    with MetricLog(tmp_path / "other", active=False, online=other) as log:
        log.write(1, "train", {"loss": 1.5})
    assert other.taken == []


def test_a_service_that_fails_ends_no_training_and_is_reported_once(tmp_path, caplog):
    with MetricLog(tmp_path, online=Service(fails=True)) as log:
        log.write(1, "train", {"loss": 1.5})
        log.write(2, "train", {"loss": 1.4})
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    assert log.failed_writes == 2
    assert len(caplog.records) == 1
    assert "writing metrics to online failed (gone)" in caplog.text
