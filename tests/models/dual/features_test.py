import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.dual.features import FeatureTowers
from mmjax.models.interfaces import DualEncoder

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32)
TEXTS = jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32)


def test_without_hidden_layers_it_is_two_linear_maps():
    model = FeatureTowers(embed_dim=3)
    assert isinstance(model, DualEncoder)
    (image, text, scalars), variables = model.init_with_output(jax.random.key(0), IMAGES, TEXTS)
    params = variables["params"]["image"]["output"]
    expected = IMAGES @ params["kernel"] + params["bias"]
    np.testing.assert_allclose(image.pooled, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(text.embedding, axis=1), np.ones(4), atol=1e-6)
    assert set(scalars) == {"log_scale"}
    np.testing.assert_allclose(np.exp(scalars["log_scale"]), 1 / 0.07, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_hidden_layers_and_bias_are_there_when_asked_for(dtype):
    model = FeatureTowers(3, image_hidden_dims=(7, 8), bias_init=-10.0, dtype=dtype)
    variables = jax.jit(model.init)(jax.random.key(0), IMAGES, TEXTS)
    assert set(variables["params"]["image"]) == {"hidden_0", "hidden_1", "output"}
    assert set(variables["params"]["text"]) == {"output"}
    assert model.apply(variables, method="scalars")["bias"] == -10
    image = model.apply(variables, IMAGES, method="encode_image")
    text = model.apply(variables, text_features=TEXTS, method="encode_text")
    assert image.embedding.dtype == text.embedding.dtype == jnp.float32
    assert image.embedding.shape == text.embedding.shape == (4, 3)
    assert image.tokens is None
