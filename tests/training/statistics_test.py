"""Running statistics: in frozen towers, and whose normalise where a batch is taken in parts."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import paths, preprocess
from mmjax.data.sources.base import CAUSES
from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.interfaces import TowerOutput
from mmjax.models.layers.batch_norm import BatchNorm
from mmjax.objectives.contrastive import Contrastive
from mmjax.parallel.mesh import make_mesh
from mmjax.preprocess import Contract
from mmjax.training.compiled import Compiled
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import constant
from mmjax.training.statistics import fixed_statistics
from mmjax.training.step import Goal, Recipe, split_params

ROWS = 16


class Tower(nn.Module):
    """Pictures by two dense layers, a norm after each; the second norm has no parameters."""

    @nn.compact
    def __call__(self, image, row=None, train=False):
        x = image.reshape(len(image), -1)
        x = nn.relu(BatchNorm(name="norm1")(nn.Dense(8, name="dense1")(x), train))
        x = Head(name="head")(x, train)
        return TowerOutput(x[:, None], None, x)


class Head(nn.Module):
    """A dense layer and a norm without parameters."""

    @nn.compact
    def __call__(self, x, train):
        return BatchNorm(affine=False, name="norm2")(nn.Dense(8, name="dense2")(x), train)


class Foreign(nn.Module):
    """A tower with flax's own norm, which knows of no fixed statistics."""

    @nn.compact
    def __call__(self, image, row=None, train=False):
        x = nn.Dense(8, name="dense")(image.reshape(len(image), -1))
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return TowerOutput(x[:, None], None, x)


class Words(nn.Module):
    """Texts as the mean of their tokens' vectors."""

    @nn.compact
    def __call__(self, token_ids, text_mask, row=None, train=False):
        x = nn.Embed(32, 8, name="embedding")(token_ids)
        return TowerOutput(x, text_mask, x.mean(1))


@functools.cache
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (ROWS, 4, 4, 3)).astype(np.uint8),
        "token_ids": rng.integers(3, 32, (ROWS, 6)).astype(np.int32),
        "text_mask": np.ones((ROWS, 6), bool),
        "row": np.arange(ROWS, dtype=np.int32),
        "valid": np.ones(ROWS, bool),
        "bad_samples": np.zeros((ROWS, len(CAUSES)), np.int32),
        "sample_id": np.stack([np.zeros(ROWS), np.arange(ROWS)], 1).astype(np.int32),
    }


def recipe(micro_batches=1, statistics="batch", frozen=(), image=None):
    return Recipe(
        model=TwoTower(image=image or Tower(), text=Words(), embed_dim=8),
        goals={"contrastive": Goal(Contrastive())},
        optimizer=AdamW(schedule=constant(1e-2), frozen=frozen),
        contract=Contract(image_size=4, sequence_length=6),
        seed=0,
        micro_batches=micro_batches,
        statistics=statistics,
    )


@functools.cache
def run(micro_batches=1, statistics="batch", frozen=(), image=None, steps=1, devices=1):
    """(state before, state after, metrics of the last step), all on the host."""
    made = recipe(micro_batches, statistics, frozen, image)
    shapes = {word: (value.shape, value.dtype) for word, value in batch().items()}
    mesh = make_mesh(devices=jax.devices()[:devices])
    compiled = Compiled(made, mesh, {"main": shapes}, ((".*", ()),))
    state = compiled.init()
    # Statistics that are those of no batch, so that whose are used makes a difference.
    moved = jax.tree.map(lambda x: 0.5 * x + 0.25, state.batch_stats)
    state = dataclasses.replace(state, batch_stats=moved)
    first, metrics = jax.device_get(state), None
    placed = {"main": jax.device_put(batch(), compiled.batches["main"]["row"].sharding)}
    for _ in range(steps):
        state, metrics = compiled.step(state, placed, jnp.zeros(devices, jnp.int32))
    return first, jax.device_get(state), jax.device_get(metrics)


