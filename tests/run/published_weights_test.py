"""A run that begins with published weights: as a person types it, to its workdir and back."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mmjax
from mmjax import paths
from mmjax.config import ConfigError
from mmjax.interop.export import export_weights
from mmjax.interop.family import compare
from mmjax.run.assembly import assemble, named_tokenizer, with_tokenizer
from mmjax.run.flags import parse_train
from mmjax.run.training import train

ROOT = pathlib.Path(__file__).parents[2]
ASIDE = "text_model.embeddings.position_ids"
SOURCE = ROOT / "tests" / "golden" / "whole" / "clip_hf"


@pytest.fixture(scope="module")
def shard(lab, tmp_path_factory):
    return lab.write_tar(tmp_path_factory.mktemp("shards") / "a.tar", lab.good_samples(16))


def run(shard, workdir, *overrides, config="finetune.py"):
    """Trains two steps as the command line would; gives the config."""
    arguments = [f"--config={ROOT / 'configs' / config}", f"--workdir={workdir}"]
    small = {"steps": 2, "batch_size": 8, "save_steps": 2, "eval_steps": 0, "dtype": "float32"}
    small |= {"data.path": shard, "eval_data.path": shard, "log_steps": 1}
    arguments += [f"--config.{name}={value}" for name, value in small.items()]
    config, workdir, options = parse_train([*arguments, *overrides])
    train(config, workdir, options)
    return config


def flat(loaded):
    return {path: np.asarray(x) for path, x in paths.flatten(loaded.variables).items()}


@pytest.fixture(scope="module")
def full(shard, tmp_path_factory):
    """The workdir of a fine-tuning of both towers, of a file that also holds what we do not use."""
    folder = tmp_path_factory.mktemp("full")
    source = pathlib.Path(shutil.copytree(SOURCE, folder / "source"))
    arrays = load_file(source / "model.safetensors")
    save_file({**arrays, ASIDE: np.arange(16)[None]}, source / "model.safetensors")
    run(shard, folder / "run", f"--config.init_from={source}")
    return folder / "run"


def test_all_of_a_published_model_is_fine_tuned_and_its_workdir_loads(full):
    source, tuned = mmjax.load(SOURCE), mmjax.load(full)
    before, after = flat(source), flat(tuned)
    assert set(before) == set(after)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert {path.split("/")[1] for path in moved} >= {"image", "text", "log_scale"}
    for path in before:  # two small steps away, not anywhere else
        np.testing.assert_allclose(after[path], before[path], atol=1e-3)
    np.testing.assert_array_equal(
        tuned.token_ids(["a photo of a cat"])["token_ids"],
        source.token_ids(["a photo of a cat"])["token_ids"],
    )
    assert tuned.contract == source.contract
    image = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    apart = np.abs(tuned.encode_image(image) - source.encode_image(image)).max()
    assert 0 < apart < 0.05


def test_the_workdir_tells_where_its_weights_came_from(full):
    told = json.loads((full / "origin.json").read_text())
    assert told["source"] == str(full.parent / "source")
    assert told["family"] == "hf/clip"
    assert (full / "checkpoints" / "2" / "origin.json").exists()
    saved = json.loads((full / "config.json").read_text())
    assert saved["model"]["image"]["activation"] == "quick_gelu"
    assert saved["preprocess"]["resize"] == "shortest"


def test_what_was_set_aside_is_written_back_from_the_workdir(full, tmp_path):
    tuned = mmjax.load(full)
    assert tuned.origin.family == "hf/clip"
    export_weights(tuned, tmp_path / "out", "hf")
    np.testing.assert_array_equal(
        load_file(tmp_path / "out" / "model.safetensors")[ASIDE], np.arange(16)[None]
    )
    assert set(flat(mmjax.load(tmp_path / "out"))) == set(flat(tuned))


def test_a_tower_can_be_locked_and_positions_fit_another_picture_size_and_length(shard, tmp_path):
    run(
        shard,
        tmp_path / "run",
        f"--config.init_from={SOURCE}",
        "--config.optimizer.frozen=('image/.*',)",
        "--config.image_size=32",
        "--config.sequence_length=12",
    )
    before, after = flat(mmjax.load(SOURCE)), flat(mmjax.load(tmp_path / "run"))
    assert after["params/image/position_embedding"].shape[0] == 1 + 4 * 4
    assert after["params/text/position_embedding"].shape[0] == 12
    for path in before:
        if path.endswith(("position_embedding", "key/bias")):  # another size; no gradient
            continue
        same = np.array_equal(before[path], after[path])
        assert same == path.startswith("params/image/"), path


def test_what_a_run_would_do_otherwise_than_the_source_is_named_on_both_sides(shard, tmp_path):
    changes = ("--config.model.image.activation=gelu", "--config.preprocess.mean=(0.5,0.5,0.5)")
    given = f"--config.init_from={SOURCE}"
    with pytest.raises(ConfigError, match=r"'quick_gelu' there and 'gelu' here.*preprocess.mean"):
        run(shard, tmp_path / "run", given, *changes)
    assert not (tmp_path / "run" / "checkpoints").exists()
    change = "--config.preprocess.crop_rounding=even"
    with pytest.raises(ConfigError, match="Resize of eval_data has crop_rounding='down'"):
        run(shard, tmp_path / "run", given, change)
    change = (change, "--config.eval_data.transforms[0].crop_rounding=even")
    with pytest.raises(ConfigError, match="crop_rounding is 'down' there and 'even' here"):
        run(shard, tmp_path / "run", given, *change)


def test_without_a_source_the_recipe_says_what_to_give(shard, tmp_path):
    with pytest.raises(ConfigError, match=r"give --config\.init_from="):
        run(shard, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"no key 'init_fron'.*init_from"):
        run(shard, tmp_path / "run", f"--config.init_fron={SOURCE}")
    with pytest.raises(ConfigError, match="no published weights"):
        run(shard, tmp_path / "run", f"--config.init_from={tmp_path}")


def test_it_may_be_done_otherwise_and_going_on_needs_nothing_of_the_source(shard, tmp_path):
    given = f"--config.init_from={SOURCE}"
    changed = "--config.model.image.activation=gelu"
    run(shard, tmp_path / "run", given, changed, "--config.init_differs=('model.image.*',)")
    config = f"--config={tmp_path / 'run' / 'config.json'}"
    made, workdir, options = parse_train(
        [config, f"--workdir={tmp_path / 'run'}", "--config.steps=3", "--resume"]
    )
    train(made, workdir, options)
    assert (tmp_path / "run" / "checkpoints" / "3").exists()


def test_a_run_goes_on_with_its_own_tokenizer_once_the_source_is_gone(shard, full, tmp_path):
    """By its own config; but a file that it never read is asked for."""
    begun = full.parent / "source"
    workdir = pathlib.Path(shutil.copytree(full, tmp_path / "run"))
    moved = shutil.move(begun, tmp_path / "elsewhere")
    try:
        given = [f"--config={workdir / 'config.json'}", f"--workdir={workdir}"]
        longer = [*given, "--config.steps=3", "--resume"]
        other = [*longer, f"--config.tokenizer.path={tmp_path / 'none' / 'tokenizer.json'}"]
        made, _, options = parse_train(other)
        with pytest.raises(ConfigError, match=r"none/tokenizer\.json"):
            train(made, str(workdir), options)
        made, _, options = parse_train([*given, "--overwrite"])
        with pytest.raises(ConfigError, match=r"source/tokenizer\.json"):  # no copies to begin with
            train(made, str(workdir), options)
        assert (workdir / "checkpoints" / "2").exists()
        made, _, options = parse_train(longer)
        train(made, str(workdir), options)
    finally:
        shutil.move(moved, begun)
    assert (workdir / "checkpoints" / "3").exists()
    assert str(begun) in json.loads((workdir / "config.json").read_text())["tokenizer"]["path"]
    words = ["a photo of a cat"]
    tuned, first = (mmjax.load(folder).token_ids(words) for folder in (workdir, full))
    np.testing.assert_array_equal(tuned["token_ids"], first["token_ids"])


@pytest.mark.parametrize("name", ["align_hf", "chinese_clip_hf", "clip_hf"])
def test_the_recipe_takes_every_family_of_two_towers(name, shard, tmp_path):
    folder = SOURCE.parent / name
    arguments = [f"--config={ROOT / 'configs' / 'finetune.py'}", f"--workdir={tmp_path}"]
    arguments += [f"--config.init_from={folder}", f"--config.data.path={shard}"]
    config, _, _ = parse_train([*arguments, f"--config.eval_data.path={shard}"])
    parts = with_tokenizer(assemble(config), named_tokenizer(config.tokenizer))
    loaded = mmjax.load(folder)
    assert not compare(parts.recipe.model, loaded.model)
    assert parts.recipe.contract == loaded.contract


def test_a_picture_tower_alone_goes_into_a_recipe_of_two(shard, tmp_path):
    source = ROOT / "tests" / "golden" / "published" / "vit" / "saved"
    image = {"patch_size": 6, "dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 24, "head": "tanh"}
    image |= {"head_dim": 12, "pre_norm": False, "patch_bias": True, "activation": "gelu"}
    text = {"dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32}
    sizes = {"image_size": 24, "vocab_size": 512, "model.embed_dim": 16}
    sizes |= {f"model.image.{name}": value for name, value in image.items()}
    sizes |= {f"model.text.{name}": value for name, value in text.items()}
    given = [f"--config.{name}={value}" for name, value in sizes.items()]
    given += [f"--config.init_from={source}", r"--config.init_rules=(('(.*)', r'image/\1'),)"]
    with pytest.raises(ConfigError, match=r"norm_epsilon is 1e-12 there and 1e-05 here"):
        run(shard, tmp_path / "run", *given, config="lit_b16.py")
    given += ["--config.model.image.norm_epsilon=1e-12"]
    run(shard, tmp_path / "run", *given, config="lit_b16.py")
    before, after = flat(mmjax.load(source)), flat(mmjax.load(tmp_path / "run"))
    assert after["params/image/position_embedding"].shape[0] == 1 + 4 * 4  # 18 pixels were 9
    for path, array in before.items():
        if not path.endswith("position_embedding"):
            there = after[path.replace("params/", "params/image/", 1)]
            np.testing.assert_array_equal(there, array)


def test_a_size_before_the_cut_follows_the_size_that_is_cut_out():
    source = ROOT / "tests" / "golden" / "whole" / "align_hf"  # resized to 32, of which 27 stay
    asked = [f"--config={ROOT / 'configs' / 'finetune.py'}", "--workdir=none"]
    asked += [f"--config.init_from={source}", "--config.data.path=a", "--config.eval_data.path=a"]
    for size, before in ((27, 32), (54, 64)):
        config, _, _ = parse_train([*asked, f"--config.image_size={size}"])
        (resize,) = (t for t in config.eval_data.transforms if t.target.endswith(":Resize"))
        assert config.preprocess.resize_size == resize.resize_size == before
