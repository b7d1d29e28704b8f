import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import paths
from mmjax.training import schedules
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.optimizers.base import merge, position

NO_CLIP = {"clip_norm": None, "schedule": schedules.constant(1e-2)}


def test_by_default_only_weights_are_decayed(parameters, run):
    params = parameters()
    zero = jax.tree.map(jnp.zeros_like, params)
    found, _ = run(AdamW(weight_decay=0.5, **NO_CLIP), params, [zero])
    moved = {
        path
        for path, before in paths.flatten(params).items()
        if not np.array_equal(paths.flatten(found)[path], before)
    }
    assert moved == {
        f"{tower}/{path}"
        for tower in ("image", "text")
        for path in ("blocks/mlp/kernel", "head/kernel")
    }
    np.testing.assert_allclose(
        found["text"]["head"]["kernel"], params["text"]["head"]["kernel"] * (1 - 0.01 * 0.5)
    )


def test_layerwise_rates_equal_separate_runs_of_each_layer(parameters, run):
    rules = (("image/blocks[0]/.*", 0.25), ("image/blocks[1:]/.*", 0.5), (".*", 1.0))
    params, gradients = parameters(), [parameters(5), parameters(6)]
    layered, _ = run(AdamW(rate_rules=rules, **NO_CLIP), params, gradients)
    for layer, rate in enumerate((0.25, 0.5, 0.5)):
        plain, _ = run(AdamW(rate_rules=((".*", rate),), **NO_CLIP), params, gradients)
        for path, leaf in paths.flatten(layered["image"]["blocks"]).items():
            np.testing.assert_allclose(
                leaf[layer], paths.flatten(plain["image"]["blocks"])[path][layer], rtol=1e-6
            )
    whole, _ = run(AdamW(**NO_CLIP), params, gradients)
    jax.tree.map(np.testing.assert_array_equal, layered["text"], whole["text"])


def test_layers_without_a_rate_stand_still(parameters, run):
    params = parameters()
    rules = (("image/blocks[0:2]/.*", 0.0), (".*", 1.0))
    found, _ = run(AdamW(rate_rules=rules, **NO_CLIP), params, [parameters(1)])
    before, after = params["image"]["blocks"], found["image"]["blocks"]
    for path, leaf in paths.flatten(after).items():
        moved = [not np.array_equal(leaf[i], paths.flatten(before)[path][i]) for i in range(3)]
        assert moved == [False, False, True]


def test_frozen_parameters_have_no_state_and_do_not_change(parameters, run):
    optimizer = AdamW(schedules.constant(1e-2), frozen=("image/.*",))
    params = parameters()
    trainable, frozen = optimizer.split(params)
    assert set(trainable) == {"text", "log_scale", "bias"}
    assert set(frozen) == {"image"}
    found, state = run(optimizer, params, [parameters(1)])
    assert not any("image" in path for path in paths.flatten(state))
    assert sum("text/" in path for path in paths.flatten(state)) == 16  # two moments of eight
    jax.tree.map(np.testing.assert_array_equal, found["image"], params["image"])
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), found["text"], params["text"])
    assert all(jax.tree.leaves(changed))


def test_the_clipped_norm_is_that_of_the_trainable_part_alone(parameters, run):
    params, gradient = parameters(), parameters(1)
    huge = {**gradient, "image": jax.tree.map(lambda leaf: leaf * 1e6, gradient["image"])}
    optimizer = AdamW(schedules.constant(1e-2), frozen=("image/.*",), eps=1.0)
    first, _ = run(optimizer, params, [gradient])
    second, _ = run(optimizer, params, [huge])
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_rules_of_a_recipe_stay_when_a_tower_is_locked(parameters):
    optimizer = AdamW(
        schedules.constant(1e-2),
        frozen=("image/.*",),
        rate_rules=(("image/head.*", 3.0), (".*", 1.0)),
    )
    optimizer.transform(parameters()).init(optimizer.split(parameters())[0])


def test_split_and_merge_are_inverse_and_work_on_shapes(parameters):
    optimizer = AdamW(schedules.constant(1.0), frozen=(".*/blocks/.*", "log_scale"))
    params = parameters()
    whole = merge(*optimizer.split(params))
    assert jax.tree.structure(whole) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, whole, params)
    shapes = jax.eval_shape(lambda: params)
    assert merge(*optimizer.split(shapes)) == shapes
    optimizer.transform(shapes)
    trainable, frozen = optimizer.split(params)
    with pytest.raises(ValueError, match="both parts hold"):
        merge(trainable, {**frozen, "bias": 0})


def test_everything_is_trained_by_default(parameters):
    trainable, frozen = AdamW(schedules.constant(1.0)).split(parameters())
    assert frozen == {}
    assert len(paths.flatten(trainable)) == len(paths.flatten(parameters()))


