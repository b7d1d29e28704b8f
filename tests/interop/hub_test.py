"""hf:// addresses: a cache as the hub's own library lays it out, and no network."""

import json
import pathlib
import shutil
import sys

import numpy as np
import pytest

import mmjax
from mmjax.config import ConfigError
from mmjax.interop import hub
from mmjax.interop.tensors import WeightsError
from mmjax.run.flags import parse_train
from mmjax.run.training import train

pytest.importorskip("huggingface_hub")

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "whole" / "clip_hf"
FIRST, SECOND = "0123456789" * 4, "fedcba9876" * 4


def repository(cache, name, refs, fill):
    """A repository in a cache: {branch: commit}, each commit's folder made by `fill`."""
    folder = cache / f"models--{name.replace('/', '--')}"
    for branch, commit in refs.items():
        ref = folder / "refs" / branch
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)
        fill(folder / "snapshots" / commit, folder / "blobs")


def with_weights(snapshot, blobs):
    """A CLIP, its files as links to others, as the hub's library keeps them."""
    snapshot.mkdir(parents=True)
    blobs.mkdir(exist_ok=True)
    for file in GOLDEN.iterdir():
        shutil.copy(file, blobs / file.stem)
        (snapshot / file.name).symlink_to(pathlib.Path("../../blobs") / file.stem)


def with_pickles(snapshot, blobs):
    snapshot.mkdir(parents=True)
    shutil.copy(GOLDEN / "config.json", snapshot)
    (snapshot / "pytorch_model.bin").write_bytes(b"no matter")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with two repositories, and no way to fetch."""
    made = tmp_path / "home" / "hub"
    repository(made, "me/clip", {"main": FIRST, "refs/pr/7": SECOND}, with_weights)
    repository(made, "me/pickles", {"main": FIRST}, with_pickles)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(made))
    return made


@pytest.mark.parametrize(
    ("revision", "commit"),
    [("", FIRST), ("@main", FIRST), ("@refs/pr/7", SECOND), (f"@{SECOND}", SECOND)],
)
def test_an_address_is_resolved_to_its_commit(cache, revision, commit, capsys):
    folder, resolved = hub.download(f"hf://me/clip{revision}")
    assert folder == cache / "models--me--clip" / "snapshots" / commit
    assert resolved == f"hf://me/clip@{commit}"
    printed = capsys.readouterr()
    assert not printed.out
    assert (resolved in printed.err) == (revision != f"@{commit}")


def test_a_model_from_the_hub_is_the_folders_and_tells_its_commit(cache):
    loaded, folder = mmjax.load("hf://me/clip"), mmjax.load(GOLDEN)
    assert loaded.origin.source == f"hf://me/clip@{FIRST}"
    assert loaded.contract == folder.contract
    texts = ["a photo of a cat"]
    np.testing.assert_array_equal(loaded.encode_text(texts), folder.encode_text(texts))


def test_the_cache_may_be_named_by_its_home(cache, monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(cache.parent))
    assert hub.download("hf://me/clip")[1].endswith(FIRST)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache.parent / "nothing"))  # it goes first
    with pytest.raises(WeightsError):
        hub.download("hf://me/clip")


@pytest.mark.parametrize(
    "address",
    ["hf://me/none", "hf://me/clip@none", f"hf://me/clip@{'0' * 40}"],
)
def test_what_is_not_there_is_one_line(cache, address):
    with pytest.raises(WeightsError, match=address) as raised:
        mmjax.load(address)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "address",
    ["hf://clip", "hf://", "hf://a/b/c", "hf://me/clip@", "hf://../clip", "hf://me/clip@../main"],
)
def test_what_is_no_address_is_refused(cache, address):
    with pytest.raises(WeightsError, match=r"hf://"):
        mmjax.load(address)


def test_a_repository_of_pickles_names_where_a_conversion_may_be(cache):
    with pytest.raises(WeightsError, match=r"no \.safetensors.*hf://me/pickles@refs/pr/N"):
        mmjax.load("hf://me/pickles")


def test_without_the_library_the_extra_is_named(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"pip install 'mmjax\[hub\]'"):
        mmjax.load("hf://me/clip")


def arguments(workdir, source, shard):
    """A fine-tuning of one step, as it is typed."""
    small = {"steps": 1, "batch_size": 8, "dtype": "float32", "eval_steps": 0, "init_from": source}
    small |= {"data.path": shard, "eval_data.path": shard}
    config = [f"--config={ROOT / 'configs' / 'finetune.py'}", f"--workdir={workdir}"]
    return [*config, *(f"--config.{name}={value}" for name, value in small.items())]


def test_a_run_keeps_and_prints_the_commit_that_it_began_with(cache, tmp_path, lab, capfd):
    shard = lab.write_tar(tmp_path / "a.tar", lab.good_samples(8))
    workdir, resolved = tmp_path / "run", f"hf://me/clip@{FIRST}"
    train(*parse_train(arguments(workdir, "hf://me/clip@main", shard)))
    assert json.loads((workdir / "origin.json").read_text())["source"] == resolved
    assert json.loads((workdir / "config.json").read_text())["init_from"] == resolved
    assert f"weights: {resolved}" in "".join(capfd.readouterr())
    # main has moved: the same command is not quietly another run.
    (cache / "models--me--clip" / "refs" / "main").write_text(SECOND)
    with pytest.raises(ConfigError, match=SECOND):
        train(*parse_train(arguments(workdir, "hf://me/clip@main", shard)))
