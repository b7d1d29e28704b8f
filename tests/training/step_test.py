"""The compiled step: it learns, 8 devices equal 1, and what is broken is skipped."""

import dataclasses
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.data.sources.base import CAUSES
from mmjax.models.dual.features import FeatureTowers
from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.objectives.base import Loss, Objective
from mmjax.objectives.contrastive import Contrastive
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.parallel.mesh import make_mesh
from mmjax.preprocess import Contract
from mmjax.training.compiled import Compiled
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import constant
from mmjax.training.state import samples_seen
from mmjax.training.step import Goal, Recipe, init_state
from mmjax.typing import Encoded, View

FEATURES = {
    "image": View("encode_image", ("image_features",)),
    "text": View("encode_text", ("text_features",)),
}


def feature_batch(rows=16, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(rows, 6))
    return finish(
        {
            "image_features": (shared @ rng.normal(size=(6, 12))).astype(np.float32),
            "text_features": (shared @ rng.normal(size=(6, 10))).astype(np.float32),
        },
        rows,
    )


def picture_batch(rows=8, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, 30, (rows, 6)).astype(np.int32)
    ids[:, -1] = 2
    return finish(
        {
            "image": rng.integers(0, 256, (rows, 16, 16, 3)).astype(np.uint8),
            "token_ids": ids,
            "text_mask": np.ones((rows, 6), bool),
        },
        rows,
    )


def finish(batch, rows):
    return {
        **batch,
        "row": np.arange(rows, dtype=np.int32),
        "valid": np.ones(rows, bool),
        "bad_samples": np.zeros((rows, len(CAUSES)), np.int32),
        "sample_id": np.stack([np.zeros(rows), np.arange(rows)], 1).astype(np.int32),
    }


