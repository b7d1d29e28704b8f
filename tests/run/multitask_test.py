"""A run of several streams: the same on one device and on eight, after a kill, and in parts."""

import dataclasses
import math
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import preprocess
from mmjax.config import ConfigError, override
from mmjax.data.dataset import members_of
from mmjax.data.tokenizers.training import train_bpe
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations, batch_sharding, replicated
from mmjax.paths import flatten, map_with_path
from mmjax.run.assembly import assemble, open_tokenizer, with_tokenizer
from mmjax.run.beginning import check_goals, stream_makers
from mmjax.run.config_file import load
from mmjax.run.evaluating import Evaluation
from mmjax.run.options import Options
from mmjax.run.shapes import recipe_and_shapes
from mmjax.run.training import train
from mmjax.training.step import init_state, loss_and_grads, score

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def changed(name="multitask", **values):
    config = load(f"{CONFIGS / name}.py:smoke")
    for path, value in values.items():
        override(config, path.replace("__", "."), str(value))
    return config


def small(matching=False, **values):
    """Three streams and three kinds of weights, in a program that is compiled soon."""
    config = changed(model__form="late", **values)
    config.model.heads = ("answer", "classify", *(("matching",) if matching else ()))
    with config.unlocked():
        del config.goals.words
        if not matching:
            del config.goals.matching
    return config


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """That of the drawn captions and questions, with a mask token."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    streams = assemble(changed()).streams.values()
    members = [member for stream in streams for member in members_of(stream.data)]
    train_bpe((c for m in members for c in m.captions(most=64)), 512, str(path), True)
    return open_tokenizer(path)


def batches_of(config, tokenizer):
    """(recipe, the first batch of each stream on the host)."""
    parts = with_tokenizer(assemble(config), tokenizer)
    return parts.recipe, {name: maker(0) for name, maker in stream_makers(parts).items()}


def drawn_state(recipe, batches):
    """Shapes of the first state filled with numbers, which costs no compilation."""
    rng = np.random.default_rng(0)

    def fill(path, x):
        if path == "log_scale":  # as trained: near 0 its slope is a small rest of terms that cancel
            return np.asarray(math.log(1 / 0.07), x.dtype)
        centre = float(path.endswith("/scale"))  # of a norm: 1, or rows are all alike
        return np.asarray(centre + 0.3 * rng.standard_normal(x.shape), x.dtype)

    made = jax.eval_shape(lambda: init_state(recipe, jax.tree.map(jnp.asarray, batches)))
    return dataclasses.replace(made, params=map_with_path(fill, made.params))


def sums(recipe, state, batches, mesh):
    """{goal: (loss, metrics)} of a training step's batches on a mesh, before any update."""

    def run(params, batches):
        with activations(mesh):
            ready = {n: preprocess.preprocess(b, recipe.contract) for n, b in batches.items()}
            key, memory = jax.random.key(0), state.objectives
            losses, _ = score(recipe, params, {}, memory, ready, key, train=True)
        return {name: (one.mean(), one.count, one.metrics) for name, one in losses.items()}

    given = (
        jax.device_put(state.params, replicated(mesh)),
        jax.device_put(batches, batch_sharding(mesh)),
    )
    made = jax.jit(run, out_shardings=replicated(mesh)).lower(*given)
    return jax.device_get(made.compile(compiler_options=QUICK)(*given))


@pytest.mark.parametrize("name", ["multitask", "fusion"])
def test_one_device_and_eight_give_the_same_losses(name, tokenizer):
    recipe, batches = batches_of(changed(name), tokenizer)
    state = drawn_state(recipe, batches)
    one = sums(recipe, state, batches, make_mesh(devices=jax.devices()[:1]))
    eight = sums(recipe, state, batches, make_mesh())
    assert make_mesh().size == 8
    assert one.keys() == recipe.goals.keys()
    assert all(count > 0 for _, count, _ in one.values())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), eight, one)


def gradient(recipe, state, batches):
    """(the sum that is trained, its gradient)."""
    key = jax.random.key(0)
    made = jax.jit(
        lambda params, batches: loss_and_grads(
            recipe, dataclasses.replace(state, params=params, step=jnp.int32(1)), batches, key
        )[::3]
    ).lower(state.params, batches)
    return jax.device_get(made.compile(compiler_options=QUICK)(state.params, batches))


def test_streams_in_micro_batches_have_the_gradient_of_the_undivided_ones(tokenizer):
    recipe, batches = batches_of(small(matching=True), tokenizer)
    assert recipe.goals["matching"].objective.negatives == "sampled"
    state = drawn_state(recipe, batches)
    wanted, slopes = gradient(recipe, state, batches)
    loss, found = gradient(dataclasses.replace(recipe, micro_batches=2), state, batches)
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert "log_variance" in slopes["objectives"]["classes"]
    slopes, found = flatten(slopes), flatten(found)
    assert slopes.keys() == found.keys()
    for path, one in slopes.items():
        near = [x for p, x in slopes.items() if p.rpartition("/")[0] == path.rpartition("/")[0]]
        most = max(np.abs(x).max() for x in near)  # that of a key's bias is zero
        np.testing.assert_allclose(found[path], one, rtol=0, atol=1e-5 * most, err_msg=path)


