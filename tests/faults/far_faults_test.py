"""Stores that fail, cut and never answer, and a fetch that is killed."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "flaky.py"
SHARDS = 4


@pytest.fixture
def shards(flaky, lab):
    """Four tars of 15 samples at flaky://set, and a sizes.json."""
    folder = flaky.root() / "set"
    folder.mkdir()
    for number in range(SHARDS):
        lab.write_tar(folder / f"s-{number}.tar", lab.good_samples(15, first=15 * number))
    sizes = {f"s-{number}.tar": 15 for number in range(SHARDS)}
    (folder / "sizes.json").write_text(json.dumps(sizes))
    return flaky


def started(trainer, shards, workdir, cache, *flags):
    return trainer.start(
        workdir,
        "--config.data.path=flaky://set/s-*.tar",
        f"--config.data.fetching.folder={cache}",
        f"--config.eval_data.path={trainer.val}",
        *flags,
        config=CONFIG,
        FLAKY_ROOT=str(shards.root()),
    )


def test_a_store_that_fails_and_cuts_and_a_kill_change_nothing(trainer, lab, shards, tmp_path):
    assert started(trainer, shards, tmp_path / "quiet", tmp_path / "a").wait() == 0
    shards.order(**{f"s-{number}_tar": {"fail": 1, "cut": 2} for number in range(SHARDS)})
    run = started(trainer, shards, tmp_path / "run", tmp_path / "b")
    run.until_step(10)
    os.killpg(run.process.pid, signal.SIGKILL)
    run.process.wait()
    assert "fetching flaky://set/s-" in run.err
    assert "failed (OSError: ordered to fail); it is tried 3 times in all" in run.err
    shutil.rmtree(tmp_path / "b")  # as on another host
    again = started(trainer, shards, tmp_path / "run", tmp_path / "b")
    assert again.wait() == 0, again.err
    assert again.resumed_from() > 0
    lab.assert_same(lab.state(tmp_path / "run"), lab.state(tmp_path / "quiet"))


def test_a_shard_that_never_comes_ends_the_run_with_its_address(trainer, shards, tmp_path):
    shards.order(**{"s-0_tar": {"fail": 1000}})
    run = started(trainer, shards, tmp_path / "first", tmp_path / "a")
    assert run.wait() == 2
    assert run.lines[-1].startswith("error: ")
    assert "flaky://set/s-0.tar could not be fetched, 3 times tried" in run.lines[-1]
    shards.order()
    largest = max(path.stat().st_size for path in (shards.root() / "set").glob("*.tar"))
    room = f"--config.data.fetching.cache_bytes={3 * largest}"  # for three shards of four
    run = started(trainer, shards, tmp_path / "later", tmp_path / "a", room)
    run.until_step(3)
    shards.order(**{f"s-{number}_tar": {"cut": 1000} for number in range(SHARDS)})
    assert run.wait() == 1
    # A shard that is fetched ahead may fail, and be told of, while the run ends.
    (error,) = (line for line in run.lines if line.startswith("error: "))
    assert error.startswith("error: flaky://set/s-")
    assert "could not be fetched, 3 times tried" in error
    assert "bytes came instead of" in error
    assert "Traceback" not in run.err


FETCH = """
import importlib.util, sys
from mmjax.data.sources import addresses, shard_cache
spec = importlib.util.spec_from_file_location("flaky", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
file = addresses.look("flaky://set/s-1.tar")
held = shard_cache.ShardCache(sys.argv[2], 1 << 30, 1).hold(file)
print(open(held.path, "rb").read() == open(sys.argv[3], "rb").read())
"""


def test_a_fetch_that_is_killed_leaves_no_shard(shards, tmp_path):
    cache, place = tmp_path / "cache", shards.root() / "set" / "s-1.tar"
    with open(place, "ab") as file:
        file.write(bytes(3_000_000))
    shards.order(**{"s-1_tar": {"slow": 0.5}})
    command = [sys.executable, "-c", FETCH, str(CONFIG), str(cache), str(place)]
    fetch = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 60
    while not any(written.stat().st_blocks for written in cache.glob(".*.tmp")):
        assert time.monotonic() < deadline
        assert fetch.poll() is None
        time.sleep(0.01)
    time.sleep(1)
    fetch.kill()
    fetch.wait()
    assert len(list(cache.glob(".*.tmp"))) == 1
    assert not list(cache.glob("*-s-1.tar"))
    shards.order()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "True\n", done.stderr
    assert not list(cache.glob(".*.tmp"))