def towers(**fields):
    width = {"dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32}
    return TwoTower(
        image=ViT(image_size=16, patch_size=8, **width, **fields),
        text=TextTransformer(
            vocab_size=32, length=6, pooling="end_of_text", eos_id=2, causal=True, **width
        ),
        embed_dim=16,
    )


def recipe(model=None, objective=None, **fields):
    goals = fields.pop("goals", None) or {"contrastive": Goal(objective or Contrastive(**FEATURES))}
    optimizer = fields.pop("optimizer", AdamW(schedule=constant(3e-2), weight_decay=0.01))
    return Recipe(
        model=model or FeatureTowers(embed_dim=8),
        goals=goals,
        optimizer=optimizer,
        contract=Contract(image_size=16, sequence_length=6),
        seed=0,
        **fields,
    )


def compile_for(made, batches, devices=8):
    mesh = make_mesh(devices=jax.devices()[:devices])
    shapes = {
        name: {word: (value.shape, value.dtype) for word, value in batch.items()}
        for name, batch in batches.items()
    }
    return Compiled(made, mesh, shapes, ((".*", ()),))


def run(made, batches, devices=8, stop=0):
    compiled = compile_for(made, batches[0], devices)
    state, metrics = compiled.init(), []
    for batch in batches:
        placed = jax.device_put(batch, jax.tree.map(lambda s: s.sharding, compiled.batches))
        flags = jnp.full((compiled.mesh.size,), stop, jnp.int32)
        state, latest = compiled.step(state, placed, flags)
        metrics.append(jax.device_get(latest))
    return state, metrics


def close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@pytest.mark.parametrize("objective", [Contrastive(), Sigmoid()])
def test_it_overfits_eight_pairs(objective):
    model = (
        towers()
        if isinstance(objective, Contrastive)
        else dataclasses.replace(towers(), log_scale_init=float(np.log(10)), bias_init=-10.0)
    )
    made = recipe(model, objective, optimizer=AdamW(schedule=constant(3e-3), weight_decay=0.0))
    _, metrics = run(made, [{"main": picture_batch()}] * 60)
    assert metrics[-1]["loss"] < 0.05 * metrics[0]["loss"]
    assert metrics[-1]["contrastive/accuracy/image_to_text"] == 1


@pytest.mark.parametrize(
    "objective",
    [Contrastive(**FEATURES), Sigmoid(**FEATURES), Contrastive(**FEATURES, comparison="ring")],
)
def test_eight_devices_equal_one(objective):
    model = FeatureTowers(embed_dim=8, bias_init=-10.0)
    batches = [{"main": feature_batch(seed=s)} for s in range(3)]
    made = recipe(model, objective, ema=0.9)
    one, one_metrics = run(made, batches, devices=1)
    eight, eight_metrics = run(made, batches, devices=8)
    for a, b in zip(one_metrics, eight_metrics):
        close(a["loss"], b["loss"])
        close(a["grad_norm"], b["grad_norm"])
    close(one.params, eight.params, rtol=1e-4, atol=1e-5)
    close(one.ema, eight.ema, rtol=1e-4, atol=1e-5)


@dataclasses.dataclass(frozen=True)
class TwoStage(Objective):
    """A loss on the output of a second call that reads the first one's."""

    @property
    def needs(self):
        return ("image_features",)

    def init_params(self, key, batch):
        return {"head": 0.1 * jax.random.normal(key, (8, 12))}

    def init_state(self, batch):
        return {"calls": jnp.zeros((), jnp.int32)}

    def __call__(self, forward, batch, state):
        first = forward("encode_image", {"image_features": batch["image_features"]})
        again = forward("encode_image", {"image_features": first.pooled @ forward.own["head"]})
        error = jnp.sum((again.pooled - jax.lax.stop_gradient(first.pooled)) ** 2, axis=1)
        count = jnp.float32(error.shape[0])
        metrics = {"error": (error.sum(), count)}
        return Loss(error.sum(), count, metrics, {"calls": state["calls"] + 1})


def test_a_pure_contrastive_and_a_two_stage_objective_share_a_step():
    goals = {
        "contrastive": Goal(Contrastive(**FEATURES)),
        "two_stage": Goal(TwoStage(), weight=constant(0.5)),
    }
    made = recipe(goals=goals)
    state, metrics = run(made, [{"main": feature_batch()}] * 30)
    assert metrics[-1]["loss/contrastive"] < metrics[0]["loss/contrastive"]
    assert metrics[-1]["loss/two_stage"] < metrics[0]["loss/two_stage"]
    total = metrics[0]["loss/contrastive"] + 0.5 * metrics[0]["loss/two_stage"]
    np.testing.assert_allclose(metrics[0]["loss"], total, rtol=1e-6)
    assert int(state.objectives["two_stage"]["calls"]) == 30
    assert state.params["objectives"]["two_stage"]["head"].shape == (8, 12)


class Reading(Contrastive):
    """The same, but it says that it reads tokens."""

    reads_tokens = True


def test_where_no_goal_reads_tokens_the_last_blocks_make_one_a_row():
    made = {}
    for name, goals in {
        "alone": {"main": Goal(Contrastive())},
        "read": {"main": Goal(Reading())},
        "both": {"main": Goal(Contrastive()), "other": Goal(Reading())},
    }.items():
        batches = {"main": picture_batch()}
        made[name] = compile_for(recipe(towers(), goals=goals), batches, 1).executed_flops
    # Of the last of two blocks the keys and values of all tokens stay.
    assert made["alone"] < 0.85 * made["read"]
    assert made["both"] < 1.02 * made["read"]


def test_streams_have_their_own_batches():
    goals = {
        "a": Goal(Contrastive(**FEATURES), stream="first"),
        "b": Goal(Contrastive(**FEATURES), stream="second"),
    }
    batches = {"first": feature_batch(16), "second": feature_batch(24, seed=1)}
    state, metrics = run(recipe(goals=goals), [batches])
    assert np.isfinite(metrics[0]["loss"])
    assert samples_seen(jax.device_get(state.counters["samples"])) == 40


def locked(image=r"image/.*"):
    return recipe(
        towers(),
        Contrastive(),
        ema=0.9,
        optimizer=AdamW(schedule=constant(1e-2), frozen=(image, "image_projection/.*")),
    )


def test_frozen_parameters_have_no_state_no_average_and_do_not_move():
    made = locked()
    batch = {"main": picture_batch()}
    before = jax.device_get(compile_for(made, batch).init())
    after, metrics = run(made, [batch] * 3)
    close(before.params["image"], jax.device_get(after.params["image"]), rtol=0, atol=0)
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), before.params["text"], after.params["text"]
    )
    assert max(jax.tree.leaves(moved)) > 0
    assert set(after.ema) == {"text", "text_projection", "log_scale"}
    trained = sum(x.size for x in jax.tree.leaves(after.ema))
    held = sum(x.size for x in jax.tree.leaves(after.opt_state))
    assert 2 * trained <= held <= 2 * trained + 4
    assert "grad_norm/image" not in metrics[0]


