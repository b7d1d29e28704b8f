"""Losses and gradients that are not finite: skipped, counted, never saved; too many end the run."""

import numpy as np
import pytest

CONFIG = '''
import dataclasses

import numpy as np

from mmjax.config import spec
from mmjax.data.dataset import Dataset
from mmjax.data.fields import Fields
from mmjax.data.sources.base import Source
from mmjax.models.dual.features import FeatureTowers
from mmjax.objectives.contrastive import Contrastive
from mmjax.preprocess import Contract
from mmjax.run.settings import base_config
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import constant
from mmjax.training.step import Goal


class Nothing(Source):
    def __len__(self):
        return 8

    def __getitem__(self, position):
        return {"__key__": str(position)}

    def fingerprint(self):
        return "nothing"

    def describe(self):
        return "nothing"


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Features; in the batches named, the first row's are multiplied by `factor`."""

    batches: tuple[int, ...] = ()
    factor: float = float("inf")

    def __call__(self, sample, rng):
        # The second word of the key is the row's index; 8 rows a batch.
        index = int(rng.bit_generator.state["state"]["key"][1])
        image = rng.normal(size=6).astype(np.float32)
        if index // 8 in self.batches and index % 8 == 0:
            image = image * np.float32(self.factor)
        return {"image_features": image, "text_features": rng.normal(size=6).astype(np.float32)}


def get_config(variant=""):
    config = base_config(steps=12, batch_size=8, log_steps=1, save_steps=3)
    config.tensorboard = False
    config.ema = 0.9
    config.keep_last = 9
    config.model = spec(FeatureTowers, embed_dim=4, image_hidden_dims=(5,))
    config.preprocess = spec(Contract)
    config.data = spec(
        Dataset,
        source=spec(Nothing),
        fields=spec(Fields, image_from="", caption_from=""),
        transforms=(spec(Numbers, batches=(99,)),),
    )
    image = ("encode_image", ("image_features",))
    text = ("encode_text", ("text_features",))
    config.goals.contrastive = spec(Goal, objective=spec(Contrastive, image=image, text=text))
    config.optimizer = spec(AdamW, schedule=spec(constant, peak=1e-2))
    return config
'''


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "numbers.py"
    path.write_text(CONFIG)
    return path


def broken(*batches, factor="inf"):
    """Flags: these batches (from 0) hold features that are not what they should be."""
    return (
        f"--config.data.transforms[0].batches={batches!r}",
        f"--config.data.transforms[0].factor={factor}",
    )


def finite(state):
    kinds = (np.inexact,)
    return all(np.isfinite(a).all() for a in state.values() if np.issubdtype(a.dtype, *kinds))


def test_a_step_that_is_not_finite_is_skipped_and_counted(trainer, lab, config, tmp_path):
    # Steps 3, 8 and 9: at and beside saves.
    run = trainer.finish(tmp_path, *broken(2, 7, 8), config=config)
    assert "3 of 12 updates were skipped, since loss or gradient was not finite." in run.out
    lines = lab.log(tmp_path)
    assert [str(entry["loss"]) == "nan" for entry in lines] == [
        k in (3, 8, 9) for k in range(1, 13)
    ]
    assert [entry["skipped_updates"] for entry in lines] == [0, 0, *[1] * 5, 2, *[3] * 4]
    assert lab.steps(tmp_path) == [3, 6, 9, 12]
    states = {step: lab.state(tmp_path, step) for step in lab.steps(tmp_path)}
    assert all(finite(state) for state in states.values())
    assert [int(states[step]["counters/skipped"]) for step in states] == [1, 1, 3, 3]
    assert [int(states[step]["counters/skipped_in_a_row"]) for step in states] == [1, 0, 2, 0]
    updates = {s: int(states[s]["opt_state/schedule/count"]) for s in states}
    assert updates == {3: 2, 6: 5, 9: 6, 12: 9}


