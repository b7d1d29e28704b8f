"""A workdir at an address: trained, killed, resumed and evaluated as one in a folder."""

import json
import signal
import time
from pathlib import Path

import fsspec
import pytest

from mmjax.config import ConfigError, override
from mmjax.run import training
from mmjax.run.config_file import load
from mmjax.run.evaluation import evaluate
from mmjax.run.hooks import RunHooks
from mmjax.run.options import Options
from mmjax.run.training import train
from mmjax.training.checkpoint import Checkpoints
from mmjax.training.home import open_home
from mmjax.training.loop import Failed
from mmjax.training.store import Store, StoreError

TESTS = Path(__file__).parents[1]
CONFIGS = TESTS.parent / "configs"
BUCKET = TESTS / "bucket.py"
SIX = ("--config.steps=6", "--config.save_steps=3")


def changed(name="features", **values):
    config = load(f"{CONFIGS / name}.py:smoke")
    for path, value in values.items():
        override(config, path.replace("__", "."), str(value))
    return config


@pytest.fixture
def here(trainer, tmp_path, monkeypatch):
    """The current folder; neither it nor the one for copies on this host keeps anything."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("MMJAX_CACHE", str(trainer.cache))
    yield tmp_path / "here"
    assert not list((tmp_path / "here").iterdir())
    assert not list((trainer.cache / "workdirs").glob("*"))


@pytest.fixture(scope="module")
def whole(trainer, tmp_path_factory):
    """Six steps in a folder, undisturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    trainer.finish(workdir, *SIX)
    return workdir


@pytest.fixture
def start(trainer, bucket):
    """Starts a run of the tiny config at an address of the bucket."""

    def started(url, *flags, **environment):
        paths = (f"--config.data.path={trainer.train}", f"--config.eval_data.path={trainer.val}")
        environment = {"BUCKET_ROOT": str(bucket.root()), **environment}
        return trainer.start(url, *paths, *flags, config=BUCKET, **environment)

    return started


def test_a_run_in_memory_is_trained_evaluated_and_gone_on_with(here, capsys):
    url = "memory://trained/run"
    numbers = train(changed(), url)
    store = Store(url)
    there = set(store.sizes())
    assert {"config.json", "metrics-000001.jsonl", "report.html", "preprocess.json"} <= there
    assert {"checkpoints/1/manifest.json", "checkpoints/2/manifest.json"} <= there
    assert {"evaluations/2/retrieval.json"} <= there
    assert any(name.startswith("tensorboard/") for name in there)
    assert "lock.json" not in there
    assert "metrics.jsonl" not in there
    assert f"report: {url}/report.html" in capsys.readouterr().out
    store.delete(["report.html", "evaluations/2/retrieval.json"])
    again = evaluate(url)
    assert again.keys() == numbers.keys()
    for name, value in numbers.items():
        assert again[name] == pytest.approx(value, rel=1e-6), name
    assert b"R@1" in store.read("report.html")
    assert {"report.html", "evaluations/2/retrieval.json"} <= set(store.sizes())
    older = evaluate(url, step=1)
    assert older != again
    with pytest.raises(ConfigError, match=rf"^{url} holds no checkpoint of step 7; it holds 1, 2"):
        evaluate(url, step=7)
    with pytest.raises(
        ConfigError, match=rf"^{url} holds a run with another config: seed: 0 → 5\."
    ):
        train(changed(seed=5), url)
    assert train(changed(steps=3), url, Options(resume=True))
    assert json.loads(store.read("config.json"))["steps"] == 3
    lines = [json.loads(line) for line in store.read("metrics-000001.jsonl").splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3]


def test_the_last_part_of_an_address_may_be_named_as_a_runs_own_folders_are(here):
    url = "memory://named/checkpoints"
    train(changed(), url)
    there = Store(url).sizes()
    assert "evaluations/2/retrieval.json" in there
    assert any(name.startswith("tensorboard/") for name in there)