def test_a_frozen_tower_has_no_backward_in_the_compiled_text():
    def flops(made):
        compiled = compile_for(made, {"main": picture_batch()}, devices=1)
        text = compiled.step.lower(compiled.state, compiled.batches, compiled.stop).compile()
        names = re.findall(r'op_name="([^"]*)"', text.as_text())
        return [n for n in names if "transpose(" in n and "/image/" in n], names

    backward, names = flops(locked())
    assert names
    assert not backward
    unlocked, _ = flops(recipe(towers(), Contrastive()))
    assert unlocked  # so the names do tell


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_broken_step_changes_nothing_but_the_data_position_and_is_counted(broken):
    good = {"main": feature_batch()}
    bad = {"main": {**feature_batch(), "image_features": np.full((16, 12), broken, np.float32)}}
    made = recipe(
        ema=0.9, goals={"contrastive": Goal(Contrastive(**FEATURES)), "two": Goal(TwoStage())}
    )
    once, _ = run(made, [good])
    skipped, metrics = run(made, [good, bad])
    for part in ("params", "opt_state", "ema", "objectives"):
        close(getattr(once, part), getattr(skipped, part), rtol=0, atol=0)
    assert int(skipped.step) == 2
    assert int(skipped.counters["skipped"]) == 1
    assert int(metrics[1]["counters/skipped_in_a_row"]) == 1
    recovered, metrics = run(made, [good, bad, good])
    assert int(metrics[2]["counters/skipped_in_a_row"]) == 0
    assert np.isfinite(metrics[2]["loss"])
    assert int(recovered.opt_state["schedule"].count) == 2


def test_an_update_that_is_not_finite_is_not_made_though_its_gradient_is():
    wild = AdamW(schedule=constant(1e38), weight_decay=0.0)
    state, metrics = run(recipe(optimizer=wild), [{"main": feature_batch()}] * 2, 1)
    assert [int(m["counters/skipped_in_a_row"]) for m in metrics] == [1, 2]
    assert all(np.isfinite(m["grad_norm"]) for m in metrics)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(state.params)))


def test_a_loss_ten_times_as_large_is_a_normal_step():
    batch = feature_batch()
    large = {"main": {**batch, "image_features": batch["image_features"] * 10}}
    _, metrics = run(recipe(), [{"main": batch}, large])
    assert int(metrics[1]["counters/skipped"]) == 0


class Normalised(nn.Module):
    """A tiny dual encoder with running statistics."""

    @nn.compact
    def encode(self, x: Any, train: bool) -> Any:
        x = nn.Dense(8, name="dense")(x)
        return nn.BatchNorm(use_running_average=not train, momentum=0.5, name="norm")(x)

    def encode_image(self, image_features, train=False):
        return self._encoded(self.encode(image_features, train))

    def encode_text(self, text_features, train=False):
        pooled = jnp.zeros((text_features.shape[0], 8)).at[:, :8].set(text_features[:, :8])
        return self._encoded(pooled)

    def _encoded(self, pooled):
        unit = pooled / jnp.maximum(jnp.linalg.norm(pooled, axis=1, keepdims=True), 1e-6)
        return Encoded(None, None, pooled, unit)

    def scalars(self):
        return {"log_scale": jnp.float32(2.0)}

    def __call__(self, image_features, text_features, train=False):
        return self.encode_image(image_features, train), self.encode_text(text_features, train)


