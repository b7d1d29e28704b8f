"""Junk among the samples: exactly that is skipped and counted, and too much of it ends the run."""

import io

import numpy as np
import pytest
from PIL import Image

from mmjax.data.dataset import Dataset
from mmjax.data.pipeline import BatchMaker
from mmjax.data.rows import training_rows
from mmjax.data.sources.base import CAUSES
from mmjax.data.transforms.captions import PickCaption
from mmjax.data.transforms.image import RandomResizedCrop

SAMPLES, BATCH = 500, 20


def bomb():
    """144 megapixels in some 20 KB."""
    file = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(file, "PNG")
    return file.getvalue()


def junk(lab):
    """{name: (members, cause)}."""
    picture, text = lab.jpeg(5000), b"a picture"
    return {
        "half a JPEG": ({"jpg": picture[: len(picture) // 2], "txt": text}, "decode"),
        "HTML named .jpg": ({"jpg": b"<html>404 Not Found</html>" * 9, "txt": text}, "format"),
        "zero bytes": ({"jpg": b"", "txt": text}, "format"),
        "a bomb": ({"png": bomb(), "txt": text}, "too_large"),
        "a caption of nothing": ({"jpg": picture, "txt": b"\0\x01 \n"}, "caption"),
        "a caption that is no UTF-8": ({"jpg": picture, "txt": b"\xff\xfe\x80"}, "caption"),
    }


def counts(state):
    return {c: int(n) for c, n in zip(CAUSES, state["counters/bad_samples"]) if n}


@pytest.fixture(scope="module")
def one_percent(lab, tmp_path_factory):
    """(tar, {cause: number}, positions) of 500 samples with one of each junk."""
    samples = lab.good_samples(SAMPLES)
    expected, positions = {}, set()
    for number, (members, cause) in enumerate(junk(lab).values()):
        position = 3 + 80 * number
        samples[position] = members
        positions.add(position)
        expected[cause] = expected.get(cause, 0) + 1
    # What looks odd and is fine: a long caption, and one with parts that are cleaned away.
    samples[1]["txt"] = b"word " * 200_000
    samples[2]["txt"] = "left\u202e to right\0 and\u0301 more".encode()
    tar = lab.write_tar(tmp_path_factory.mktemp("junk") / "one.tar", samples)
    return tar, expected, positions


def epoch(steps=SAMPLES // BATCH):
    """Flags: each of the samples once."""
    return (
        f"--config.batch_size={BATCH}",
        f"--config.steps={steps}",
        "--config.save_steps=1000",
        "--config.log_steps=25",
    )


@pytest.fixture(scope="module")
def trained(trainer, lab, one_percent, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one-percent") / "run"
    trainer.finish(workdir, *epoch(), data=one_percent[0])
    return workdir


def test_exactly_the_junk_is_skipped_and_counted_by_cause(lab, one_percent, trained):
    _, expected, _ = one_percent
    assert sum(expected.values()) == 6
    state = lab.state(trained)
    assert counts(state) == expected
    assert state["counters/samples"].tolist() == [0, SAMPLES]
    assert state["counters/skipped"] == 0
    entry = lab.log(trained)[-1]
    assert entry["bad_samples"] == 6
    assert {c: entry[f"bad_samples/{c}"] for c in expected} == expected


def test_batches_stay_full_and_hold_all_that_is_good_and_nothing_else(one_percent):
    tar, expected, positions = one_percent
    dataset = Dataset(path=tar, transforms=(PickCaption(), RandomResizedCrop(size=16)))
    maker = BatchMaker(training_rows((dataset,), 0, "main"), BATCH, 0, 1, threads=2)
    batches = [maker(number) for number in range(SAMPLES // BATCH)]
    assert all(batch["valid"].all() for batch in batches)
    seen = np.concatenate([batch["sample_id"][:, 1] for batch in batches]).tolist()
    assert set(seen) == set(range(SAMPLES)) - positions
    assert len(seen) == SAMPLES
    found = np.sum([batch["bad_samples"].sum(axis=0) for batch in batches], axis=0)
    assert {c: int(n) for c, n in zip(CAUSES, found) if n} == expected


@pytest.mark.parametrize("how", ["workers", "killed"])
def test_it_is_the_same_with_workers_and_after_a_kill(
    trainer, lab, one_percent, trained, tmp_path, how
):
    data, flags = one_percent[0], list(epoch())
    if how == "workers":
        flags.append("--config.reading.workers=2")
        trainer.finish(tmp_path, *flags, data=data)
    else:
        flags[2] = "--config.save_steps=10"
        run = trainer.start(tmp_path, *flags, data=data)
        run.until(lambda: 10 in lab.steps(tmp_path))
        run.process.kill()
        assert run.wait() != 0
        assert trainer.finish(tmp_path, *flags, data=data).resumed_from() in (10, 20)
    lab.assert_same(lab.state(tmp_path), lab.state(trained))


@pytest.fixture(scope="module")
def sixty_percent(lab, tmp_path_factory):
    """A tar of 200 samples, 120 of them junk."""
    samples = lab.good_samples(200)
    kinds = [members for members, _ in junk(lab).values()]
    for position in range(200):
        if position % 5 < 3:
            samples[position] = kinds[position % len(kinds)]
    return lab.write_tar(tmp_path_factory.mktemp("junk") / "sixty.tar", samples)


def table(text):
    """{cause: number} of the run's last words, and the share."""
    (head,) = [line for line in text.splitlines() if "samples could not be used" in line]
    rows = text[text.index(head) :].splitlines()[1:]
    found = {r.split()[0]: int(r.split()[1].replace(",", "")) for r in rows if r.startswith("  ")}
    return head, found


@pytest.mark.parametrize("processes", [1, 2])
def test_sixty_percent_junk_end_the_run_with_the_table(
    trainer, lab, sixty_percent, tmp_path, processes
):
    flags = ("--config.batch_size=100", "--config.steps=500", "--config.save_steps=4")
    how = {"data": sixty_percent}
    if processes == 1:
        runs = [trainer.start(tmp_path, *flags, **how)]
    else:
        runs = trainer.pair(tmp_path, *flags, **how)
    assert [run.wait() for run in runs] == [1] * processes, [run.err for run in runs]
    ends = {tuple(run.err[run.err.index("error: ") :].splitlines()) for run in runs}
    assert len(ends) == 1  # both at the same step, with the same numbers
    head, found = table(runs[0].err)
    share = float(head.split("(")[1].split("%")[0])
    assert 55 < share < 65
    assert "limit 5.0%" in head
    assert set(found) == {"decode", "format", "too_large", "caption"}
    total = int(head.split()[1].replace(",", ""))
    assert sum(found.values()) == total
    of = int(head.split()[3].replace(",", ""))
    assert of - total == 1000  # as soon as it may be judged, at step 10
    assert "--config.rhythm.max_bad_fraction" in runs[0].err
    assert "Traceback" not in runs[0].err
    assert not (tmp_path / "lock.json").exists()
    assert lab.steps(tmp_path) == [4, 8]


def test_a_higher_limit_lets_it_go_on(trainer, lab, sixty_percent, tmp_path):
    flags = ("--config.batch_size=100", "--config.steps=12", "--config.save_steps=100")
    limit = "--config.rhythm.max_bad_fraction=0.8"
    trainer.finish(tmp_path, *flags, limit, data=sixty_percent)
    bad = sum(counts(lab.state(tmp_path)).values())
    assert 0.5 < bad / (1200 + bad) < 0.7
