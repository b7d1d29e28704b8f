"""Random parameters for models, without the long compile of their own initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.paths import map_with_path


@pytest.fixture(scope="session")
def random_variables():
    """(model, *inputs) -> variables: every parameter random, biases and norms too."""
    made = {}

    def make(model, *inputs):
        if model not in made:
            rng = np.random.default_rng(0)
            shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)

            def draw(path, x):
                middle = 1.0 if path.endswith("/scale") else 0.0  # a layer norm's
                return jnp.asarray(rng.normal(middle, 0.2, x.shape), x.dtype)

            made[model] = map_with_path(draw, shapes)
        return made[model]

    return make
