"""The plain CNN: its grid, its types, and that no picture sees another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.encoders.clip_resnet import ClipResNet
from mmjax.models.encoders.cnn import Cnn
from mmjax.models.encoders.resnet import ResNet
from mmjax.models.encoders.vit import ViT

IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 12, 3)), jnp.float32)


def test_a_picture_gives_the_same_alone_and_among_others(random_variables):
    model = Cnn((8, 8), 4)
    variables = random_variables(model, IMAGE)
    assert set(variables) == {"params"}  # no running statistics
    run = jax.jit(model.apply)
    alone, among = run(variables, IMAGE[1:2]), run(variables, IMAGE)
    np.testing.assert_allclose(alone.tokens[0], among.tokens[1], atol=1e-5)
    assert not np.allclose(among.pooled[0], among.pooled[1], atol=1e-2)
    half = jax.eval_shape(model.clone(dtype="bfloat16").apply, variables, IMAGE)
    assert {half.tokens.dtype, half.pooled.dtype} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("model", "sides"),
    [
        (Cnn((8, 8, 16), 4), (20, 33)),
        (ResNet("basic", (4, 8), (1, 1), 4), (20, 33)),
        (ClipResNet(64, 2, (1, 1, 1, 1), 16, 12), (64, 64)),
        (ViT(20, 8, 8, 1, 2, 8, pooling="mean"), (20, 20)),
    ],
)
def test_the_grid_that_is_told_is_that_of_the_tokens(model, sides):
    image = jax.ShapeDtypeStruct((2, *sides, 3), jnp.float32)
    out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    rows, columns = model.grid(*sides)
    assert out.tokens.shape[1] == rows * columns


@pytest.mark.parametrize("fields", [((8, 6), 4), ((), 1), ((8, 4), 4)])
def test_channels_that_do_not_fit_are_refused(fields):
    with pytest.raises(ValueError, match=r"channels that the groups divide, and a last number"):
        jax.eval_shape(Cnn(*fields).init, jax.random.key(0), IMAGE)
