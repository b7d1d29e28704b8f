"""Weights of goals: numbers, schedules, and those that are learned by how noisy a goal is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.config import build, spec
from mmjax.data.sources.base import CAUSES
from mmjax.models.dual.features import FeatureTowers
from mmjax.objectives.base import Additive, Loss
from mmjax.objectives.contrastive import Contrastive
from mmjax.preprocess import Contract
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.schedules import constant
from mmjax.training.step import Goal, Recipe, init_state, loss_and_grads, train_step
from mmjax.training.weighing import Uncertainty, check_course
from mmjax.typing import View

IMAGE = View("encode_image", ("image_features",))
TEXT = View("encode_text", ("text_features",))


@dataclasses.dataclass(frozen=True)
class Short(Additive):
    """Wants vectors of pictures to be short: a loss that sums over rows."""

    owned: str = "scale"

    @property
    def needs(self):
        return IMAGE.words

    def init_params(self, key, batch):
        return {self.owned: jnp.float32(0.5)}

    def __call__(self, forward, batch, state):
        values = forward.own["scale"] * jnp.sum(forward.view(IMAGE, batch).pooled ** 2, 1)
        return Loss(values.sum(), jnp.float32(values.shape[0]), {}, state)


def recipe(micro_batches=1, frozen=(), **weights):
    objectives = {"pairs": Contrastive(IMAGE, TEXT), "short": Short()}
    return Recipe(
        model=FeatureTowers(embed_dim=4),
        goals={name: Goal(objectives[name], weight) for name, weight in weights.items()},
        optimizer=AdamW(schedule=constant(1e-2), frozen=frozen),
        contract=Contract(),
        seed=0,
        micro_batches=micro_batches,
    )


def batch(rows=8):
    rng = np.random.default_rng(0)
    made = {
        "image_features": rng.normal(size=(rows, 5)).astype(np.float32),
        "text_features": rng.normal(size=(rows, 6)).astype(np.float32),
        "row": np.arange(rows, dtype=np.int32),
        "valid": np.ones(rows, bool),
        "bad_samples": np.zeros((rows, len(CAUSES)), np.int32),
        "sample_id": np.stack([np.arange(rows)] * 2, 1).astype(np.int32),
    }
    return {"main": jax.tree.map(jnp.asarray, made)}


LEARNED = {"pairs": Uncertainty(0.3), "short": Uncertainty(-0.5, "regression")}


@pytest.fixture(scope="module")
def learned():
    """(state, loss, losses, gradient) of a recipe whose weights are all learned."""
    made, key = recipe(**LEARNED), jax.random.key(0)
    state = jax.jit(lambda: init_state(made, batch()))()
    loss, losses, _, grads = jax.jit(lambda s: loss_and_grads(made, s, batch(), key))(state)
    return state, loss, losses, grads


def test_a_learned_weight_is_that_of_the_paper(learned):
    state, loss, losses, grads = learned
    means = {name: float(one.mean()) for name, one in losses.items()}
    parts = {"pairs": np.exp(-0.3) * means["pairs"], "short": np.exp(0.5) * means["short"] / 2}
    assert float(loss) == pytest.approx(parts["pairs"] + parts["short"] + 0.15 - 0.25, rel=1e-6)
    owned = state.params["objectives"]
    assert float(owned["pairs"]["log_variance"]) == np.float32(0.3)
    assert set(owned["short"]) == {"scale", "log_variance"}
    for name, part in parts.items():
        slope = grads["objectives"][name]["log_variance"]
        assert float(slope) == pytest.approx(0.5 - part, rel=1e-5)


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_learn_the_weights_of_the_undivided_batch(micro_batches, learned):
    state, loss, _, grads = learned
    made = recipe(micro_batches, **LEARNED)
    run = jax.jit(lambda s: loss_and_grads(made, s, batch(), jax.random.key(0)))
    found, _, _, slopes = run(state)
    assert float(found) == pytest.approx(float(loss), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), slopes, grads)


def test_weights_that_vary_are_told_and_a_frozen_one_stays():
    weights = {"pairs": Uncertainty(0.3), "short": lambda step: 2.0 + step}
    made = recipe(frozen=("objectives/pairs/.*",), **weights)

    @jax.jit
    def two_steps():
        state, told = init_state(made, batch()), []
        for _ in range(2):
            state, metrics = train_step(made, state, batch(), jnp.zeros(1, jnp.int32))
            told.append(metrics)
        return state, told

    state, (first, second) = two_steps()
    assert [float(one["weight/short"]) for one in (first, second)] == [2, 3]
    assert float(second["weight/pairs"]) == pytest.approx(np.exp(-0.3))
    assert float(state.params["objectives"]["pairs"]["log_variance"]) == np.float32(0.3)
    metrics = jax.eval_shape(
        lambda: train_step(
            recipe(pairs=1.0, short=2.0),
            init_state(recipe(pairs=1.0, short=2.0), batch()),
            batch(),
            jnp.zeros(1, jnp.int32),
        )
    )[1]
    assert not [name for name in metrics if name.startswith("weight/")]


def test_a_learned_weight_is_never_decayed_and_built_from_a_config():
    goal = build(spec(Goal, objective=spec(Contrastive), weight=spec(Uncertainty, initial=1.0)))
    assert goal.weight == Uncertainty(1.0)
    params = {"objectives": {"pairs": {"log_variance": jnp.float32(3.0)}}}
    transform = AdamW(schedule=constant(1.0), weight_decay=0.1).transform(params)
    still = jax.tree.map(jnp.zeros_like, params)
    updates, _ = transform.update(still, transform.init(params), params)
    assert float(updates["objectives"]["pairs"]["log_variance"]) == 0


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_what_is_no_weight_is_refused(weight):
    with pytest.raises(ValueError, match=r"weight=.* is finite, 0 or more; or give a schedule"):
        Goal(Short(), weight)


def test_a_learned_weight_that_cannot_begin_is_refused():
    with pytest.raises(ValueError, match="initial=nan"):
        Uncertainty(float("nan"))
    with pytest.raises(ValueError, match="'ranking' is none of classification, regression"):
        Uncertainty(form="ranking")
    made = dataclasses.replace(recipe(), goals={"a": Goal(Short("log_variance"), Uncertainty())})
    with pytest.raises(ValueError, match="goal 'a': its objective owns 'log_variance'"):
        jax.eval_shape(lambda: init_state(made, batch()))


def test_a_schedule_is_looked_at_over_the_whole_run():
    check_course("a", 0.5, 10)
    check_course("a", Uncertainty(), 10)
    check_course("a", lambda step: 1 - step / 1_000_000, 1_000_001)
    with pytest.raises(ValueError, match=r"goal 'a': its weight is nan at step 0; a schedule of a"):
        check_course("a", lambda step: jnp.log(step - 1.0), 10)
    with pytest.raises(ValueError, match=r"is -.* at step 1000000; .* finite numbers, 0 or more"):
        check_course("a", lambda step: 0.999999 - step / 1_000_000, 1_000_001)
