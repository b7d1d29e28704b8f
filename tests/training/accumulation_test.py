"""Micro-batches give the undivided batch's loss, metrics and gradient, for less memory."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import paths, preprocess
from mmjax.data.sources.base import CAUSES
from mmjax.models.dual.two_tower import TwoTower, unit_length
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.objectives.base import Additive, Forward, Loss, Objective
from mmjax.objectives.contrastive import Contrastive
from mmjax.objectives.metric import Margin, Triplet
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations
from mmjax.preprocess import Contract
from mmjax.training.accumulation import divide, unite
from mmjax.training.compiled import Compiled
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import constant
from mmjax.training.state import State
from mmjax.training.step import Goal, Recipe, apply_model, loss_and_grads
from mmjax.typing import Encoded, View

ROWS = 16


def batch(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (rows, 16, 16, 3)).astype(np.uint8),
        "token_ids": rng.integers(3, 32, (rows, 6)).astype(np.int32),
        "text_mask": np.ones((rows, 6), bool),
        "row": np.arange(rows, dtype=np.int32),
        "valid": np.arange(rows) != 5,
        "bad_samples": np.zeros((rows, len(CAUSES)), np.int32),
        "sample_id": np.stack([np.zeros(rows), np.arange(rows) % (rows - 3)], 1).astype(np.int32),
        "label": rng.integers(0, 4, rows).astype(np.int32),
    }


def towers(**fields):
    width = {"dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32, "scan": False, "remat": "none"}
    return TwoTower(
        image=ViT(image_size=16, patch_size=4, **width, **fields),
        text=TextTransformer(vocab_size=32, length=6, **width),
        embed_dim=16,
        bias_init=-2.0,
    )


def unit(pooled):
    return Encoded(None, None, pooled, unit_length(pooled))


class Dropping(nn.Module):
    """Two linear towers, the first with dropout."""

    rate: float = 0.0

    def setup(self):
        self.image, self.text = nn.Dense(16), nn.Embed(32, 16)
        self.dropout = nn.Dropout(self.rate)
        self.log_scale = self.param("log_scale", nn.initializers.constant(1.0), ())
        self.bias = self.param("bias", nn.initializers.constant(-2.0), ())

    def encode_image(self, image, row=None, train=False):
        x = self.dropout(image.reshape(len(image), -1), deterministic=not train)
        return unit(self.image(x))

    def encode_text(self, token_ids, text_mask, row=None, train=False):
        return unit(self.text(token_ids).mean(1))

    def scalars(self):
        return {"log_scale": self.log_scale, "bias": self.bias}

    def __call__(self, image, token_ids, text_mask):
        self.encode_image(image)
        self.encode_text(token_ids, text_mask)


@dataclasses.dataclass(frozen=True)
class Classes(Additive):
    """A cross-entropy with a head of its own: a loss that sums over examples."""

    @property
    def needs(self):
        return ("image", "row", "label", "valid")

    def init_params(self, key, batch):
        return {"kernel": 0.3 * jax.random.normal(key, (16, 4))}

    def __call__(self, forward, batch, state):
        encoded = forward.view(View("encode_image", ("image", "row")), batch)
        logs = jax.nn.log_softmax(encoded.embedding @ forward.own["kernel"])
        losses = -jnp.take_along_axis(logs, batch["label"][:, None], 1)[:, 0]
        valid = batch["valid"]
        hits = (logs.argmax(1) == batch["label"]) & valid
        count = jnp.sum(valid, dtype=jnp.float32)
        total = jnp.sum(jnp.where(valid, losses, 0.0))
        return Loss(total, count, {"accuracy": (jnp.sum(hits, dtype=jnp.float32), count)}, state)


OBJECTIVES = {
    "contrastive": Contrastive(),
    "sigmoid": Sigmoid(),
    "triplet": Triplet(margin=0.5, negatives="semi_hard"),
    "margin": Margin(margin=0.5),
    "classes": Classes(),
}


def recipe(names, micro_batches, model=None, frozen=()):
    return Recipe(
        model=model or towers(),
        goals={name: Goal(OBJECTIVES[name], 0.5 + i) for i, name in enumerate(names)},
        optimizer=AdamW(schedule=constant(1e-3), frozen=frozen),
        contract=Contract(image_size=16, sequence_length=6),
        seed=0,
        micro_batches=micro_batches,
    )


def compiled(made, mesh=(1, 1, 1), rows=ROWS):
    data, fsdp, tensor = mesh
    devices = jax.devices()[: data * fsdp * tensor]
    shapes = {word: (value.shape, value.dtype) for word, value in batch(rows).items()}
    return Compiled(
        made, make_mesh(data, fsdp, tensor, devices=devices), {"main": shapes}, ((".*", ()),)
    )


@functools.cache
def first_state(names, model, frozen):
    """Of all numbers of parts, which do not enter it; on the host, drawn without a compiler."""
    rng = np.random.default_rng(1)

    def draw(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return np.zeros(leaf.shape, leaf.dtype)
        return (0.3 * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(draw, compiled(recipe(names, 1, model, frozen)).state)


def gradient(names, micro_batches, model, mesh=(1, 1, 1), frozen=()):
    """(loss, {goal: Loss}, gradient) of the first step."""
    on = compiled(recipe(names, micro_batches, model, frozen), mesh)
    state = jax.device_put(first_state(names, model, frozen), on.shardings)
    placed = jax.device_put(batch(), on.batches["main"]["row"].sharding)
    return jax.device_get(without_update(on)(state, {"main": placed}))


def without_update(on):
    """The part of a step up to the gradient."""

    def run(state, batches):
        with activations(on.mesh):
            loss, losses, _, grads = loss_and_grads(on.recipe, state, batches, jax.random.key(3))
        return loss, losses, grads

    return jax.jit(run)


def assert_close(found, wanted):
    """Within 1e-5 of the largest gradient in the same layer: that of a key's bias is zero."""
    found, wanted = paths.flatten(found), paths.flatten(wanted)
    assert found.keys() == wanted.keys()
    for path, value in found.items():
        layer = path.rpartition("/")[0]
        same = [np.abs(v).max() for p, v in wanted.items() if p.rpartition("/")[0] == layer]
        np.testing.assert_allclose(value, wanted[path], rtol=0, atol=1e-5 * max(same), err_msg=path)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_is_that_of_the_undivided_batch(name):
    loss, losses, grads = gradient((name,), 4, Dropping())
    wanted = gradient((name,), 1, Dropping())
    np.testing.assert_allclose(loss, wanted[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), losses, wanted[1])
    assert_close(grads, wanted[2])


