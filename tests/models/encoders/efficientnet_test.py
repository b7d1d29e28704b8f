import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders import efficientnet
from mmjax.models.encoders.bert import Bert
from mmjax.models.encoders.efficientnet import EfficientNet, InvertedBottleneck
from mmjax.parallel.layout import lay_out
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations, batch_sharding
from mmjax.paths import flatten, unflatten

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
COUNTS = json.loads((GOLDEN / "parameter_counts.json").read_text())["towers"]

SMALL = {
    "in_channels": (32, 16),
    "out_channels": (16, 24),
    "kernel_sizes": (3, 3),
    "strides": (1, 2),
    "num_block_repeats": (1, 2),
    "expand_ratios": (1, 2),
    "width_coefficient": 0.25,
    "depth_divisor": 4,
}
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(4, 12, 12, 3)), jnp.float32)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(EfficientNet(**SMALL).init)(jax.random.key(0), IMAGE)


def test_the_tree_is_as_documented(variables):
    assert set(variables["params"]) == {"stem_conv", "stem_norm", "stage1", "stage2"}
    first, second = (variables["params"]["stage2"][f"block{n}"] for n in (1, 2))
    assert first["expand_conv"]["kernel"].shape == (1, 1, 4, 8)
    assert second["depthwise_conv"]["kernel"].shape == (3, 3, 1, 16)  # 24 / 4 = 6 rounds up to 8
    assert second["squeeze"]["kernel"].shape == (16, 2)
    assert "expand_conv" not in variables["params"]["stage1"]["block1"]


def test_a_picture_alone_is_what_it_is_in_a_batch(variables):
    run = jax.jit(EfficientNet(**SMALL).apply)
    out = run(variables, IMAGE)
    assert out.tokens.shape == (4, 9, 8)
    np.testing.assert_allclose(out.pooled, out.tokens.mean(1), atol=1e-6)
    np.testing.assert_allclose(run(variables, IMAGE[:1]).pooled, out.pooled[:1], atol=1e-6)


def test_training_normalises_by_the_batch_and_moves_the_statistics(variables):
    def run(x):
        model = EfficientNet(**SMALL)
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    out, after = jax.jit(run)(IMAGE)
    stem = after["batch_stats"]["stem_norm"]["mean"]
    assert 0 < np.abs(stem).max() < 0.05  # the old ones, zeros, weigh 0.99
    other, _ = jax.jit(run)(IMAGE.at[1:].mul(3))
    assert not np.allclose(other.pooled[0], out.pooled[0], atol=1e-3)


def test_a_block_is_left_out_for_whole_rows_in_training_alone():
    block = InvertedBottleneck(4, added=True, drop_connect=0.5, norm_momentum=0.0)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 3, 3, 4)), jnp.float32)
    variables = jax.jit(block.init)(jax.random.key(0), x)
    rngs = {"dropout": jax.random.key(1)}
    run = jax.jit(lambda x: block.apply(variables, x, True, rngs=rngs, mutable=["batch_stats"])[0])
    left_out = (run(x) == x).all(axis=(1, 2, 3))
    some = (run(x) == x).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(left_out, some)
    assert 0 < left_out.sum() < 16
    assert not (jax.jit(block.apply)(variables, x) == x).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize("gathered", [True, False])
def test_parameters_in_parts_give_what_whole_ones_give(variables, gathered):
    model = EfficientNet(**SMALL)
    wanted = jax.jit(model.apply)(variables, IMAGE)
    mesh = make_mesh(2, 2, 2)
    placed = lay_out(variables, mesh)
    shardings = {path: NamedSharding(mesh, one.spec) for path, one in placed.items()}
    cut = {path: one.spec for path, one in lay_out(variables["params"], mesh).items()}
    with activations(mesh, params=cut if gathered else {}):
        run = jax.jit(
            lambda variables, image: model.apply(variables, image),
            in_shardings=(unflatten(shardings), batch_sharding(mesh)),
        )
        found = run(variables, IMAGE)
    assert any(one.ways > 1 for one in placed.values())
    np.testing.assert_allclose(found.tokens, wanted.tokens, atol=2e-5)


def test_training_on_eight_devices_moves_the_statistics_as_on_one(variables):
    model = EfficientNet(**SMALL)
    images = jnp.concatenate([IMAGE, 2 * IMAGE])

    def statistics(image):
        return model.apply(variables, image, train=True, mutable=["batch_stats"])[1]

    wanted = jax.jit(statistics)(images)
    with activations(make_mesh()):
        spread = jax.device_put(images, batch_sharding(make_mesh()))
        found = jax.jit(lambda image: statistics(image))(spread)
    for path, value in flatten(found).items():
        np.testing.assert_allclose(value, flatten(wanted)[path], atol=1e-5, err_msg=path)


def test_bfloat16_is_close_to_float32(variables):
    expected = jax.jit(EfficientNet(**SMALL).apply)(variables, IMAGE).pooled
    out = jax.jit(EfficientNet(**SMALL, dtype="bfloat16").apply)(variables, IMAGE).pooled
    assert out.dtype == jnp.bfloat16
    error = jnp.linalg.norm(out.astype(jnp.float32) - expected) / jnp.linalg.norm(expected)
    assert 0 < error < 0.03


def test_with_bert_it_is_align():
    text = Bert(vocab_size=20, length=6, dim=8, depth=1, num_heads=2, mlp_dim=16)
    fields = {"project_image": "none", "project_text": "linear_bias"}
    model = TwoTower(EfficientNet(**SMALL), text, embed_dim=8, **fields)
    words = (jnp.zeros((4, 6), jnp.int32), jnp.ones((4, 6), bool))
    (image, *_), shapes = jax.eval_shape(model.init_with_output, jax.random.key(0), IMAGE, *words)
    assert image.embedding.shape == (4, 8)
    assert set(shapes["batch_stats"]) == {"image"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strides": (1,)}, "every tuple.*strides 1"),
        ({"in_channels": (32, 24)}, "are not what the stem and the stages before give"),
    ],
)
def test_stages_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        EfficientNet(**{**SMALL, **fields}).init(jax.random.key(0), IMAGE)


def test_a_published_size_has_the_published_number_of_parameters():
    model = EfficientNet(**efficientnet.efficientnet_b7())
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGE)["params"]
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == COUNTS["efficientnet_b7"]


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_without_a_stride_a_kernel_of_any_side_gives_as_many_places(size):
    block = InvertedBottleneck(4, kernel_size=size, expand_ratio=1)
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 4))
    variables = block.init(jax.random.key(1), x)
    _, seen = block.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])
    kernel = variables["params"]["depthwise_conv"]["kernel"]
    wanted = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4
    )
    (made,) = seen["intermediates"]["depthwise_conv"]["__call__"]
    np.testing.assert_allclose(made, wanted, atol=1e-5)