@pytest.mark.parametrize(
    ("factor", "loss_too"),
    [("inf", True), ("1e25", False)],  # 1e25 is too much for the gradient alone
)
def test_a_skipped_step_leaves_all_as_it_was(trainer, lab, config, tmp_path, factor, loss_too):
    trainer.finish(
        tmp_path,
        *broken(2, 3, factor=factor),
        "--config.steps=4",
        "--config.save_steps=1",
        config=config,
    )
    broken_lines = lab.log(tmp_path)[2:]
    assert [entry["loss"] == "nan" for entry in broken_lines] == [loss_too] * 2
    assert [entry["grad_norm"] for entry in broken_lines] == ["nan"] * 2
    before, after = lab.state(tmp_path, 2), lab.state(tmp_path, 4)
    moved = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    counters = ("samples", "skipped", "skipped_in_a_row")
    assert moved == {"folder", *(f"counters/{name}" for name in counters)}


def test_a_resumed_run_counts_on(trainer, lab, config, tmp_path):
    flags = broken(2, 3, 4)
    limit = "--config.rhythm.max_skipped=3"
    first = trainer.start(tmp_path, *flags, limit, config=config)
    assert first.wait() == 1
    assert lab.steps(tmp_path) == [3]
    second = trainer.start(tmp_path, *flags, limit, config=config)
    assert second.wait() == 1
    assert second.resumed_from() == 3
    assert first.lines == second.lines


def test_k_in_a_row_end_the_run_and_keep_the_last_good_step(trainer, lab, config, tmp_path):
    every = broken(*range(4, 12))
    run = trainer.start(tmp_path, *every, "--config.rhythm.max_skipped=4", config=config)
    assert run.wait() == 1
    (line,) = run.lines
    assert line.startswith("error: step 8: loss or gradient was not finite 4 times in a row;")
    assert "Traceback" not in run.err
    assert "<li>step 8: loss or gradient was" in (tmp_path / "report.html").read_text()
    assert lab.steps(tmp_path) == [3, 6]
    assert all(finite(lab.state(tmp_path, step)) for step in (3, 6))
    assert int(lab.state(tmp_path, 6)["counters/skipped"]) == 2
    assert int(lab.state(tmp_path, 6)["opt_state/schedule/count"]) == 4
    assert not (tmp_path / "lock.json").exists()


def test_with_a_good_step_between_the_run_goes_on(trainer, lab, config, tmp_path):
    flags = broken(1, 2, 4, 5, 7, 8, 10)
    trainer.finish(tmp_path, *flags, "--config.rhythm.max_skipped=3", config=config)
    assert lab.log(tmp_path)[-1]["skipped_updates"] == 7


def test_a_run_that_made_no_update_has_failed(trainer, lab, config, tmp_path):
    run = trainer.start(tmp_path, *broken(0, 1, 2), "--config.steps=3", config=config)
    assert run.wait() == 1
    (line,) = run.lines
    assert line.startswith("error: all 3 updates were skipped, since loss or gradient was not")
    assert "all 3 updates were skipped" in (tmp_path / "report.html").read_text()
    assert lab.steps(tmp_path) == [3]


def test_ten_times_the_loss_is_a_normal_step(trainer, lab, config, tmp_path):
    weight = "--config.goals.contrastive.weight=10.0"
    trainer.finish(tmp_path / "ten", weight, "--config.steps=3", config=config)
    trainer.finish(tmp_path / "one", "--config.steps=3", config=config)
    ten, one = lab.log(tmp_path / "ten"), lab.log(tmp_path / "one")
    np.testing.assert_allclose(ten[0]["loss"], 10 * one[0]["loss"], rtol=1e-5)
    assert [entry["skipped_updates"] for entry in ten] == [0, 0, 0]
    # Clipped, the gradient is as long as ever, and the parameters may be the very same.
    assert int(lab.state(tmp_path / "ten", 3)["opt_state/schedule/count"]) == 3


def test_two_processes_stop_at_the_same_step(trainer, lab, config, tmp_path):
    flags = (*broken(*range(4, 12)), "--config.rhythm.max_skipped=4")
    runs = trainer.pair(tmp_path, *flags, config=config)
    assert [run.wait() for run in runs] == [1, 1], [run.err for run in runs]
    last = {run.lines[-1] for run in runs}
    assert len(last) == 1
    assert "step 8: loss or gradient was not finite 4 times in a row" in last.pop()
    assert lab.steps(tmp_path) == [3, 6]
    assert int(lab.state(tmp_path, 6)["counters/skipped"]) == 2
