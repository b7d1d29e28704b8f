"""A small tree of parameters, and updates of it as the step makes them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax.training.optimizers.base import merge


def _parameters(seed=0):
    rng = np.random.default_rng(seed)

    def tower():
        return {
            "blocks": {
                "mlp": {"kernel": rng.normal(size=(3, 4, 5)), "bias": rng.normal(size=(3, 5))},
                "norm": {"scale": rng.normal(size=(3, 4)), "bias": rng.normal(size=(3, 4))},
            },
            "positions": {"embedding": rng.normal(size=(7, 4))},
            "pool": {"probe": rng.normal(size=(4,))},
            "class_token": rng.normal(size=(4,)),
            "head": {"kernel": rng.normal(size=(4, 2))},
        }

    tree = {"image": tower(), "text": tower(), "log_scale": np.array(2.5), "bias": np.array(-1.0)}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def _run(optimizer, params, gradients):
    """The parameters after one update a gradient, on the trainable part, jitted as in training."""
    transform = optimizer.transform(params)
    trainable, frozen = optimizer.split(params)
    state = transform.init(trainable)

    @jax.jit
    def update(trainable, state, gradient):
        updates, state = transform.update(gradient, state, trainable)
        return optimizer.clamp(optax.apply_updates(trainable, updates)), state

    for gradient in gradients:
        trainable, state = update(trainable, state, optimizer.split(gradient)[0])
    return merge(trainable, frozen), state


@pytest.fixture(scope="session")
def parameters():
    """(seed) -> parameters of two towers with a stack of three blocks each, and scalars."""
    return _parameters


@pytest.fixture(scope="session")
def run():
    """(optimizer, params, gradients) -> the parameters after an update for each gradient, state."""
    return _run