def test_the_position_is_the_optimizers_own_count(parameters, run):
    optimizer = AdamW(schedules.constant(1e-2))
    _, state = run(optimizer, parameters(), [parameters(1)] * 3)
    assert int(position(state)) == 3
    assert int(position(optimizer.transform(parameters()).init(parameters()))) == 0


def test_the_rate_that_is_logged_is_the_rate_that_is_applied(parameters, run):
    schedule = schedules.cosine(1e-1, 5, warmup_steps=2)
    optimizer = AdamW(schedule, clip_norm=None, weight_decay=0.0, eps=1e-12)
    params = parameters()
    ones = jax.tree.map(jnp.ones_like, params)
    before, count = params, 3
    for updates in range(count + 1):
        after, state = run(optimizer, params, [ones] * (updates + 1))
        if updates == count:
            # With equal gradients Adam's step is 1, so the change is the rate.
            change = float(before["log_scale"] - after["log_scale"])
            assert change == pytest.approx(float(optimizer.learning_rate(count)), rel=1e-5)
            assert int(position(state)) == count + 1
        before = after


def test_clamps_hold_after_the_update(parameters, run):
    optimizer = AdamW(
        schedules.constant(10.0),
        clip_norm=None,
        clamps=(("log_scale", 0.0, math.log(100)), ("bias", None, -0.5)),
    )
    params = parameters()
    up = jax.tree.map(lambda leaf: -jnp.ones_like(leaf), params)
    found, _ = run(optimizer, params, [up])
    assert float(found["log_scale"]) == pytest.approx(math.log(100))
    assert float(found["bias"]) == -0.5
    found, _ = run(optimizer, params, [jax.tree.map(jnp.ones_like, params)])
    assert float(found["log_scale"]) == 0.0
    assert float(found["bias"]) < -5
    assert float(jnp.abs(found["text"]["head"]["kernel"]).max()) > 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"b1": 1.0}, "b1=1.0"),
        ({"eps": 0.0}, "eps=0.0"),
        ({"mu_dtype": "float16"}, "mu_dtype='float16' is none of float32, bfloat16"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
        ({"rate_rules": ((".*", -1.0),)}, "-1.0"),
        ({"clamps": (("log_scale", 2.0, 1.0),)}, "low is above high"),
        ({"eps": math.inf}, "eps=inf: above 0 and finite"),
        ({"weight_decay": math.inf}, "weight_decay=inf: a finite number"),
        ({"weight_decay": 1e39}, r"weight_decay=1e\+39: a finite number"),  # not as a float32
        ({"clip_norm": math.inf}, "clip_norm=inf: .*None for no clipping"),
        ({"rate_rules": ((".*", math.inf),)}, "rate_rules: rule .*inf.*: a multiplier is finite"),
        ({"decay_rules": ((".*", 1e39),)}, "decay_rules: rule .*39.: a multiplier is finite"),
        ({"clamps": (("log_scale", math.inf, None),)}, "inf, None.*no finite number"),
        ({"clamps": (("log_scale", None, -math.inf),)}, "None, -inf.*no finite number"),
    ],
)
def test_numbers_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        AdamW(schedules.constant(1.0), **fields)


def test_an_infinite_clamp_on_its_own_side_is_no_bound(parameters, run):
    params = parameters()
    optimizer = AdamW(clamps=(("bias", -math.inf, math.inf),), **NO_CLIP)
    found, _ = run(optimizer, params, [parameters(1)])
    same, _ = run(AdamW(**NO_CLIP), params, [parameters(1)])
    assert float(found["bias"]) == float(same["bias"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate_rules": (("image/.*", 1.0),)}, "learning-rate rules: no rule matches 10 of 18"),
        ({"rate_rules": (("imgae/.*", 0.1), (".*", 1.0))}, "'imgae/.*' decides nothing"),
        ({"decay_rules": ((".*kernel", 1.0),)}, "weight-decay rules: no rule matches"),
        ({"clamps": (("temperature", 0.0, 1.0),)}, "clamp 'temperature' matches none"),
        ({"rate_rules": (("image/blocks[0:9]/.*", 0.1), (".*", 1.0))}, "beyond the 3"),
    ],
)
def test_rules_that_do_not_fit_the_parameters_are_refused(fields, message, parameters):
    with pytest.raises(ValueError, match=message):
        AdamW(schedules.constant(1.0), **fields).transform(parameters())


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (("imgae/.*",), "frozen: rule 'imgae/.*' decides nothing"),
        ((".*",), "nothing to train"),
        (("image/blocks[0:2]/.*",), "rate_rules="),
    ],
)
def test_frozen_patterns_that_cannot_be_meant_are_refused(frozen, message, parameters):
    with pytest.raises(ValueError, match=message):
        AdamW(schedules.constant(1.0), frozen=frozen).split(parameters())


def test_the_optimizer_is_a_plain_frozen_dataclass():
    optimizer = AdamW(schedules.constant(1.0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        optimizer.b1 = 0.5
