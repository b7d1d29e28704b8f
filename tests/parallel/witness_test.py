"""What the witness of a run says of its end, from what the run had told it."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from mmjax.parallel import witness
from mmjax.parallel.limits import Watchdog

STEP = {
    "who": "process 1 of 2 (host-b, pid 7)",
    "processes": 2,
    "main": "0xa",
    "doing": "step 12",
    "limit": 900.0,
    "key": "step_seconds",
}
OTHER = 'Thread 0x000b (most recent call first):\n  File "/x/threading.py", line 1 in wait\n\n'


def stacks(innermost):
    return (
        f"Timeout (0:15:00)!\n{OTHER}Thread 0x0000000a (most recent call first):\n"
        f'  File "{innermost}", line 3 in work\n  File "train.py", line 9 in <module>\n'
    )


def test_a_stuck_process_is_named_with_what_it_did_the_limit_and_its_key():
    text = witness.testify(STEP, stacks("/home/me/data.py"), 0.0)
    assert text.startswith(
        "error: process 1 of 2 (host-b, pid 7) is stuck: step 12 has not ended within 900 s. "
    )
    assert "raise --config.watchdog.step_seconds" in text
    assert text.endswith("line 9 in <module>")


def test_one_that_waits_for_the_devices_is_told_from_the_one_to_blame():
    guilty = witness.testify(STEP, stacks("/home/me/data.py"), 0.0)
    waiting = witness.testify(STEP, stacks("/lib/jax/_src/array.py"), 0.0)
    assert "does not wait for any device, so others wait for this process" in guilty
    assert '(File "/home/me/data.py", line 3 in work)' in guilty
    assert "waits for the devices, and so perhaps for another process" in waiting
    compiles = stacks("/lib/jax/_src/profiler.py").replace("train.py", "/lib/jax/_src/compiler.py")
    assert "Its main thread compiles (File" in witness.testify(STEP, compiles, 0.0)
    alone = witness.testify({**STEP, "processes": 1}, stacks("/lib/jax/_src/array.py"), 0.0)
    assert "another process" not in alone


def test_an_end_without_a_word_names_who_is_gone():
    facts = {**STEP, "gone": ["process 0 of 2 (host-a, pid 3) failed (no disk)"]}
    text = witness.testify(facts, "", 0.0)
    assert "was ended in step 12, since process 0 of 2 (host-a, pid 3) failed (no disk)." in text
    assert "killed from outside, or out of memory?" in witness.testify(STEP, "", 0.0)
    begins = witness.testify({**STEP, "doing": "its start"}, "", 0.0)
    assert "out of memory, or started twice under one number?" in begins
    assert witness.testify({**STEP, "processes": 1}, "", 0.0) == ""


def test_a_leader_that_is_silent_or_does_not_answer_is_gone():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = list(server.getsockname())
        facts = {**STEP, "coordinator": address, "leader": "process 0 is gone"}
        facts |= {"heard": 100.0, "patience": 9.0}
        assert "without a word" in witness.testify(facts, "", 101.0)
        assert "since process 0 is gone" in witness.testify(facts, "", 110.0)
    assert "since process 0 is gone" in witness.testify(facts, "", 101.0)


@pytest.fixture
def child():
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", witness.__file__, str(read)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(read,),
    )
    os.close(read)
    process.stdin.write(json.dumps({**STEP, "pid": os.getpid()}).encode() + b"\n")
    yield process, write
    process.stderr.close()


def test_it_speaks_once_when_the_pipes_close_and_not_before(child):
    process, write = child
    os.write(write, stacks("/home/me/data.py").encode())
    process.stdin.flush()
    time.sleep(0.2)
    assert process.poll() is None
    os.close(write)
    process.stdin.close()
    text = process.stderr.read().decode()
    assert process.wait(10) == 0
    assert text.count("is stuck") == 1


def test_it_is_silent_after_a_goodbye_though_a_worker_holds_its_pipe(child):
    process, write = child
    process.stdin.write(b'{"bye": true}\n')
    process.stdin.close()
    assert process.wait(10) == 0
    assert process.stderr.read() == b""
    os.close(write)


@pytest.mark.parametrize("wrong", [{"step_seconds": 0.0}, {"heartbeat_seconds": 1.0}])
def test_limits_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Watchdog(**wrong)
