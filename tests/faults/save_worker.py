"""Saves small states while calls below it fail: the other half of write_faults_test.py.

    save_worker.py fail ENOSPC 1 FOLDER   every n of one save, from 1 in steps of 1, fails once
    save_worker.py full FOLDER            the disk is full from the n-th call on
    save_worker.py kill 3,7,9 FOLDER      for each n: a save in FOLDER/n, kill -9 at its n-th call
    save_worker.py kill 0 FOLDER          counts alone

Run with LD_PRELOAD=shim.so and SHIM_FOLDER=FOLDER. Prints one JSON object.
"""

import collections
import ctypes
import errno
import gc
import json
import os
import pathlib
import sys
import traceback
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint

from mmjax.training.checkpoint import Checkpoints, Saved, SaveFailed

FILES = {"config.json": '{"a": 1}', "environment.json": "{}"}


def state(step: int) -> dict[str, Any]:
    """A few arrays that no other step has."""
    random = np.random.default_rng(step)
    kernel = random.normal(size=(20, 25)).astype(np.float32)
    return {
        "step": jnp.int32(step),
        "params": {"kernel": jnp.asarray(kernel), "bias": jnp.full(3, step, jnp.bfloat16)},
    }


def check(folder: pathlib.Path, committed: set[int]) -> None:
    """The steps are these, each loads, and each is its own."""
    gc.collect()  # Orbax's tasks that nobody asked for their failure complain when collected
    reader = Checkpoints(folder, read_only=True)
    assert set(reader.steps()) == committed, (reader.steps(), committed)
    assert reader.latest() == max(committed)
    for step in committed:
        wanted = state(step)
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), wanted
        )
        found = reader.restore(step, like)
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), found, wanted)), step
    events = reader.poll()
    assert not events, events


def clean_start(folder: pathlib.Path, committed: set[int]) -> None:
    """A new run finds the committed steps and leaves nothing else behind."""
    checkpoints = Checkpoints(folder)
    checkpoints.clean()
    events = checkpoints.poll()
    assert not events, events
    names = {entry.name for entry in folder.iterdir()}
    assert names == {str(step) for step in committed}, names
    for step in committed:
        names = {entry.name for entry in (folder / str(step)).iterdir()}
        assert names == {"state", "manifest.json", *FILES}, names


def save(checkpoints: Checkpoints, step: int) -> Saved | SaveFailed:
    begun = checkpoints.save(step, state(step), FILES, {"loss": 1.0})
    checkpoints.wait()
    events = checkpoints.poll()
    assert len(events) == 1, events
    event = events[0]
    assert event.step == step
    assert begun or isinstance(event, SaveFailed)
    assert "\n" not in event.message
    return event


def one_fault(shim: Any, folder: pathlib.Path, step: int, arm: tuple[int, int, int]) -> Any:
    """One save under a fault, the next one without; the fault's outcome."""
    checkpoints = Checkpoints(folder)
    before = set(checkpoints.steps())
    shim.shim_arm(*arm)
    outcome = save(checkpoints, step)
    hit = shim.shim_hit().decode()
    shim.shim_arm(0, 0, 0)
    after = set(checkpoints.steps())
    if isinstance(outcome, SaveFailed):
        assert hit
        assert after == before, (hit, before, after)
    else:
        assert step in after
        assert after - before == {step}
        assert len(after) >= 2
    check(folder, after)
    following = save(checkpoints, step + 1)
    assert isinstance(following, Saved), (hit, following)
    left = set(checkpoints.steps())
    assert step + 1 in left
    clean_start(folder, left)
    return outcome, hit


def fail(shim: Any, folder: pathlib.Path, error: int, every: int) -> dict[str, Any]:
    """Each call of a save fails once, until a save has fewer calls than that."""
    outcomes: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    checkpoints = Checkpoints(folder)
    assert isinstance(save(checkpoints, 1), Saved)
    assert isinstance(save(checkpoints, 2), Saved)
    n, step, messages = 1, 3, set()
    while True:
        outcome, hit = one_fault(shim, folder, step, (1, n, error))
        if not hit:
            break
        outcomes[hit][type(outcome).__name__] += 1
        if isinstance(outcome, SaveFailed):
            messages.add(outcome.message.split(": ", 1)[1])
        n, step = n + every, step + 2
    return {"n": n, "outcomes": outcomes, "messages": sorted(messages)}


def full(shim: Any, folder: pathlib.Path) -> dict[str, Any]:
    """A disk that stays full for two saves, from the first call, or some way into the save."""
    checkpoints = Checkpoints(folder)
    assert isinstance(save(checkpoints, 1), Saved)
    assert isinstance(save(checkpoints, 2), Saved)
    messages = []
    for number, n in enumerate((1, 3, 10, 30, 60)):
        step = 3 + 3 * number
        before = set(checkpoints.steps())
        shim.shim_arm(3, n, errno.ENOSPC)
        for failing in (step, step + 1):
            outcome = save(checkpoints, failing)
            assert isinstance(outcome, SaveFailed), outcome
            messages.append(outcome.message)
        assert shim.shim_hit()
        assert set(checkpoints.steps()) == before
        for entry in folder.iterdir():
            assert entry.name.startswith("unfinished-") or int(entry.name) in before
        shim.shim_arm(0, 0, 0)
        assert isinstance(save(checkpoints, step + 2), Saved)
        clean_start(folder, set(checkpoints.steps()))
        check(folder, set(checkpoints.steps()))
    return {"messages": messages}


def kill(shim: Any, folder: pathlib.Path, chosen: list[int]) -> dict[int, int]:
    """Step 3 beside steps 1 and 2, a process for each n; how each ended, or for 0 the calls.

    The processes are forked before JAX has started anything: twenty imports would take a minute.
    """
    assert orbax.checkpoint  # loaded once for all of them
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would lose threads"
    ends: dict[int, int] = {}
    running: dict[int, int] = {}
    waiting = list(chosen)
    while waiting or running:
        if waiting and len(running) < 2:
            n = waiting.pop(0)
            if child := os.fork():
                running[child] = n
                continue
            killed_at(shim, folder / str(n), n)
        child, status = os.wait()
        ends[running.pop(child)] = os.waitstatus_to_exitcode(status)
    return ends


def killed_at(shim: Any, folder: pathlib.Path, n: int) -> None:
    """Never returns."""
    code = 101
    try:
        shim.shim_watch(str(folder).encode())
        checkpoints = Checkpoints(folder)
        assert checkpoints.steps() == [1, 2]
        shim.shim_arm(2 if n else 0, n, 0)
        assert isinstance(save(checkpoints, 3), Saved)
        if n == 0:
            (folder.parent / "count").write_text(str(shim.shim_count()))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    mode, *values, folder = sys.argv[1:]
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    shim.shim_hit.restype = ctypes.c_char_p
    shim.shim_count.restype = ctypes.c_long
    path = pathlib.Path(folder)
    if mode == "fail":
        result = fail(shim, path, getattr(errno, values[0]), int(values[1]))
    elif mode == "full":
        result = full(shim, path)
    else:
        result = kill(shim, path, [int(n) for n in values[0].split(",")])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