def test_an_overwriting_run_that_is_refused_late_leaves_the_old_one(here):
    url = "memory://overwritten/run"
    train(changed(), url)
    store = Store(url)
    store.write("mine.txt", b"foreign")
    before = {name: store.read(name) for name in store.sizes()}
    unlike = changed(goals__contrastive__objective__positives="('caption_id',)")
    with pytest.raises(ConfigError, match="needs 'caption_id'"):  # found once the data are open
        train(unlike, url, Options(overwrite=True))
    assert {name: store.read(name) for name in store.sizes()} == before
    train(changed(seed=5), url, Options(overwrite=True))
    assert json.loads(store.read("config.json"))["seed"] == 5
    now = {name: store.read(name) for name in store.sizes()}
    assert now["mine.txt"] == b"foreign"
    same = {name for name in now if now[name] == before.get(name)}
    assert not any("/state/d/" in name or name.startswith(("metrics", "tensor")) for name in same)


def test_a_recipe_in_two_stages_hands_its_weights_on_at_an_address(here):
    config, first = changed(steps=1), changed(seed=5)
    with config.unlocked():
        config.first = first
    train(config, "memory://staged/run")
    there = Store("memory://staged/run").sizes()
    assert {"first/checkpoints/2/manifest.json", "checkpoints/1/manifest.json"} <= set(there)
    away = changed(init_from="memory://staged/run", init_rules="(('image/(.*)', r'image/\1'),)")
    with pytest.raises(ConfigError, match=r"^init_from=memory://staged/run: "):
        train(away, "memory://staged/other")
    with pytest.raises(ConfigError, match=r"^memory://staged/none/checkpoints holds no checkpoint"):
        train(changed(init_from="memory://staged/none"), "memory://staged/other")


def test_what_is_missing_is_said_in_a_line_and_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def missing(url):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    for act in (lambda url: train(changed(), url), evaluate):
        with pytest.raises(ConfigError) as caught:
            act("gs://bucket/run")
        assert str(caught.value) == (
            "gs://bucket/run: gs:// needs one more package: pip install 'mmjax[gcs]'."
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("half", ["gs:/bucket/run", "gs://", " gs://bucket/run"])
def test_half_an_address_is_no_folder(half, here):
    for act in (lambda url: train(changed(), url), evaluate):
        with pytest.raises(ConfigError, match=r"^--workdir='.*': an address is written as gs://b"):
            act(half)


@pytest.mark.parametrize("name", ["run:1", "./gs:/run", "gs"])
def test_a_folder_may_have_a_colon_in_its_name(name, here):
    assert open_home(name).folder == (here / name)


def test_a_tilde_is_the_home_folder_and_a_blank_name_no_folder(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here / "me"))
    assert open_home("~/run").folder == here / "me" / "run"
    assert open_home("./~").folder == here / "~"
    for act in (lambda name: train(changed(), name), evaluate):
        with pytest.raises(ConfigError, match=r"^--workdir=' ' is blank; name a folder or"):
            act(" ")


def test_an_address_without_a_run_has_nothing_to_evaluate(here):
    with pytest.raises(ConfigError, match=r"^memory://nothing/run holds no config\.json"):
        evaluate("memory://nothing/run")


def test_a_store_that_takes_no_checkpoint_ends_the_run_with_its_address(bucket, here, monkeypatch):
    monkeypatch.setattr("mmjax.data.sources.retrying.FIRST_WAIT", 0.01)
    bucket.failing(**{"2/manifest.json": {"fail": 10**6}})
    said = r"step 2 could not be saved \(.*bucket://full/run/checkpoints/2/manifest\.json, 5 times"
    with pytest.raises(Failed, match=said):
        train(changed(), "bucket://full/run")
    assert "checkpoints/1/manifest.json" in Store("bucket://full/run").sizes()


