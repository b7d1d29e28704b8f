"""A save by two processes: one commit, one truth, and a failure on one is everybody's."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.training.checkpoint import Checkpoints, restore_params

PAIR = """
import pathlib, sys, time
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from mmjax.parallel import hosts
from mmjax.parallel.limits import Watchdog
from mmjax.training import orbax_arrays, workdir
from mmjax.training.checkpoint import Checkpoints, Saved, SaveFailed, SetAside

hosts.start(Watchdog(heartbeat_seconds=10))
main, folder = hosts.is_main(), pathlib.Path(sys.argv[1]) / "checkpoints"
assert jax.process_count() == 2 and jax.device_count() == 4
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
make = jax.jit(
    lambda step: {"step": step, "params": {"kernel": jnp.arange(64.0).reshape(8, 8) + step}},
    out_shardings={"step": whole, "params": {"kernel": split}},
)
like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), make(np.int32(0))
)

def save(step, failing=False):
    write = orbax_arrays.write
    if failing:
        def refuse(folder, flat, on_copied):
            raise OSError(28, "No space left on device")
        orbax_arrays.write = refuse
    start = time.monotonic()
    assert checkpoints.save(step, make(np.int32(step)), {"config.json": "{}"}, {"loss": 1.0})
    checkpoints.wait()
    orbax_arrays.write = write
    assert time.monotonic() - start < 60
    return checkpoints.poll()

def check(step):
    found = checkpoints.restore(step, like)
    assert found["params"]["kernel"].sharding == split
    wanted = make(np.int32(step))
    same = jax.jit(lambda a, b: jnp.all(a["params"]["kernel"] == b["params"]["kernel"]))
    assert bool(same(found, wanted)) and int(found["step"]) == step

with workdir.locked(sys.argv[1]) as lock:
    assert (lock is not None) == main
    decision = workdir.decide(sys.argv[1], '{"a": 1}')
    assert decision.action == "start"
    workdir.settle(sys.argv[1], '{"a": 1}', decision)
    assert workdir.decide(sys.argv[1], '{"a": 1}').action == "continue"
    if main:  # a run that has begun
        (pathlib.Path(sys.argv[1]) / "metrics.jsonl").write_text("{}")
    hosts.barrier("begun")
    for call, words in (
        (lambda: workdir.decide(sys.argv[1], '{"a": 2}'), "a: 1"),
        (lambda: workdir.locked(sys.argv[1]).__enter__(), "this process already"),
        (lambda: checkpoints.restore(None, like), "no checkpoint that is whole"),
    ):
        checkpoints = Checkpoints(folder)
        try:
            call()
        except (ValueError, FileNotFoundError) as error:
            assert words in str(error), error
        else:
            raise AssertionError(words)

    checkpoints = Checkpoints(folder)
    checkpoints.clean()
    assert checkpoints.latest() is None
    for step in (1, 2):
        events = save(step)
        assert [type(event) for event in events] == ([Saved] if main else []), events
        check(step)
    for broken in (1, 0):  # the disk of the one, then of the other
        (event,) = save(3, failing=jax.process_index() == broken) or [None]
        if main or broken == 1:
            assert isinstance(event, SaveFailed) and "No space" in event.message, event
            assert ("process 1: " in event.message) == (main and broken == 1), event
        assert checkpoints.latest() == 2
    save(3)
    assert checkpoints.steps() == [2, 3]
    hosts.barrier("all saved")
    if main:
        (folder / "3" / "config.json").write_text("{ }")
    hosts.barrier("damaged")
    assert checkpoints.latest() == 2
    events = checkpoints.poll()
    assert [type(event) for event in events] == ([SetAside] if main else []), events
    check(2)
    save(4)
    check(4)
print("fine", flush=True)
"""


def test_two_processes_save_and_restore_one_state(tmp_path: pathlib.Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "MMJAX_COORDINATOR": f"127.0.0.1:{port}",
        "MMJAX_PROCESSES": "2",
        "PYTHONPATH": str(pathlib.Path(__file__).parents[2]),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PAIR, str(tmp_path)],
            env={**environment, "MMJAX_PROCESS": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, err) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, err[-3000:]
        assert out.strip().endswith("fine")
    folder = tmp_path / "checkpoints"
    assert {entry.name for entry in folder.iterdir()} == {"2", "4", "damaged-3-1"}
    assert not (tmp_path / "lock.json").exists()
    # What two wrote, one reads.
    kernel = jnp.arange(64.0).reshape(8, 8) + 4
    like = {
        "step": jax.ShapeDtypeStruct((), jnp.int32, sharding=kernel.sharding),
        "params": {"kernel": jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=kernel.sharding)},
    }
    found = Checkpoints(folder).restore(None, like)
    assert int(found["step"]) == 4
    assert np.array_equal(found["params"]["kernel"], kernel)
    assert np.array_equal(restore_params(tmp_path)[0]["kernel"], kernel)
    parts = {path.name for path in (folder / "4" / "state").iterdir()}
    assert {"ocdbt.process_0", "ocdbt.process_1"} <= parts  # each wrote its own
