"""Fine-tuning on a task: what a config takes from each kind of source, and one run of it."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import mmjax
from mmjax import paths
from mmjax.config import ConfigError, build, spec, to_json
from mmjax.data.datasets.scene_questions import scene_answers
from mmjax.data.datasets.scene_regions import FEATURE_DIM
from mmjax.data.tokenizers.training import train_bpe
from mmjax.data.transforms.regions import Regions
from mmjax.interop.reading import abstract
from mmjax.models.encoders.classifier import Classifier
from mmjax.models.encoders.vit import ViT
from mmjax.models.fusion.general import GeneralFusion
from mmjax.models.fusion.lxmert import Lxmert
from mmjax.models.fusion.vilt import Vilt
from mmjax.models.fusion.visualbert import VisualBert, VisualBertStream
from mmjax.run.assembly import (
    RECIPE,
    assemble,
    make_recipe,
    named_tokenizer,
    open_tokenizer,
    with_tokenizer,
)
from mmjax.run.config_file import load
from mmjax.run.flags import parse_train
from mmjax.run.options import Options
from mmjax.run.origin import begin_from
from mmjax.run.shapes import recipe_and_shapes
from mmjax.run.training import train
from mmjax.run.vocabulary import with_answers
from mmjax.training.checkpoint import Checkpoints
from mmjax.training.state import State, new_counters

ROOT = pathlib.Path(__file__).parents[2]
PUBLISHED = ROOT / "tests" / "golden" / "published"
CLIP = ROOT / "tests" / "golden" / "whole" / "clip_hf"
WORDS = f"--config.tokenizer.path={CLIP / 'tokenizer.json'}"
SEEN = ("token_ids", "text_mask", "regions", "region_mask")


def adopted(config, source, *overrides):
    """The config of a command line."""
    arguments = [f"--config={ROOT / 'configs' / config}", "--workdir=unused", *overrides]
    return parse_train([*arguments, f"--config.init_from={source}"])[0]


def folder(name, at):
    """A golden reference as somebody publishes it."""
    at.mkdir()
    shutil.copy(PUBLISHED / name / "config.json", at)
    shutil.copy(PUBLISHED / name / "state.safetensors", at / "model.safetensors")
    return at


def begun(config):
    """(recipe, {path: array}) that the run begins with; arrays that start anew are left out."""
    recipe = make_recipe(build({key: config[key] for key in RECIPE}))
    shapes = {p: jax.ShapeDtypeStruct(s, np.float32) for p, s in abstract(recipe.model).items()}
    tree = paths.unflatten(shapes)
    state = State(None, tree["params"], {}, {}, tree.get("batch_stats", {}), {}, {})
    trees, _ = begin_from(config, recipe, state)
    recipe.optimizer.transform(tree["params"])  # every rule finds its arrays
    return recipe, {
        path: leaf for path, leaf in paths.flatten(trees[0]).items() if isinstance(leaf, np.ndarray)
    }


def test_a_published_vilt_gets_a_head_for_statements_and_a_vector_for_the_second_picture():
    source = PUBLISHED / "vilt_mlm" / "saved"
    config = adopted("nlvr2.py", source, WORDS, "--config.layer_rate=0.5")
    assert config.adopt == ""
    recipe, arrays = begun(config)
    model = recipe.model
    assert isinstance(model, Vilt)
    assert (model.heads, model.pictures, model.stream.modalities) == (("reasoning",), 2, 3)
    theirs = load_file(source / "model.safetensors")
    kinds = theirs["vilt.embeddings.token_type_embeddings.weight"]
    np.testing.assert_array_equal(arrays["stream/modality_embedding"], kinds[[0, 1, 1]])
    assert not [path for path in arrays if "head" in path or path.startswith("masked_lm")]
    assert {path.split("/")[0] for path in arrays} == {"stream"}
    # Pictures are read as the published model does: 12 pixels on a canvas of patches of 4.
    pictures, words = config.data.transforms[0], config.goals.reasoning.objective.fuse[1]
    assert [one.target.rpartition(":")[2] for one in pictures.transforms] == [
        "RandAugment",
        "Padded",
    ]
    assert (pictures.transforms[1].shortest, pictures.transforms[1].patch_size) == (12, 4)
    assert (config.preprocess.image_size, model.stream.max_patches) == (16, 12)
    assert pictures.words == ("image", "image_mask")
    assert words == ("token_ids", "text_mask", "image", "image_mask", "row")
    rates = dict(config.optimizer.rate_rules)
    assert (rates["stream/blocks[1]/.*"], rates["stream/blocks[0]/.*"]) == (0.5, 0.25)


def test_models_of_regions_read_regions_each_in_its_own_form(tmp_path):
    source = folder("lxmert_pretrain", tmp_path / "lxmert")
    config = adopted("vqa.py:smoke", source, WORDS, "--config.adopt=answer")
    recipe, arrays = begun(config)
    model = recipe.model
    assert isinstance(model, Lxmert)
    assert (model.heads, model.answers) == (("answer",), len(scene_answers()))
    # The published head is of 7 other answers.
    assert {path.split("/")[0] for path in arrays} == {"text", "image", "crossings", "pool"}
    regions = config.data.transforms[0]
    assert (regions.boxes, regions.feature_dim, regions.count) == ("corners", 10, 36)
    assert config.data.fields.image_from == ""
    assert config.sequence_length == 12  # a BERT of 12 places
    assert config.goals.answering.objective.fuse[1] == (*SEEN[:3], "boxes", SEEN[3])
    source = PUBLISHED / "visualbert_pretrain" / "saved"
    config = adopted("nlvr2.py:smoke", source, WORDS, "--config.adopt=reasoning")
    regions = config.data.transforms[0]
    assert (regions.boxes, regions.pictures) == ("", ("left", "right"))
    assert "{}.npz:features" in regions.features_from.split(";")
    assert "{}_features" in regions.features_from.split(";")


def test_two_towers_get_a_fusion_over_them_and_one_tower_a_class_head():
    config = adopted("vqa.py:smoke", CLIP, "--config.adopt=answer", "--config.layer_rate=0.8")
    with config.unlocked():  # as it is said when the tokenizer is bound
        config.preprocess.tokenizer = mmjax.load(CLIP).contract.tokenizer
    recipe, arrays = begun(config)
    model = recipe.model
    assert isinstance(model, GeneralFusion)
    assert (model.form, model.heads) == ("hierarchical", ("answer",))
    assert not [path for path in arrays if path.startswith(("fusion", "answer_head"))]
    frame = config.data.transforms[1]
    assert (frame.target.rpartition(":")[2], frame.form, frame.size) == ("Resize", "shortest", 24)
    assert recipe.contract.mean == mmjax.load(CLIP).contract.mean
    assert config.tokenizer.path == str(CLIP / "tokenizer.json")

    given = ("--config.adopt=classify", "--config.num_classes=7", "--config.several=True")
    config = adopted("classification.py:smoke", CLIP, *given)
    recipe, arrays = begun(config)
    assert isinstance(recipe.model, Classifier)
    assert recipe.model.num_classes == 7
    assert isinstance(recipe.model.image, ViT)
    assert {path.split("/")[0] for path in arrays} == {"image"}
    assert recipe.goals["classes"].objective.needs == ("image", "labels")
    assert config.data.transforms[-1].shape == (7,)


def test_a_step_is_planned_without_data_and_without_a_source_or_with_one(tmp_path):
    bare = parse_train(
        [f"--config={ROOT / 'configs' / 'nlvr2.py'}", "--workdir=unused", "--config.adopt="]
    )[0]
    recipe, shapes = recipe_and_shapes(bare)
    assert recipe.model.heads == ("reasoning",)
    assert shapes["main"]["image"][0] == (128, 2, 608, 608, 3)
    assert shapes["main"]["truth"][0] == (128,)
    source = folder("lxmert_pretrain", tmp_path / "lxmert")
    shards = ("--config.data.path=a.tar", "--config.eval_data.path=a.tar")
    config = adopted("nlvr2.py", source, WORDS, *shards, "--config.num_regions=20")
    assert config.data.get("source") is None
    shapes = recipe_and_shapes(config)[1]["main"]
    assert shapes["regions"][0] == (128, 2, 20, 10)
    assert shapes["boxes"][0] == (128, 2, 20, 4)


def test_the_published_vocabulary_keeps_the_published_head(tmp_path):
    source = folder("vilt_vqa", tmp_path / "vilt")
    told = json.loads((source / "config.json").read_text())
    names = [f"word{number}" for number in range(len(told["id2label"]))]
    told["id2label"] = {str(number): name for number, name in enumerate(names)}
    (source / "config.json").write_text(json.dumps(told))
    for file, answers, kept in (("same", names, True), ("other", names[::-1], False)):
        path = tmp_path / f"{file}.json"
        path.write_text(json.dumps(answers))
        config = adopted("vqa.py", source, WORDS, f"--config.answers.path={path}")
        _, arrays = begun(config)
        assert ("answer_head/scores/kernel" in arrays) == kept


def test_what_does_not_go_together_is_one_line_before_anything_else(tmp_path):
    vilt = PUBLISHED / "vilt_mlm" / "saved"
    with pytest.raises(ConfigError, match=r"vocabulary of answers.*mmjax answers"):
        adopted("vqa.py", vilt, WORDS)
    with pytest.raises(ConfigError, match=r"has no tokenizer beside it.*tokenizer\.path"):
        adopted("nlvr2.py", vilt)
    tower = PUBLISHED / "vit" / "saved"
    with pytest.raises(ConfigError, match="a ViT has nothing that looks at text and picture"):
        adopted("nlvr2.py", tower, WORDS)
    with pytest.raises(ConfigError, match="a Vilt has nothing that sees a picture by itself"):
        adopted("classification.py", vilt)
    regions = PUBLISHED / "visualbert_pretrain" / "saved"
    with pytest.raises(
        ConfigError, match=r"reads regions, and NLVR2's files have none.*data\.path"
    ):
        adopted("nlvr2.py", regions, WORDS)
    with pytest.raises(ConfigError, match=r"layer_rate=1\.5"):
        adopted("nlvr2.py", vilt, WORDS, "--config.layer_rate=1.5")
    with pytest.raises(ConfigError, match=r"adopt='ansver' is none of answer"):
        adopted("vqa.py", vilt, WORDS, "--config.adopt=ansver")
    with pytest.raises(ConfigError, match=r"give --config\.init_from"):
        parse_train([f"--config={ROOT / 'configs' / 'vqa.py'}", "--workdir=unused"])
    with pytest.raises(ConfigError, match=r"gs://.*copy its workdir"):
        adopted("vqa.py", "gs://bucket/run")


def written(home):
    """A workdir as the pretraining of a small VisualBERT on regions leaves it."""
    config = load(f"{ROOT / 'configs' / 'vqa.py'}:smoke")
    stream = spec(
        VisualBertStream,
        vocab_size=512,
        length=24,
        dim=16,
        depth=1,
        num_heads=2,
        mlp_dim=16,
        region_dim=FEATURE_DIM,
        remat="none",
    )
    config.model = spec(VisualBert, stream=stream, heads=("masked_lm",))
    read = spec(Regions, count=3, feature_dim=FEATURE_DIM, boxes="", classes_from="classes")
    config.data.transforms = (read, *config.data.transforms[-2:])
    config.data.fields.image_from = ""
    config.eval_data = None
    home.mkdir()
    questions = [build(config.data.source).question(n)[1] for n in range(64)]
    train_bpe(questions, 400, str(home / "tokenizer.json"), mask=True)
    contract = with_tokenizer(assemble(config), open_tokenizer(home / "tokenizer.json"))
    contract = contract.recipe.contract
    rng, shapes = np.random.default_rng(0), abstract(build(config.model))
    arrays = {path: 0.02 * rng.standard_normal(s, np.float32) for path, s in shapes.items()}
    params = jax.tree.map(jax.numpy.asarray, paths.unflatten(arrays)["params"])
    checkpoints = Checkpoints(home / "checkpoints")
    files = {"config.json": to_json(config), "preprocess.json": contract.to_json()}
    checkpoints.save(1, State(jax.numpy.int32(1), params, {}, {}, {}, {}, new_counters()), files)
    checkpoints.wait()
    return home


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """The folder of a workdir of a VisualBERT, 'first', and of its fine-tuning, 'run'."""
    home = tmp_path_factory.mktemp("tuned")
    config = adopted("vqa.py:smoke", written(home / "first"), "--config.adopt=answer")
    with config.unlocked():
        config.eval_data, config.evaluators = None, {}
    train(config, str(home / "run"), Options())
    return home


def test_a_run_of_ours_is_fine_tuned_as_its_data_read_it(tuned):
    lines = (tuned / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [line["loss"] for line in map(json.loads, lines) if line["kind"] == "train"]
    assert len(losses) == 2
    assert all(0 < loss < 100 for loss in losses)
    saved = json.loads((tuned / "run" / "config.json").read_text())
    assert saved["adopt"] == ""  # so the run goes on under its own config
    regions = saved["data"]["transforms"][0]
    assert (regions["count"], regions["feature_dim"], regions["classes_from"]) == (3, 21, "")
    first, run = mmjax.load(tuned / "first"), mmjax.load(tuned / "run")
    assert run.contract == first.contract
    before, after = paths.flatten(first.params), paths.flatten(run.params)
    assert {path for path in before if path not in after} == {
        path for path in before if path.startswith("masked_lm")
    }
    for path, array in after.items():  # two small steps away
        if path in before:
            np.testing.assert_allclose(array, before[path], atol=1e-3, err_msg=path)


def test_a_vocabulary_or_a_text_that_the_model_has_no_room_for_is_refused(tuned):
    given = ("--config.adopt=answer", "--config.num_answers=10", "--config.sequence_length=30")
    config = adopted("vqa.py:smoke", tuned / "first", *given)
    parts = assemble(config)
    with pytest.raises(ConfigError, match="34 answers and the model's head 10"):
        with_answers(parts, tuned / "none")
    with pytest.raises(ConfigError, match="makes 30 tokens and the model has 24 positions"):
        with_tokenizer(parts, named_tokenizer(config.tokenizer))


def test_a_fine_tuned_run_goes_on_with_its_head_and_its_vocabulary(tuned):
    config = adopted("vqa.py:smoke", tuned / "run", "--config.adopt=answer")
    assert (r"(answer_head/.*)", r"\1") in config.init_rules
    assert config.init_fresh == ()
    config = adopted("nlvr2.py:smoke", tuned / "run", "--config.adopt=reasoning")
    assert config.init_fresh == ("reasoning_head/.*",)
    assert config.data.transforms[0].pictures == ("left", "right")
    assemble(config)