@pytest.mark.parametrize("saved", [12, 8])
def test_a_store_that_answers_no_more_at_the_end_is_one_line(saved, monkeypatch):
    def silent(self):
        raise StoreError("bucket://store/run: TimeoutError")

    monkeypatch.setattr(Checkpoints, "steps", silent)
    checkpoints, hooks = Checkpoints.__new__(Checkpoints), RunHooks.__new__(RunHooks)
    hooks.saved, hooks.last_problem = saved, ""
    if saved == 12:
        training._check_saved(checkpoints, hooks, 0, 12)
        return
    with pytest.raises(Failed, match=r"^step 12 could not be saved \(bucket://store/run: Timeout"):
        training._check_saved(checkpoints, hooks, 0, 12)


def test_six_steps_are_three_then_kill_9_then_three_more(lab, bucket, start, whole, tmp_path):
    url = "bucket://store/cut"
    run = start(url, *SIX)
    run.until(lambda: lab.steps(bucket.root() / "store/cut") == [3])
    run.process.send_signal(signal.SIGSTOP)
    with pytest.raises(ConfigError, match=rf"^{url} is being written by process {run.process.pid}"):
        train(changed(), url)
    run.process.kill()
    assert run.wait() == -signal.SIGKILL
    again = start(url, *SIX)
    assert again.wait() == 0, again.err
    assert again.resumed_from() == 3
    copy = bucket.as_local(url, tmp_path / "copy")
    lab.assert_same(lab.state(copy, 6), lab.state(whole, 6))
    made, wanted = lab.losses(copy), lab.losses(whole)
    assert all(made[step] == wanted[step] for step in made)
    assert {4, 5, 6} <= made.keys()
    assert not (copy / "lock.json").exists()


def test_two_processes_without_a_disk_in_common_go_on_as_one(
    trainer, lab, bucket, start, whole, tmp_path
):
    url = "bucket://store/pair"
    pair = trainer.pair(
        url,
        f"--config.data.path={trainer.train}",
        f"--config.eval_data.path={trainer.val}",
        *SIX,
        config=BUCKET,
        BUCKET_ROOT=str(bucket.root()),
    )
    pair[0].until(lambda: lab.steps(bucket.root() / "store/pair") == [3])
    for run in pair:
        run.process.kill()
        run.wait()
    again = start(url, *SIX)
    assert again.wait() == 0, again.err
    assert again.resumed_from() >= 3
    made = lab.losses(bucket.as_local(url, tmp_path / "copy"))
    for step, loss in lab.losses(whole).items():
        assert made.get(step, loss) == pytest.approx(loss, rel=1e-5)


def test_a_run_that_is_stopped_has_put_all_it_logged(trainer, lab, bucket, start):
    url = "bucket://store/stopped"
    run = start(url, "--config.steps=1000000", "--config.save_steps=1000000")
    run.until_step(5)
    run.process.send_signal(signal.SIGTERM)
    assert run.wait(60) == 128 + signal.SIGTERM, run.err
    (step,) = lab.steps(bucket.root() / "store/stopped")
    there = Store(url).sizes()
    assert "report.html" in there
    assert "lock.json" not in there
    lines = map(json.loads, Store(url).read("metrics-000001.jsonl").splitlines())
    made = [line["step"] for line in lines if line["kind"] == "train"]
    assert made == list(range(1, step + 1))
    assert not list((trainer.cache / "workdirs").iterdir())


def test_a_run_that_was_taken_over_ends_and_writes_nothing_more(lab, bucket, start):
    url = "bucket://store/taken"
    run = start(url, "--config.steps=1000000", "--config.save_steps=5")
    run.until(lambda: lab.steps(bucket.root() / "store/taken")[-1:] >= [5])
    body = json.loads(Store(url).read("lock.json"))
    other = {**body, "host": "elsewhere", "token": "another", "heartbeat": time.time()}
    Store(url).write("lock.json", json.dumps(other).encode())
    assert run.wait(60) == 1
    assert "another process has taken over this workdir" in run.lines[-1]
    assert "Traceback" not in run.err
    there = Store(url).sizes()
    assert json.loads(Store(url).read("lock.json"))["token"] == "another"
    assert "report.html" not in there
