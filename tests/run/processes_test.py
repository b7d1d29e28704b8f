"""One process, two real processes and a later evaluation tell the same story."""

import json

import pytest

FLAGS = ("--config.steps=4", "--config.save_steps=2", "--config.log_steps=1")


def evaluated(lab, workdir):
    (line,) = lab.log(workdir, "evaluate")
    return {k: v for k, v in line.items() if k not in ("kind", "evaluation_seconds")}


@pytest.fixture(scope="module")
def alone(trainer, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    trainer.finish(workdir, *FLAGS)
    return workdir


def test_two_processes_train_and_evaluate_like_one(trainer, lab, alone, tmp_path):
    pair = trainer.pair(tmp_path, *FLAGS)
    assert [run.wait() for run in pair] == [0, 0]
    one, two = lab.losses(alone), lab.losses(tmp_path)
    assert one.keys() == two.keys() == {1, 2, 3, 4}
    for step in one:
        assert two[step] == pytest.approx(one[step], rel=1e-5)
    wanted, found = evaluated(lab, alone), evaluated(lab, tmp_path)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name
    assert "step 4/4" in pair[0].err
    assert pair[1].lines == []  # process 0 alone speaks


def test_two_processes_that_share_every_row_train_and_evaluate_like_one(
    trainer, lab, alone, tmp_path
):
    """With layers cut across them both feed the whole batch, of pictures and of texts alone."""
    pair = trainer.pair(tmp_path, *FLAGS, "--config.mesh.tensor=2")
    assert [run.wait() for run in pair] == [0, 0], pair[0].err
    one, two = lab.losses(alone), lab.losses(tmp_path)
    for step in one:
        assert two[step] == pytest.approx(one[step], rel=1e-5)
    found = evaluated(lab, tmp_path)
    for name, value in evaluated(lab, alone).items():
        assert found[name] == pytest.approx(value, rel=1e-4), name


def test_processes_that_find_other_data_are_refused_alike(trainer, lab, tmp_path):
    fewer = lab.write_tar(tmp_path / "train.tar", lab.good_samples(50))
    pair = trainer.pair(tmp_path / "run", *FLAGS, apart={1: {"data": fewer}})
    assert [run.wait() for run in pair] == [2, 2], pair[0].err
    said = "error: process 1 has found other data (1 shard, "
    for run in pair:
        assert run.lines[-1].startswith(said), run.err
        assert "50 samples of jpg txt) than process 0 (" in run.lines[-1]
    assert lab.steps(tmp_path / "run") == []


def test_a_run_goes_on_with_another_number_of_processes(trainer, lab, alone, tmp_path):
    pair = trainer.pair(tmp_path, *FLAGS)
    pair[0].until(lambda: lab.steps(tmp_path) == [2])
    for run in pair:
        run.process.kill()
        run.wait()
    steps = lab.steps(tmp_path)
    again = trainer.finish(tmp_path, *FLAGS)
    assert again.resumed_from() == steps[-1]
    for step, loss in lab.losses(alone).items():
        if step > steps[-1]:
            assert lab.losses(tmp_path)[step] == pytest.approx(loss, rel=1e-5)


def test_evaluating_later_gives_the_same_numbers(trainer, lab, alone):
    refused = trainer.command("eval.py", f"--workdir={alone}", "--step=4")
    assert refused.wait() == 2  # the tiny config has classes of its own, which nobody trusts
    assert "is refused" in refused.err
    scenes = alone.parent / "scenes"
    config = "configs/features.py:smoke"
    flags = (f"--config={config}", f"--workdir={scenes}")
    assert trainer.command("train.py", *flags).wait() == 0
    saved = json.loads((scenes / "config.json").read_text())
    gone = {"target": "mmjax.data.dataset:Dataset", "path": str(alone / "gone.tar")}
    (scenes / "config.json").write_text(json.dumps(saved | {"data": gone}))
    later = trainer.command("eval.py", f"--workdir={scenes}")  # needs no training data
    assert later.wait() == 0, later.err
    numbers = json.loads(
        next(line for line in later.out.splitlines() if line.startswith('{"step"'))
    )
    for name, value in evaluated(lab, scenes).items():
        assert numbers[name] == pytest.approx(value, rel=1e-6), name
    assert (scenes / "report.html").exists()


def test_evaluation_takes_overrides_and_names_what_is_missing(trainer, tmp_path):
    run = trainer.command("eval.py", f"--workdir={tmp_path}/nothing")
    assert run.wait() == 2
    assert "holds no config.json" in run.err


def test_a_cold_and_a_warm_start_give_bitwise_equal_losses(trainer, lab, tmp_path):
    cache = {"MMJAX_CACHE": str(tmp_path / "cache")}
    for name in ("cold", "warm"):
        trainer.finish(tmp_path / name, *FLAGS, **cache)
    assert any((tmp_path / "cache" / "xla").rglob("*-cache"))
    assert lab.losses(tmp_path / "cold") == lab.losses(tmp_path / "warm")
    lab.assert_same(lab.state(tmp_path / "warm"), lab.state(tmp_path / "cold"))
