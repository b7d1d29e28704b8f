"""A bit that flips in a step's gradients: noticed where the step is computed again."""

import re

import pytest

# The tiny config, whose gradients pass through the host; there one bit is flipped at one call.
CONFIG = """
import dataclasses
import jax, jax.numpy as jnp, numpy as np
from ml_collections import ConfigDict
from mmjax.config import spec
from mmjax.run.config_file import load
from mmjax.objectives.contrastive import Contrastive
from mmjax.training.step import Goal

CALL, TINY = {call}, {tiny!r}
calls = [0]


def passed(gradient):
    calls[0] += 1
    gradient = np.array(gradient)
    if calls[0] == CALL:
        gradient.view(np.uint32)[0, 3] ^= 1 << 15
    return gradient


@jax.custom_vjp
def through_the_host(x):
    return x


def backward(_, gradient):
    like = jax.ShapeDtypeStruct(gradient.shape, gradient.dtype)
    return (jax.pure_callback(passed, like, gradient),)


through_the_host.defvjp(lambda x: (x, None), backward)


@dataclasses.dataclass(frozen=True)
class Passing(Contrastive):
    def compare(self, embeddings, scalars, state):
        embeddings = {{**embeddings, "image": through_the_host(embeddings["image"])}}
        return super().compare(embeddings, scalars, state)


def get_config():
    config = load(TINY)
    with config.unlocked():
        config.goals = ConfigDict()
        config.goals.passing = spec(Goal, objective=spec(Passing))
    return config
"""
FLAGS = ("--config.steps=12", "--replay-check=4")


@pytest.fixture
def flipping(trainer, lab, tmp_path):
    """(flags, keywords) of a run in which the bit is flipped in the given call."""

    def make(call):
        config = tmp_path / "flipping.py"
        config.write_text(CONFIG.format(call=call, tiny=str(lab.TINY)))
        paths = (f"--config.data.path={trainer.train}", f"--config.eval_data.path={trainer.val}")
        return paths, {"config": config}

    return make


def test_a_clean_run_is_the_same_with_and_without_the_check(trainer, lab, undisturbed, tmp_path):
    run = trainer.finish(tmp_path, "--replay-check=1")
    assert "differs" not in run.err
    lab.assert_same(lab.state(tmp_path), lab.state(undisturbed))


def test_a_flipped_bit_in_a_gradient_is_noticed_and_not_saved(trainer, lab, flipping, tmp_path):
    paths, how = flipping(10)  # step 4 is computed by the fourth and fifth call, 8 by 9 and 10
    run = trainer.start(tmp_path / "run", *paths, *FLAGS, **how)
    assert run.wait() == 1
    (line,) = run.lines
    found = re.match(r"error: step 8, computed twice .* differs in (\d+) of (\d+) arrays on ", line)
    assert found, line
    assert 0 < int(found[1]) < int(found[2])  # the text tower's gradients were right
    assert " arrays on cpu:0 of process 0: " in line
    assert "elements)" in line
    assert "params/" in line or "opt_state/" in line or "ema/" in line
    assert lab.steps(tmp_path / "run") == [4, 6]
