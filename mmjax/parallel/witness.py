"""The process beside a run that says what it died of; imports nothing of ours, and runs as a file.

A run that is stuck, or that JAX ends because another process is gone, can say nothing any more:
its stacks are written by a thread of C, its end comes from C++. So a witness hears at each step
what the run is about to do, and at the end it says who died where, and of what.

Standard input: one JSON object a line, each replacing what the last said under its keys. The
descriptor named by the first argument: what faulthandler writes when time is up.
"""

import json
import os
import re
import select
import signal
import socket
import sys
import time
from typing import Any

# Where a main thread stands that waits for devices, and so perhaps for another process.
_WAITING = (
    "/jax/_src/",
    "/jax/experimental/",
    "mmjax/training/loop.py",
    "mmjax/training/replay.py",
)
_COMPILING = ("/jax/_src/compiler.py", "/jax/_src/interpreters/mlir.py")
_STARTS = ("starting", "its start")  # in which a second process of one number shows
_DRAIN_SECONDS = 2.0  # after the run's end; a forked worker may hold the pipe open


def testify(facts: dict[str, Any], stacks: str, now: float) -> str:
    """The last words of a run that ended without saying goodbye, or '' where none are needed.

    Args:
      facts: all that the run has told.
      stacks: of all threads, '' where none were written.
      now: seconds, by the clock of facts['heard'].
    """
    who, doing = facts.get("who", "this process"), facts.get("doing", "starting")
    if stacks:
        return f"error: {who} is stuck: {_stuck(facts, stacks)}\n{stacks.rstrip()}"
    if facts.get("processes", 1) == 1:
        return ""
    gone = list(facts.get("gone", ()))
    if not gone and _leader_is_gone(facts, now):
        gone = [facts.get("leader", "process 0")]
    if gone:
        return (
            f"error: {who} was ended in {doing}, since {'; '.join(gone)}. The same command, "
            "started on all, goes on from the last checkpoint, or begins anew where there is none."
        )
    twice = ", or started twice under one number" if doing in _STARTS else ""
    return (
        f"error: {who} ended without a word in {doing}: killed from outside, or out of memory"
        f"{twice}? Its own messages above may say more."
    )


def _stuck(facts: dict[str, Any], stacks: str) -> str:
    limit = f"{facts.get('doing')} has not ended within {facts.get('limit', 0):g} s"
    where = _main_thread(stacks, facts.get("main", ""))
    waits = bool(where) and any(part in where[0] for part in _WAITING)
    several = facts.get("processes", 1) > 1
    if any(part in line for line in where for part in _COMPILING):
        told = "Its main thread compiles"
    elif waits and several:
        told = (
            "Its main thread waits for the devices, and so perhaps for another process: the one "
            "that says it does not wait is to blame"
        )
    elif waits:
        told = "Its main thread waits for the devices"
    else:
        told = "Its main thread does not wait for any device" + (
            ", so others wait for this process" if several else ""
        )
    place = f" ({where[0].strip()})" if where else ""
    key = facts.get("key", "")
    return f"{limit}. {told}{place}. Where it was only slow, raise --config.watchdog.{key}."


def _main_thread(stacks: str, ident: str) -> list[str]:
    """The lines of the main thread's stack, innermost first."""
    parts = re.split(r"^(?:Current thread|Thread) (0x[0-9a-f]+)[^\n]*\n", stacks, flags=re.M)
    for name, text in zip(parts[1::2], parts[2::2], strict=False):
        if ident and int(name, 16) == int(ident, 16):
            return [line for line in text.splitlines() if line.strip()]
    return []


def _leader_is_gone(facts: dict[str, Any], now: float) -> bool:
    """Whether process 0, through which the processes hear of each other, is silent or dead."""
    if facts.get("heard") is None or not facts.get("coordinator"):
        return False
    if now - facts["heard"] > facts["patience"]:
        return True
    host, port = facts["coordinator"]
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return True
    return False


def listen(stacks_pipe: int) -> tuple[dict[str, Any], str]:
    """(all that the run has told, its stacks), once it has ended."""
    facts: dict[str, Any] = {}
    buffers = {0: b"", stacks_pipe: b""}
    open_pipes, deadline = set(buffers), None
    while open_pipes and (deadline is None or time.monotonic() < deadline):
        for pipe in select.select(list(open_pipes), [], [], 0.5)[0]:
            data = os.read(pipe, 1 << 16)
            buffers[pipe] += data
            if not data:
                open_pipes.discard(pipe)
        *lines, buffers[0] = buffers[0].split(b"\n")
        for line in lines:
            facts.update(json.loads(line))
            if "heard" in facts and facts["heard"] is True:
                facts["heard"] = time.monotonic()
        ended = 0 not in open_pipes or facts.get("bye") or os.getppid() != facts.get("pid")
        if facts and ended and deadline is None:
            deadline = time.monotonic() + (0.0 if facts.get("bye") else _DRAIN_SECONDS)
    return facts, buffers[stacks_pipe].decode(errors="replace")


def main() -> None:
    """Listens until the run has ended, then speaks on standard error."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the run's to answer
        signal.signal(number, signal.SIG_IGN)
    facts, stacks = listen(int(sys.argv[1]))
    if facts and not facts.get("bye"):
        text = testify(facts, stacks, time.monotonic())
        if text:
            os.write(2, f"\n{text}\n".encode())


if __name__ == "__main__":
    main()
