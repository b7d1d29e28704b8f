"""A run that begins with SigLIP 2 NaFlex: pictures of any shape, cut into patches, in and out."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import simplejpeg

import mmjax
from mmjax import paths
from mmjax.config import ConfigError
from mmjax.data.pipeline import BatchMaker
from mmjax.data.rows import training_rows
from mmjax.data.transforms.naflex import PATCHES
from mmjax.interop.export import export_weights
from mmjax.parallel.mesh import make_mesh
from mmjax.run.assembly import assemble, named_tokenizer, with_tokenizer
from mmjax.run.config_file import load
from mmjax.run.evaluating import Evaluation
from mmjax.run.evaluation import evaluate
from mmjax.run.flags import parse_train
from mmjax.run.options import Options
from mmjax.run.training import train
from mmjax.training.state import State
from mmjax.typing import View

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
SHAPES = ((24, 24), (60, 20), (17, 90), (40, 33))  # height and width of the pictures, in turn
NUMBER, MOST = 12, 16  # pictures, patches of each
PROCESSOR = {
    "image_processor_type": "Siglip2ImageProcessor",
    "image_mean": [0.5, 0.4, 0.5],
    "image_std": [0.5, 0.5, 0.25],
    "max_num_patches": MOST,
    "patch_size": 4,
    "resample": 2,
}
ZERO_SHOT = f'''
import importlib.util
from mmjax.config import spec
from mmjax.evaluation.zero_shot import ZeroShot
found = importlib.util.spec_from_file_location("recipe", "{ROOT / "configs" / "finetune.py"}")
recipe = importlib.util.module_from_spec(found)
found.loader.exec_module(recipe)

def get_config(variant=""):
    config = recipe.get_config(variant)
    config.eval_data.fields.label_from = "cls"
    config.evaluators.zero_shot = spec(ZeroShot, classes=("a", "b", "c"))
    return config
'''


def picture(number):
    size = (*SHAPES[number % len(SHAPES)], 3)
    return simplejpeg.encode_jpeg(np.random.default_rng(number).integers(0, 255, size, np.uint8))


@pytest.fixture(scope="module")
def shard(lab, tmp_path_factory):
    samples = [
        {"jpg": picture(n), "txt": f"a {n}\nb {n}".encode(), "cls": str(n % 3).encode()}
        for n in range(NUMBER)
    ]
    return lab.write_tar(tmp_path_factory.mktemp("shards") / "a.tar", samples)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The golden model as somebody publishes it, with a processor and a tokenizer."""
    folder = tmp_path_factory.mktemp("source")
    shutil.copy(GOLDEN / "published" / "siglip2_naflex" / "config.json", folder)
    weights = GOLDEN / "published" / "siglip2_naflex" / "state.safetensors"
    shutil.copy(weights, folder / "model.safetensors")
    for name in ("spiece.model", "tokenizer_config.json"):
        shutil.copy(GOLDEN / "whole" / "siglip_hf" / name, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def given(shard, source, workdir, *overrides, config=ROOT / "configs" / "finetune.py"):
    """The config of a command line."""
    small = {"steps": 2, "batch_size": 8, "save_steps": 2, "eval_steps": 0, "dtype": "float32"}
    small |= {"data.path": shard, "eval_data.path": shard, "log_steps": 1, "init_from": source}
    arguments = [f"--config.{name}={value}" for name, value in small.items()]
    return parse_train([f"--config={config}", f"--workdir={workdir}", *arguments, *overrides])[0]


def flat(loaded):
    return {path: np.asarray(x) for path, x in paths.flatten(loaded.variables).items()}


@pytest.fixture(scope="module")
def full(shard, source, tmp_path_factory):
    """The workdir of a fine-tuning of both towers, evaluated by all that a pair of towers can."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "recipe.py").write_text(ZERO_SHOT)
    config = given(shard, source, folder / "run", config=folder / "recipe.py")
    train(config, str(folder / "run"), Options())
    return folder / "run"


def test_both_towers_are_fine_tuned_and_the_workdir_loads(full, source):
    before, tuned = mmjax.load(source), mmjax.load(full)
    there, after = flat(before), flat(tuned)
    assert set(there) == set(after)
    for path, array in there.items():  # two small steps away, not anywhere else
        np.testing.assert_allclose(after[path], array, atol=1e-3, err_msg=path)
        if not path.endswith("key/bias"):  # no gradient
            assert not np.array_equal(after[path], array), path
    assert tuned.contract == before.contract
    assert tuned.model == before.model
    images = [picture(n) for n in range(4)]
    assert 0 < np.abs(tuned.encode_image(images) - before.encode_image(images)).max() < 0.05


def test_objectives_retrieval_and_zero_shot_are_told_by_the_run_and_by_eval_alike(full):
    lines = [json.loads(line) for line in (full / "metrics.jsonl").read_text().splitlines()]
    told = next(line for line in lines if line["kind"] == "evaluate")
    numbers = evaluate(str(full))
    assert {name.partition("/")[0] for name in numbers} == {"objectives", "retrieval", "zero_shot"}
    for name, value in numbers.items():
        assert told[name] == pytest.approx(value), name
    drawn = json.loads((full / "evaluations" / "2" / "retrieval.json").read_text())
    assert len(drawn["thumbnails"]) == NUMBER
    fewer = evaluate(str(full), overrides=[("max_patches", "2")])
    assert fewer["objectives/contrastive"] != pytest.approx(numbers["objectives/contrastive"])


def test_what_is_written_reads_back_bit_for_bit(full, tmp_path):
    tuned = mmjax.load(full)
    export_weights(tuned, tmp_path / "out", "hf")
    again = mmjax.load(tmp_path / "out")
    before, after = flat(tuned), flat(again)
    assert set(before) == set(after)
    for path, array in before.items():
        np.testing.assert_array_equal(after[path], array, err_msg=path)
    assert (again.contract, again.model) == (tuned.contract, tuned.model)


def test_the_picture_tower_can_be_locked_and_more_patches_be_made(shard, source, tmp_path):
    locked = "--config.optimizer.frozen=('image/.*',)"
    config = given(shard, source, tmp_path, locked, "--config.max_patches=20")
    with config.unlocked():
        config.evaluators = {}
    train(config, str(tmp_path / "run"), Options())
    before, tuned = mmjax.load(source), mmjax.load(tmp_path / "run")
    after = flat(tuned)
    for path, array in flat(before).items():
        if not path.endswith("key/bias"):
            same = np.array_equal(after[path], array)
            assert same == path.startswith("params/image/"), path
    assert tuned.contract.max_patches == 20
    saved = load(str(tmp_path / "run" / "config.json"))  # whose numbers run through it again
    saved.max_patches = 9
    assert [data.transforms[-1].max_patches for data in (saved.data, saved.eval_data)] == [9, 9]


def test_evaluation_embeds_a_picture_as_the_loaded_source_does(shard, source, tmp_path):
    config = given(shard, source, tmp_path, "--config.eval_batch_size=8")
    parts = with_tokenizer(assemble(config), named_tokenizer(config.tokenizer))
    loaded = mmjax.load(source)
    assert parts.recipe.contract == loaded.contract
    evaluation = Evaluation(parts, make_mesh(), parts.settings["reading"])
    state = State(None, loaded.params, {}, {}, {}, {}, {})
    held = evaluation.context(loaded.params, state).encode(View("encode_image", PATCHES))
    alone = loaded.encode_image([picture(n) for n in range(NUMBER)])
    (found,) = held.embeddings.values()
    np.testing.assert_allclose(found, alone, atol=1e-6)


def test_training_pictures_are_cut_as_loaded_ones_are_or_mirrored_first(shard, source, tmp_path):
    config = given(shard, source, tmp_path)
    parts = with_tokenizer(assemble(config), named_tokenizer(config.tokenizer))
    loaded = mmjax.load(source)
    maker = BatchMaker(
        training_rows((parts.streams["main"].data.members[0],), 0, "main", 32), 32, 0, 1, 1
    )
    batch = maker(0)
    assert batch["patches"].dtype == np.uint8
    assert "image" not in batch
    mirrored = 0
    for row in range(32):
        _, position = batch["sample_id"][row]
        words = loaded.pixels(picture(position))
        for word in ("patch_mask", "patch_grid"):
            np.testing.assert_array_equal(batch[word][row], words[word][0])
        mirrored += not np.array_equal(batch["patches"][row], words["patches"][0])
    assert 0 < mirrored < 32
    np.testing.assert_array_equal(batch["patches"], maker(0)["patches"])


def test_where_no_file_tells_of_pictures_they_get_as_many_patches_as_positions(
    shard, source, tmp_path, capsys
):
    folder = pathlib.Path(shutil.copytree(source, tmp_path / "source"))
    (folder / "preprocessor_config.json").unlink()
    config = given(shard, folder, tmp_path)
    assert "has no processor_config.json or preprocessor_config.json" in capsys.readouterr().out
    told = config.preprocess
    assert (told.resize, told.patch_size, told.max_patches) == ("naflex", 4, 9)
    assert told.interpolation == config.data.transforms[-1].interpolation == "bilinear"


def test_sizes_of_squares_and_unlike_ways_of_cutting_are_refused(shard, source, tmp_path):
    with pytest.raises(ConfigError, match=r"in their own shape; give .* --config\.max_patches=N"):
        given(shard, source, tmp_path, "--config.image_size=336")
    with pytest.raises(ConfigError, match=r"max_patches=0: give 1 or more"):
        assemble(given(shard, source, tmp_path, "--config.max_patches=0"))
    with pytest.raises(ConfigError, match=r"NaFlex of eval_data has interpolation='bilinear' and"):
        assemble(given(shard, source, tmp_path, "--config.preprocess.interpolation=bicubic"))
    clip = GOLDEN / "whole" / "clip_hf"
    with pytest.raises(ConfigError, match=r"no key 'max_patches'"):
        given(shard, clip, tmp_path, "--config.max_patches=9")