@pytest.mark.parametrize("mesh", [(4, 1, 1), (2, 2, 2)])
def test_devices_and_several_goals_change_nothing(mesh):
    names = ("contrastive", "classes", "sigmoid")
    loss, losses, grads = gradient(names, 2, Dropping(), mesh)
    wanted = gradient(names, 1, Dropping())
    np.testing.assert_allclose(loss, wanted[0], rtol=1e-5)
    assert losses.keys() == wanted[1].keys()
    assert_close(grads, wanted[2])


def test_a_frozen_tower_stays_out():
    frozen = ("image/.*",)
    _, _, grads = gradient(("contrastive",), 4, Dropping(), frozen=frozen)
    assert "image" not in grads
    assert_close(grads, gradient(("contrastive",), 1, Dropping(), frozen=frozen)[2])


def test_patch_dropout_is_that_of_the_undivided_batch():
    model = towers(patch_dropout=0.5)
    wanted = gradient(("contrastive",), 1, model)
    loss, _, grads = gradient(("contrastive",), 4, model)
    np.testing.assert_allclose(loss, wanted[0], rtol=1e-5)
    assert_close(grads, wanted[2])


def test_with_dropout_the_second_pass_reproduces_the_first():
    names, model = ("contrastive",), Dropping(0.5)
    made, found = recipe(names, 4, model), gradient(names, 4, model)
    state = first_state(names, model, ())
    ready = preprocess.preprocess(jax.tree.map(jnp.asarray, batch()), made.contract)
    objective = OBJECTIVES["contrastive"]

    def together(params):
        """The same micro-batches, differentiated in one piece."""
        parts = []
        for part in range(4):
            forward = Forward(
                apply_model(made.model), params, {}, True, jax.random.key(3), jnp.int32(part)
            )
            rows = {word: value[part * 4 : part * 4 + 4] for word, value in ready.items()}
            parts.append(objective.embed(forward, rows))
        embedded = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
        scalars = {"log_scale": params["log_scale"], "bias": params["bias"]}
        return 0.5 * objective.compare(embedded, scalars, ()).mean(), embedded

    (loss, embedded), grads = jax.jit(jax.value_and_grad(together, has_aux=True))(state.params)
    np.testing.assert_allclose(found[0], loss, rtol=1e-5)
    assert_close(found[2], grads)
    alike = {"image": ready["image"][:4]}  # dropout differs between micro-batches
    first, second = (
        Forward(apply_model(made.model), state.params, {}, True, jax.random.key(3), part)
        for part in (0, 1)
    )
    apart = first("encode_image", alike).embedding - second("encode_image", alike).embedding
    assert np.abs(apart).max() > 0.1
    assert embedded["image"].shape == (ROWS, 16)


