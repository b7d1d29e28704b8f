"""Forward runs equal calls once; what a batch lacks is said before anything compiles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives.base import Forward, Loss, Objective, check_needs
from mmjax.typing import MadeOf, View


class Calls:
    """Stands for a model: counts how often it runs."""

    def __init__(self):
        self.count = 0

    def __call__(self, method, variables, inputs, train, rngs):
        self.count += 1
        noise = jax.random.normal(rngs["dropout"], ()) if rngs else 0.0
        return inputs["x"] * variables["params"]["w"] + noise, {}


def forward(calls, train=True, statistics=None):
    return Forward(calls, {"w": jnp.float32(2)}, statistics or {}, train, jax.random.key(0))


def test_equal_calls_run_once_however_many_ask():
    calls = Calls()
    run, x = forward(calls), jnp.ones(3)
    first = run("encode", {"x": x})
    assert run("encode", {"x": x}) is first
    assert run.owning({"own": 1})("encode", {"x": x}) is first
    assert calls.count == 1


def test_another_input_key_mode_or_parameters_is_another_call():
    calls = Calls()
    run, x = forward(calls), jnp.ones(3)
    run("encode", {"x": x})
    run("encode", {"x": jnp.ones(3)})
    run("other", {"x": x})
    run("encode", {"x": x}, key="again")
    run("encode", {"x": x}, train=False)
    run("encode", {"x": x}, params={"w": jnp.float32(3)})
    assert calls.count == 6


def test_randomness_is_a_function_of_the_key_and_the_calls_name_alone():
    x = jnp.zeros(2)
    assert forward(Calls())("encode", {"x": x})[0] == forward(Calls())("encode", {"x": x})[0]
    run = forward(Calls())
    assert run("encode", {"x": x})[0] != run("encode", {"x": x}, key="again")[0]
    assert forward(Calls(), train=False)("encode", {"x": x})[0] == 0


def test_other_parameters_get_no_gradient():
    def loss(w):
        run = forward(Calls(), train=False)
        return run("encode", {"x": jnp.ones(2)}, params={"w": w}).sum()

    assert jax.grad(loss)(jnp.float32(3)) == 0


def test_statistics_follow_training_calls_of_the_own_parameters_only():
    def touch_one(method, variables, inputs, train, rngs):
        changed = {"image": jnp.float32(3), "text": jnp.float32(7)}
        return 0, {**variables["batch_stats"], method: changed[method]}

    old = {"image": jnp.float32(0), "text": jnp.float32(5)}
    run = forward(touch_one, statistics=old)
    run("image", {"x": jnp.ones(2)}, params={"w": jnp.float32(1)})
    run("image", {"x": jnp.ones(2)}, train=False)
    assert run.statistics is old
    run.owning({})("image", {"x": jnp.ones(3)})
    assert {name: float(value) for name, value in run.statistics.items()} == {"image": 3, "text": 5}
    run("text", {"x": jnp.ones(3)})  # hands the image tower's old statistics back
    assert {name: float(value) for name, value in run.statistics.items()} == {"image": 3, "text": 7}
    run("text", {"x": jnp.ones(4)})  # another stream's batch moves them too
    assert {name: float(value) for name, value in run.statistics.items()} == {"image": 3, "text": 9}


def test_sums_over_parts_make_the_mean_of_the_whole():
    parts = [Loss(jnp.float32(3), jnp.float32(2), {}), Loss(jnp.float32(1), jnp.float32(6), {})]
    whole = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    assert float(whole.mean()) == 0.5
    assert float(Loss(jnp.float32(0), jnp.float32(0), {}).mean()) == 0


@dataclasses.dataclass(frozen=True)
class Needy(Objective):
    words: tuple[str, ...]

    @property
    def needs(self):
        return self.words

    def __call__(self, forward, batch, state):
        return Loss(jnp.float32(0), jnp.float32(1), {})


def test_a_missing_word_says_which_transform_makes_it():
    with pytest.raises(ValueError, match=r"'x' needs 'token_ids'.*Tokenize"):
        check_needs({"x": Needy(("token_ids",))}, ["image", "valid"])
    with pytest.raises(ValueError, match="no word of a Batch"):
        check_needs({"x": Needy(("tokens",))}, ["image"])
    with pytest.raises(ValueError, match=r"and the batches of stream 'a' hold image\."):
        check_needs({"x": Needy(("token_ids",))}, ["image"], "the batches of stream 'a'")
    check_needs({"x": Needy(("image",))}, ["image"])


def test_an_objective_without_memory_or_parameters_has_none():
    objective = Needy(())
    assert objective.init_state({"image": np.zeros(1)}) == ()
    assert objective.init_params(jax.random.key(0), {}) == {}


def test_a_method_made_of_others_shares_them_with_whoever_asks_for_them():
    class Recorded(Calls):
        def __call__(self, method, variables, inputs, train, rngs):
            self.count += 1
            return (method, tuple(inputs.items()), train), {}

    calls, image, ids, row = Recorded(), jnp.ones(2), jnp.zeros(2), jnp.arange(2)
    made_of = {"fuse": MadeOf("join", {"seen": View("encode", ("image", "row"))}, ("ids",))}
    run = Forward(calls, {}, {}, True, jax.random.key(0), made_of=made_of)
    batch = {"image": image, "ids": ids, "row": row}
    encoded = run.view(View("encode", ("image", "row")), batch)
    method, inputs, train = run.view(View("fuse", ("ids", "image")), batch)
    assert (method, train) == ("join", True)
    assert dict(inputs)["seen"] is encoded  # 'row' is handed on though the view did not name it
    assert dict(inputs)["ids"] is ids
    assert calls.count == 2
    run.view(View("fuse", ("ids", "image")), batch, train=False)
    assert calls.count == 4
