"""Pretraining of models that look at regions: what their configs say before anything is trained."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmjax
from mmjax import paths
from mmjax.config import ConfigError, build, override
from mmjax.data.tokenizers.training import train_bpe
from mmjax.parallel.layout import lay_out
from mmjax.parallel.mesh import make_mesh
from mmjax.run.assembly import RECIPE, assemble, make_recipe, open_tokenizer, with_tokenizer
from mmjax.run.beginning import stream_makers
from mmjax.run.config_file import load
from mmjax.run.origin import begin_from
from mmjax.run.shapes import recipe_and_shapes
from mmjax.training.state import State
from mmjax.training.warm_start import warm_start

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "published"
BERT = GOLDEN / "bert" / "saved"
NAMES = ("visualbert", "lxmert", "vilbert")
EACH = [f"{name}{variant}" for name in NAMES for variant in ("", ":pictures")]
each = pytest.mark.parametrize("name", EACH)


def config(name, **values):
    """A config with some values of its own, by their paths with '__' for '.'."""
    path, _, variant = name.partition(":")
    made = load(f"{ROOT / 'configs' / path}.py" + (f":{variant}" if variant else ""))
    for key, value in values.items():
        override(made, key.replace("__", "."), str(value))
    return made


def parameters(model):
    """The shapes of a model's parameters."""
    given = {k: jnp.asarray(v) for k, v in model.example().items()}
    made = jax.eval_shape(lambda: model.init(jax.random.key(0), **given))
    return made["params"]


@each
def test_a_plan_knows_the_words_without_data(name):
    made = config(name)
    recipe, shapes = recipe_and_shapes(made)
    for goal in recipe.goals.values():
        assert set(goal.objective.needs) <= shapes[goal.stream].keys()
        assert {"token_ids", "text_mask"} <= shapes[goal.stream].keys()  # to begin with
    pictures = name.endswith("pictures")
    rows = sum(words["row"][0][0] for words in shapes.values())
    assert rows == made.batch_size
    for words in shapes.values():
        assert ("image" in words) == pictures
        if not pictures:
            assert ("region_other" in words) == (name == "lxmert")  # no objective names it
            count = {"visualbert": 100, "lxmert": 36, "vilbert": 37}[name]  # one is the mean
            assert words["regions"][0] == (words["row"][0][0], count, 2048)


@pytest.mark.parametrize("name", NAMES)
def test_the_words_that_are_planned_are_those_of_the_data(name, tmp_path):
    made = config(f"{name}:smoke")
    _, planned = recipe_and_shapes(made)
    train_bpe(["a red cube beside a blue ball"] * 4, 400, str(tmp_path / "tokenizer.json"), True)
    parts = with_tokenizer(assemble(made), open_tokenizer(tmp_path / "tokenizer.json"))
    for stream, maker in stream_makers(parts).items():
        given = maker.global_shapes
        for word, (shape, kind) in planned[stream].items():
            assert (tuple(given[word][0]), np.dtype(given[word][1])) == (shape, kind), word


@pytest.mark.parametrize(
    ("name", "millions"), [("visualbert", 114), ("lxmert", 228), ("vilbert", 239)]
)
def test_the_full_form_is_of_its_size_and_each_large_array_is_cut(name, millions):
    made = parameters(build(config(name).model))
    number = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(made))
    assert abs(number / 1e6 - millions) < 2, number
    for sizes in ({"data": 2, "fsdp": 2, "tensor": 2}, {"data": 1, "fsdp": 8}):
        for place in lay_out({"params": made}, make_mesh(**sizes)).values():
            if place.bytes > 4 << 20:
                assert place.ways == sizes["fsdp"] * sizes.get("tensor", 1), place


# Where a BERT's first and last layer, its table and what is anew lie, in each model.
PLACES = {
    "visualbert": ("stream/blocks", 0, "stream/blocks", 1, "stream", "stream/regions/projection"),
    "lxmert": ("text/blocks", 0, "", None, "text", "crossings/cross/query"),
    "vilbert": ("text/blocks", 0, "crossings/text", 0, "text", "crossings/image/mlp/up"),
}


@pytest.mark.parametrize("variant", ["smoke", "pictures_smoke"])
@pytest.mark.parametrize("name", NAMES)
def test_a_bert_finds_its_places(name, variant):
    at = "" if variant == "smoke" else "fusion/"
    tower = f"model.{at.replace('/', '.')}{'stream' if name == 'visualbert' else 'text'}"
    sizes = {"vocab_size": 40, "length": 12, "dim": 16, "mlp_dim": 24, "num_heads": 4}
    sizes |= {"dropout": 0.1}
    values = {f"{tower}.{key}": value for key, value in sizes.items()}
    if name == "lxmert":
        values |= {f"model.{at.replace('/', '.')}image.dim": 16}
    made = config(f"{name}:{variant}", init_from=BERT, **values)
    recipe = make_recipe(build({key: made[key] for key in RECIPE}))
    state = State(None, parameters(recipe.model), {}, {}, {}, {}, {})
    (params, _), files = begin_from(made, recipe, state)
    ours = paths.flatten(params)
    theirs = paths.flatten(mmjax.load(BERT).variables["params"])
    first, of_first, last, of_last, table, anew = PLACES[name]
    stack = theirs["blocks/mlp/up/kernel"]
    assert stack.shape[0] == 2
    np.testing.assert_array_equal(ours[f"{at}{first}/mlp/up/kernel"][of_first], stack[0])
    if last:
        np.testing.assert_array_equal(ours[f"{at}{last}/mlp/up/kernel"][of_last], stack[1])
    np.testing.assert_array_equal(ours[f"{at}{table}/token_embedding"], theirs["token_embedding"])
    assert isinstance(ours[f"{at}{anew}/kernel"], jax.ShapeDtypeStruct)
    assert "origin.json" in files


@pytest.mark.parametrize("name", NAMES)
def test_the_heads_that_a_bert_was_pretrained_by_come_along(name):
    source = GOLDEN / "bert_pretrain" / "saved"
    theirs = mmjax.load(source).variables["params"]
    sizes = {"vocab_size": 40, "length": 12, "dim": 16, "mlp_dim": 24, "num_heads": 4}
    tower = "stream" if name == "visualbert" else "text"
    values = {f"model.{tower}.{key}": value for key, value in sizes.items()}
    if name == "lxmert":
        values |= {"model.image.dim": 16}
    made = config(f"{name}:smoke", **values)
    ours = parameters(build(made.model))
    rules, fresh = made.init_rules, made.init_fresh
    params, _ = warm_start(ours, {}, (theirs, {}), "bert", rules, fresh)
    jax.tree.map(np.testing.assert_array_equal, params["masked_lm"], theirs["masked_lm"])
    if name == "visualbert":
        own = theirs["next_sentence_head"]
        jax.tree.map(np.testing.assert_array_equal, params["matching_head"], own)


def test_a_bert_of_other_activation_is_refused():
    values = {"vocab_size": 40, "length": 12, "dim": 16, "mlp_dim": 24, "num_heads": 4}
    values |= {"activation": "relu", "dropout": 0.1}
    given = {f"model.text.{key}": value for key, value in values.items()}
    made = config("vilbert:smoke", init_from=BERT, **given)
    recipe = make_recipe(build({key: made[key] for key in RECIPE}))
    state = State(None, parameters(recipe.model), {}, {}, {}, {}, {})
    with pytest.raises(
        ConfigError, match=r"model\.text\.activation is 'gelu' there and 'relu' here"
    ):
        begin_from(made, recipe, state)