class Weighing(nn.Module):
    """One number for each region."""

    @nn.compact
    def __call__(self, regions):
        return nn.Dense(1)(regions)[..., 0]


@dataclasses.dataclass(frozen=True)
class Squares(Additive):
    """The squares of what is told of masked regions."""

    needs = ("masked_regions",)

    def __call__(self, forward, batch, state):
        told = forward("__call__", {"regions": batch["masked_regions"]})
        return Loss(jnp.sum(told**2), jnp.float32(len(told)), {}, state)


def test_regions_of_other_pictures_are_those_of_the_undivided_batch():
    rng = np.random.default_rng(0)
    given = {
        "regions": rng.normal(size=(ROWS, 3, 4)).astype(np.float32),
        "masked_regions": np.zeros((ROWS, 3, 4), np.float32),
        "region_mask": np.ones((ROWS, 3), bool),
        "region_other": rng.integers(-1, 3, (ROWS, 3)).astype(np.int32),
    }
    params = {"Dense_0": {"kernel": rng.normal(size=(4, 1)), "bias": np.zeros(1)}}
    made = dataclasses.replace(recipe((), 1, Weighing()), goals={"one": Goal(Squares())})
    nothing = {"ema": {}, "batch_stats": {}, "objectives": {"one": ()}, "counters": {}}
    state = State(step=0, params=jax.tree.map(jnp.float32, params), opt_state=(), **nothing)

    def run(parts):
        divided = dataclasses.replace(made, micro_batches=parts)
        step = functools.partial(loss_and_grads, divided)
        loss, _, _, grads = jax.jit(step)(state, {"main": given}, jax.random.key(0))
        return loss, grads

    (loss, grads), (other, others) = run(1), run(4)
    assert loss > 0.1
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    assert_close(others, grads)


def test_memory_falls_with_the_micro_batch():
    used = []
    for parts in (1, 8):
        on = compiled(recipe(("contrastive",), parts), rows=256)
        made = without_update(on).lower(on.state, on.batches).compile()
        used.append(made.memory_analysis().temp_size_in_bytes)
    assert used[1] < 0.25 * used[0]


def test_rows_come_back_in_their_order_without_changing_devices():
    mesh = make_mesh(devices=jax.devices()[:4])
    x = jnp.arange(32 * 3).reshape(32, 3)
    with activations(mesh):
        parts = jax.jit(lambda x: divide(x, 2))(x)
        np.testing.assert_array_equal(jax.jit(unite)(parts), x)
        compiled = jax.jit(lambda x: unite(divide(x, 2) * 2))
        text = compiled.lower(x).compile().as_text()
    np.testing.assert_array_equal(parts[0, :4], x[:4])  # the first half of each device's eight rows
    np.testing.assert_array_equal(parts[1, :4], x[4:8])
    assert not any(word in text for word in ("all-to-all", "all-gather", "collective-permute"))


@dataclasses.dataclass(frozen=True)
class Neither(Objective):
    """Says nothing of how it may be divided."""

    needs = ("image",)

    def __call__(self, forward, batch, state):
        raise AssertionError("never run")


@pytest.mark.parametrize(
    ("micro_batches", "mesh", "message"),
    [
        (3, (4, 1, 1), r"does not divide the 4 rows .* 'main' \(batch 16 over 4\).*: 1, 2, 4\."),
        (0, (1, 1, 1), "micro_batches=0: 1"),
    ],
)
def test_a_number_that_does_not_divide_is_refused(micro_batches, mesh, message):
    with pytest.raises(ValueError, match=message):
        compiled(recipe(("contrastive",), micro_batches), mesh)


def test_what_cannot_be_divided_is_refused():
    made = recipe(("contrastive",), 2)
    whole = dataclasses.replace(made, goals={"one": Goal(Neither())})
    with pytest.raises(ValueError, match=r"goal 'one' \(Neither\) is neither Coupled"):
        compiled(whole)
