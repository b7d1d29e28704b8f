"""A state is equal on other devices; other processes lose no sample and see none twice."""

import signal
from collections import Counter

import jax
import numpy as np
import pytest

from mmjax.config import override
from mmjax.data.dataset import members_of
from mmjax.data.pipeline import BatchMaker
from mmjax.data.rows import training_rows
from mmjax.parallel.mesh import make_mesh
from mmjax.paths import flatten
from mmjax.run.assembly import assemble, open_tokenizer, with_tokenizer
from mmjax.run.beginning import stream_makers
from mmjax.run.config_file import load
from mmjax.training.checkpoint import Checkpoints
from mmjax.training.compiled import Compiled

SAMPLES, BATCH = 60, 8  # of the trainer's tar and of the tiny config
SHARDED = (("(.*/)?text/embedding", ("fsdp", None)), (".*", ()))  # 300 rows: over 1 or 2 devices


@pytest.fixture(scope="module")
def parts(trainer, lab, undisturbed):
    config = load(str(lab.TINY))
    override(config, "data.path", trainer.train)
    override(config, "eval_data.path", trainer.val)
    return with_tokenizer(assemble(config), open_tokenizer(undisturbed / "tokenizer.json"))


@pytest.mark.parametrize(
    ("devices", "fsdp", "rules"), [(1, 1, None), (2, 1, None), (8, 1, None), (8, 2, SHARDED)]
)
def test_a_state_is_equal_on_one_two_and_eight_devices(
    lab, undisturbed, parts, devices, fsdp, rules
):
    mesh = make_mesh(fsdp=fsdp, devices=jax.devices()[:devices])
    streams = {name: maker.global_shapes for name, maker in stream_makers(parts).items()}
    rules = rules or parts.settings["sharding_rules"]
    compiled = Compiled(parts.recipe, mesh, streams, rules)
    checkpoints = Checkpoints(undisturbed / "checkpoints", read_only=True)
    restored = checkpoints.restore(None, compiled.state)
    wanted = lab.state(undisturbed)
    found = flatten(restored)
    assert len(found) == len(wanted)  # its 'folder' stands for the step
    for name, value in found.items():
        assert len(value.sharding.device_set) == devices, name
        stored = wanted["folder" if name == "step" else name]
        for shard in value.addressable_shards:  # each device's own copy or part
            piece = np.asarray(shard.data)
            assert np.array_equal(piece, stored[shard.index], equal_nan=True), name
    if rules is SHARDED:
        table = found["params/text/embedding"]
        assert {shard.data.shape[0] for shard in table.addressable_shards} == {150}


def seen(parts, processes, start, stop):
    """The samples that so many processes read together in some steps, each with its rows."""
    (stream,) = parts.streams.values()
    rows = training_rows(members_of(stream.data), parts.recipe.seed, "main")
    made = []
    for step in range(start, stop):
        blocks = [BatchMaker(rows, BATCH, n, processes, 1)(step) for n in range(processes)]
        batch = {word: np.concatenate([block[word] for block in blocks]) for word in blocks[0]}
        assert batch["row"].tolist() == list(range(BATCH))
        made.append(batch)
    return made


@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 4), (4, 1)])
def test_a_change_of_processes_loses_no_sample_and_shows_none_twice(parts, first, then):
    whole = seen(parts, 1, 0, 15)  # two epochs of 60 samples are 15 batches
    cut = [*seen(parts, first, 0, 6), *seen(parts, then, 6, 15)]
    for one, other in zip(whole, cut, strict=True):
        assert one.keys() == other.keys()
        for word in one:
            assert one[word].tobytes() == other[word].tobytes(), word
    identities = np.concatenate([batch["sample_id"] for batch in cut])
    for epoch in (identities[:SAMPLES], identities[SAMPLES:]):
        counts = Counter(map(tuple, epoch.tolist()))
        assert len(counts) == SAMPLES
        assert set(counts.values()) == {1}


def test_two_processes_one_killed_then_one_then_two_end_as_if_undisturbed(
    trainer, lab, undisturbed, tmp_path
):
    pair = trainer.pair(tmp_path)
    pair[0].until(lambda: lab.steps(tmp_path)[-1:] >= [6])
    pair[1].process.send_signal(signal.SIGKILL)
    assert pair[0].wait(90) != 0
    assert f"pid {pair[1].process.pid}) is gone" in pair[0].err
    assert pair[1].wait() == -signal.SIGKILL
    killed = lab.steps(tmp_path)[-1]
    alone = trainer.start(tmp_path)
    alone.until_step(killed + 3)
    alone.process.send_signal(signal.SIGTERM)
    assert alone.wait() == 128 + signal.SIGTERM
    assert alone.resumed_from() == killed
    stopped = lab.steps(tmp_path)[-1]
    assert killed < stopped < 24
    again = trainer.pair(tmp_path)
    assert [run.wait() for run in again] == [0, 0], [run.err for run in again]
    assert again[0].resumed_from() == stopped
    assert lab.steps(tmp_path)[-1] == 24
    found, wanted = lab.losses(tmp_path), lab.losses(undisturbed)
    assert found.keys() == wanted.keys()
    for step, loss in wanted.items():  # sums over two processes are added in another order
        assert found[step] == pytest.approx(loss, rel=1e-4), step
    assert lab.state(tmp_path)["counters/samples"].tolist() == [0, 24 * BATCH]