@pytest.fixture
def unoptimized(tmp_path, monkeypatch):
    """Programs that are compiled soon, and once."""
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_several_streams_go_on_bit_for_bit_from_what_a_kill_leaves(unoptimized, lab, tmp_path):
    config = small(steps=4, save_steps=2, tensorboard=False)
    with config.unlocked():
        del config.eval_data, config.evaluators.objectives
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(config, str(whole), Options())
    wanted = lab.state(whole, 4)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "4")
    train(config, str(cut), Options())
    lab.assert_same(lab.state(cut, 4), wanted)
    early = lab.state(cut, 2)
    moved = [name for name in wanted if wanted[name].tobytes() != early[name].tobytes()]
    assert "params/objectives/classes/log_variance" in moved
    assert wanted["counters/samples"].tolist() == [0, 4 * (16 + 8 + 8)]
    assert lab.losses(cut) == lab.losses(whole)
    assert len(set(lab.losses(cut).values())) == 4
    weights = [line["weight/answers"] for line in lab.log(cut)]
    assert weights == [line["weight/answers"] for line in lab.log(whole)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"goals__answers__stream": "captions"},
            r"'answers' needs 'answer_scores' .* and the batches of stream 'captions' hold",
        ),
        ({"goals__classes__stream": "photos"}, "goals.classes reads stream 'photos'; there are "),
        ({"model__answers": 5}, "questions has 34 answers and the model's head 5; set "),
        ({"goals__contrastive__weight": "nan"}, "goals.contrastive.weight: nan stands for no"),
        ({"goals__contrastive__weight": "inf"}, "weight=inf: an objective's weight is finite"),
        ({"goals__contrastive__weight": "-1"}, "weight=-1.0: an objective.s weight is finite"),
        (
            {"evaluators__objectives__goals": "('classes',)"},
            "evaluators.objectives: goals=.*: eval_data score no 'classes'; they score ",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_compiles(
    values, message, tmp_path, monkeypatch
):
    monkeypatch.setattr("mmjax.run.training.Compiled", None)
    with pytest.raises(ConfigError, match=message):
        train(changed(**values), str(tmp_path), Options())


def test_texts_longer_than_the_model_are_refused(tokenizer):
    parts = assemble(changed())
    model = parts.recipe.model.clone(text=parts.recipe.model.text.clone(length=8))
    recipe = dataclasses.replace(parts.recipe, model=model)
    with pytest.raises(ConfigError, match="Tokenize makes 24 tokens and the model has 8 positions"):
        with_tokenizer(dataclasses.replace(parts, recipe=recipe), tokenizer)


def test_a_weight_that_is_no_number_later_in_the_run_is_refused(tokenizer):
    recipe, batches = batches_of(changed(), tokenizer)
    goals = dict(recipe.goals)
    check_goals(goals, batches, 100)
    goals["words"] = dataclasses.replace(goals["words"], weight=lambda step: 1 - step / 50)
    check_goals(goals, batches, 50)
    with pytest.raises(ValueError, match=r"goal 'words': its weight is -0\.0\d+ at step 51; "):
        check_goals(goals, batches, 100)


@pytest.mark.parametrize("name", ["multitask", "fusion"])
def test_a_plan_knows_the_shapes_that_the_data_give(name, tokenizer, monkeypatch):
    parts = with_tokenizer(assemble(changed(name)), tokenizer)
    given = {stream: maker.global_shapes for stream, maker in stream_makers(parts).items()}
    monkeypatch.setattr("mmjax.run.shapes.assemble", None)  # without any data
    recipe, shapes = recipe_and_shapes(changed(name))
    assert shapes.keys() == given.keys()
    for stream, words in shapes.items():
        assert {word: given[stream][word] for word in words} == words
    assert all(set(g.objective.needs) <= shapes[g.stream].keys() for g in recipe.goals.values())
    full, _ = recipe_and_shapes(load(f"{CONFIGS / name}.py"))
    assert full.goals.keys() == recipe.goals.keys()
    missing = changed(name, goals__answers__stream="photos")
    with pytest.raises(ConfigError, match=r"goals\.answers reads stream 'photos'"):
        recipe_and_shapes(missing)


def test_what_the_held_out_data_cannot_score_is_said(tokenizer, capsys):
    parts = with_tokenizer(assemble(changed()), tokenizer)
    Evaluation(parts, make_mesh(), parts.settings["reading"])
    said = "eval_data: goals that lack a word there are not scored: classes (label)."
    assert said in capsys.readouterr().out
