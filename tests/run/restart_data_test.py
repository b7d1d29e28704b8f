"""A run goes on with other data, and another begins with its parameters."""

import signal

import numpy as np
import pytest

from mmjax.config import override
from mmjax.run.assembly import assemble, open_tokenizer, with_tokenizer
from mmjax.run.beginning import stream_makers
from mmjax.run.config_file import load
from mmjax.training.optimizers.adamw import AdamW

STEPS = ("--config.steps=40",)


def refused(run):
    """The one line of a run that was refused."""
    assert run.wait() == 2, run.err
    (line,) = run.err.splitlines()
    assert line.startswith("error: ")
    return line


def unusable(lab, tar, trainer, tokenizer, batches):
    """Samples of each batch from the first one on that cannot be used: says which are drawn."""
    config = load(str(lab.TINY))
    override(config, "data.path", str(tar))
    override(config, "eval_data.path", trainer.val)
    parts = with_tokenizer(assemble(config), open_tokenizer(tokenizer))
    (maker,) = stream_makers(parts).values()
    return [int(maker(number)["bad_samples"].sum()) for number in range(batches)]


def test_changed_data_begins_at_its_beginning_whatever_ends_the_run_later(trainer, lab, tmp_path):
    tar, workdir = tmp_path / "data.tar", tmp_path / "run"
    how = {"data": str(tar)}
    lab.write_tar(tar, lab.good_samples(60))
    run = trainer.start(workdir, *STEPS, **how)
    run.until(lambda: lab.steps(workdir)[-1:] >= [4])
    run.process.kill()
    assert run.wait() == -signal.SIGKILL
    changed = lab.steps(workdir)[-1]

    # A sample in four is broken: how many were met by each step tells the order of the data.
    others = lab.good_samples(60, first=200)
    for sample in others[::4]:
        sample["jpg"] = b"no picture"
    lab.write_tar(tar, others)
    line = refused(trainer.start(workdir, *STEPS, **how))
    assert f"the data differs from what step {changed} was trained on" in line
    assert "--restart-data" in line
    assert lab.steps(workdir)[-1] == changed

    run = trainer.start(workdir, *STEPS, "--restart-data", **how)
    run.until(lambda: lab.steps(workdir)[-1] > changed)
    run.process.kill()
    assert run.wait() == -signal.SIGKILL
    assert run.resumed_from() == changed
    killed = lab.steps(workdir)[-1]
    again = trainer.finish(workdir, *STEPS, **how)
    assert again.resumed_from() == killed

    met = {entry["step"]: entry["bad_samples"] for entry in lab.log(workdir)}
    assert {met[step] for step in range(1, changed + 1)} == {0}
    found = [met[step] - met[step - 1] for step in range(changed + 1, 41)]
    wanted = unusable(lab, tar, trainer, workdir / "tokenizer.json", 40)
    assert found == wanted[: len(found)]
    assert found != wanted[changed:]  # else nothing would tell its beginning from its middle
    lab.losses(workdir)  # no step is there twice


@pytest.fixture
def warm(lab, tmp_path):
    """The tiny config, taking one step that changes no parameter."""
    config = tmp_path / "warm.py"
    config.write_text(
        "from mmjax.run.config_file import load\n"
        "def get_config():\n"
        f"    config = load({str(lab.TINY)!r})\n"
        "    config.steps = 1\n"
        "    config.optimizer.schedule.peak = 0.0\n"
        "    config.optimizer.schedule.warmup_steps = 0\n"
        "    return config\n"
    )
    return config


def start(trainer, config, workdir, source):
    paths = (f"--config.data.path={trainer.train}", f"--config.eval_data.path={trainer.val}")
    return trainer.start(workdir, *paths, f"--config.init_from={source}", config=config)


@pytest.mark.parametrize("step", [None, 22])
def test_a_run_begins_with_the_parameters_of_a_workdir_or_of_one_checkpoint(
    trainer, lab, undisturbed, warm, tmp_path, step
):
    source = undisturbed if step is None else undisturbed / "checkpoints" / str(step)
    run = start(trainer, warm, tmp_path / "run", source)
    assert run.wait() == 0, run.err
    assert run.resumed_from() == 0
    assert lab.losses(tmp_path / "run").keys() == {1}
    theirs, ours = lab.state(undisturbed, step), lab.state(tmp_path / "run", 1)
    params = [name for name in ours if name.startswith("params/")]
    assert len(params) >= 5
    for name in params:
        assert ours[name].tobytes() == theirs[name].tobytes(), name
    for name in params:
        if (moved := name.replace("params/", "ema/")) in ours:
            np.testing.assert_allclose(ours[moved], ours[name], rtol=1e-6)
    for name in (name for name in ours if name.startswith("batch_stats/")):
        # One step at momentum 0.9 from where the other run stood, not from mean 0 and variance 1.
        way = np.abs(theirs[name] - float("var" in name)).max()
        assert np.abs(ours[name] - theirs[name]).max() < 0.5 * way
    assert ours["counters/samples"].tolist() == [0, 8]
    assert ours["opt_state/adam/count"] == ours["opt_state/schedule/count"] == 1
    for name in (name for name in ours if name.startswith("opt_state/adam/mu/")):
        first, second = ours[name], ours[name.replace("/mu/", "/nu/")]
        gradient = first / (1 - AdamW.b1)  # that of the one step, with none from before
        np.testing.assert_allclose(second, (1 - AdamW.b2) * gradient**2, rtol=1e-4)


def test_a_wrong_path_to_begin_from_is_one_line_and_the_right_one_works_then(
    trainer, lab, undisturbed, warm, tmp_path
):
    workdir = tmp_path / "run"
    for source in (tmp_path / "nowhere", undisturbed / "checkpoints" / "23"):
        line = refused(start(trainer, warm, workdir, source))
        assert str(source) in line
        assert not lab.steps(workdir)
    assert start(trainer, warm, workdir, undisturbed).wait() == 0