def statistics_of(made, state, rows):
    """The running statistics after the rows were seen once in training."""
    ready = preprocess.preprocess(jax.tree.map(jnp.asarray, batch()), made.contract)
    params, _ = split_params(state.params)
    _, after = made.model.apply(
        {"params": params, "batch_stats": state.batch_stats},
        ready["image"][rows],
        train=True,
        method="encode_image",
        mutable=["batch_stats"],
    )
    return after["batch_stats"]


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5, rtol=1e-5), a, b)


def test_a_step_moves_the_statistics_once_by_the_whole_batch_on_any_number_of_devices():
    first, one, _ = run()
    close(one.batch_stats, statistics_of(recipe(), first, slice(None)))
    close(one.batch_stats, run(devices=8)[1].batch_stats)


LOCKED = ("image/.*",)


@pytest.mark.parametrize("image", [Tower(), Foreign()])
def test_a_frozen_tower_keeps_its_statistics(image):
    first, after, _ = run(frozen=LOCKED, image=image, steps=2)
    same(after.batch_stats, first.batch_stats)
    same(after.params["image"], first.params["image"])


def test_a_frozen_tower_computes_in_training_what_it_computes_in_evaluation():
    loss = run(frozen=LOCKED)[2]["loss"]
    np.testing.assert_allclose(loss, run(frozen=LOCKED, statistics="frozen")[2]["loss"], rtol=1e-6)
    assert abs(loss - run()[2]["loss"]) > 1e-3  # which the batch normalises


def test_a_part_of_a_tower_may_be_frozen():
    first, after, _ = run(frozen=("image/(dense1|norm1)/.*",))
    old, new = first.batch_stats["image"], after.batch_stats["image"]
    same(new["norm1"], old["norm1"])
    assert np.abs(new["head"]["norm2"]["mean"] - old["head"]["norm2"]["mean"]).max() > 1e-3


def test_which_statistics_are_fixed_is_decided_by_the_parameters_beside_them():
    norm = {"norm": {"mean": 0}}
    statistics = {"image": {**norm, "head": norm}, "other": {"var": 0}}
    trainable = {"image": {"norm": {"scale": 0}}, "text": {"kernel": 0}}
    frozen = {"image": {"norm": {"bias": 0}, "head": {"dense": {"kernel": 0}}}}
    assert fixed_statistics(statistics, trainable, frozen) == {"image/head/norm/mean"}
    everything = frozenset(paths.flatten(statistics))
    assert fixed_statistics(statistics, trainable, frozen, "frozen") == everything


def test_micro_batches_of_their_own_statistics_move_the_running_ones_once_by_their_mean():
    first, after, metrics = run(4, "micro")
    parts = [statistics_of(recipe(), first, slice(4 * n, 4 * n + 4)) for n in range(4)]
    wanted = jax.tree.map(lambda *each: np.mean(each, axis=0), *parts)
    close(after.batch_stats, wanted)
    _, whole, undivided = run()
    assert abs(metrics["loss"] - undivided["loss"]) > 1e-3  # another normalisation, another loss
    close(run(1, "micro")[1].batch_stats, whole.batch_stats)


def test_with_frozen_statistics_micro_batches_change_nothing():
    first, after, metrics = run(4, "frozen")
    _, wanted, whole = run(1, "frozen")
    same(after.batch_stats, first.batch_stats)
    same(wanted.batch_stats, first.batch_stats)
    np.testing.assert_allclose(metrics["loss"], whole["loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], whole["grad_norm"], rtol=1e-5)
    moved = first.params["image"]["dense1"]["kernel"] - after.params["image"]["dense1"]["kernel"]
    assert np.abs(moved).max() > 1e-4


def test_a_frozen_tower_keeps_its_statistics_in_micro_batches_too():
    first, after, metrics = run(4, "micro", LOCKED)
    same(after.batch_stats, first.batch_stats)
    np.testing.assert_allclose(metrics["loss"], run(frozen=LOCKED)[2]["loss"], rtol=1e-5)


def test_micro_batches_are_refused_until_the_config_says_whose_statistics_are_meant():
    with pytest.raises(ValueError, match=r"micro_batches=4: .* statistics='micro' .* 'frozen'"):
        run(4)
    with pytest.raises(ValueError, match="statistics='none' is none of batch, micro, frozen"):
        recipe(statistics="none")