def test_running_statistics_are_of_the_global_batch_and_live_in_the_state():
    batch = {"main": feature_batch()}
    made = recipe(Normalised())
    start = jax.device_get(compile_for(made, batch).init())
    eight, _ = run(made, [batch], devices=8)
    one, _ = run(made, [batch], devices=1)
    close(one.batch_stats, eight.batch_stats)
    dense = start.params["dense"]
    x = batch["main"]["image_features"] @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    mean = eight.batch_stats["norm"]["mean"]
    np.testing.assert_allclose(mean, 0.5 * x.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_statistics_stay_when_a_step_is_skipped():
    good = {"main": feature_batch()}
    bad = {"main": {**feature_batch(), "image_features": np.full((16, 12), np.nan, np.float32)}}
    made = recipe(Normalised())
    once, _ = run(made, [good])
    after, _ = run(made, [good, bad])
    close(once.batch_stats, after.batch_stats, rtol=0, atol=0)


def test_the_scale_is_clamped_after_the_update():
    clamps = (("log_scale", 0.0, float(np.log(15))),)
    made = recipe(optimizer=AdamW(schedule=constant(1.0), weight_decay=0.0, clamps=clamps))
    _, metrics = run(made, [{"main": feature_batch()}] * 6)
    scales = [metric["scale"] for metric in metrics]
    assert max(scales) <= 15.001
    np.testing.assert_allclose(scales[-1], 15, rtol=1e-4)


def test_a_step_sends_nothing_to_the_devices_by_itself():
    """A number sent with each step would wait for it. On a CPU the way back is not guarded."""
    batch = {"main": feature_batch()}
    compiled = compile_for(recipe(), batch)
    placed = jax.device_put(batch, jax.tree.map(lambda s: s.sharding, compiled.batches))
    stop = jax.device_put(np.zeros(8, np.int32), compiled.stop.sharding)
    state = compiled.init()
    state, _ = compiled.step(state, placed, stop)
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            state, _ = compiled.step(state, placed, stop)
    jax.block_until_ready(state)


def test_a_request_to_stop_is_summed_over_the_devices():
    _, metrics = run(recipe(), [{"main": feature_batch()}], stop=1)
    assert int(metrics[0]["stop"]) == 8


def test_bad_samples_and_samples_are_counted_in_the_state():
    batch = feature_batch()
    batch["bad_samples"][3, CAUSES.index("decode")] = 2
    batch["bad_samples"][5, CAUSES.index("caption")] = 1
    state, _ = run(recipe(), [{"main": batch}] * 3)
    bad = dict(zip(CAUSES, np.asarray(state.counters["bad_samples"])))
    assert (bad["decode"], bad["caption"], bad["read"]) == (6, 3, 0)
    assert samples_seen(jax.device_get(state.counters["samples"])) == 48


def test_rows_that_only_fill_up_change_nothing():
    batch = feature_batch(16)
    padded = {word: value.copy() for word, value in batch.items()}
    padded["valid"][8:] = False
    other = {word: value.copy() for word, value in padded.items()}
    other["image_features"][8:] = 7.0
    one, a = run(recipe(), [{"main": padded}], devices=1)
    two, b = run(recipe(), [{"main": other}], devices=1)
    np.testing.assert_allclose(a[0]["loss"], b[0]["loss"], rtol=1e-6)
    close(one.params, two.params, rtol=1e-5)


def test_a_model_begins_whichever_stream_comes_first():
    made = recipe(towers(), Contrastive())
    whole = jax.tree.map(jnp.asarray, picture_batch())
    pictures = {word: whole[word] for word in whole if word not in ("token_ids", "text_mask")}
    goals = {"contrastive": Goal(Contrastive(), stream="pairs")}
    made = dataclasses.replace(made, goals=goals)
    found = jax.eval_shape(lambda: init_state(made, {"pictures": pictures, "pairs": whole}))
    wanted = jax.eval_shape(lambda: init_state(made, {"pairs": whole}))
    assert jax.tree.map(lambda x: x.shape, found) == jax.tree.map(lambda x: x.shape, wanted)
