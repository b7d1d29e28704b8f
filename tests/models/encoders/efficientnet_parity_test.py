"""`EfficientNet` beside the picture tower of the reference ALIGN, same weights, same inputs."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.encoders.efficientnet import EfficientNet
from mmjax.paths import flatten, unflatten

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
MODEL = EfficientNet(
    in_channels=(32, 16, 24),
    out_channels=(16, 24, 20),
    kernel_sizes=(3, 5, 3),
    strides=(1, 2, 2),
    num_block_repeats=(1, 1, 1),
    expand_ratios=(1, 3, 2),
    width_coefficient=0.5,
    depth_coefficient=1.5,
    even_padding=(4,),
)
LAYERS = {
    "expand_conv": "expansion.expand_conv",
    "expand_norm": "expansion.expand_bn",
    "depthwise_conv": "depthwise_conv.depthwise_conv",
    "depthwise_norm": "depthwise_conv.depthwise_norm",
    "squeeze": "squeeze_excite.reduce",
    "excite": "squeeze_excite.expand",
    "project_conv": "projection.project_conv",
    "project_norm": "projection.project_bn",
    "stem_conv": "embeddings.convolution",
    "stem_norm": "embeddings.batchnorm",
}
KINDS = {"kernel": "weight", "scale": "weight", "bias": "bias"} | {
    name: f"running_{name}" for name in ("mean", "var")
}


def theirs(path):
    """The reference's name of one of our arrays."""
    *place, layer, kind = path.split("/")
    name = f"{LAYERS[layer]}.{KINDS[kind]}"
    if place:
        stage, block = (int(part.lstrip("stageblock")) - 1 for part in place)
        name = f"encoder.blocks.{2 * stage + block}.{name}"
    return name


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "efficientnet.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def image(arrays):
    return jnp.asarray(arrays["pixel_values"].transpose(0, 2, 3, 1))


@pytest.fixture(scope="module")
def variables(arrays, image):
    """The reference's weights and statistics as ours; every one is used once, none is missing."""
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), image)
    left = {name for name in arrays if name.startswith("state/")}
    made = {}
    for part in ("params", "batch_stats"):
        for path, shape in flatten(shapes[part]).items():
            name = f"state/{theirs(path)}"
            left.remove(name)
            array = arrays[name]
            if array.ndim == 4:  # [out, in, h, w] -> [h, w, in, out]
                array = array.transpose(2, 3, 1, 0).reshape(shape.shape)
            assert array.shape == shape.shape
            made[f"{part}/{path}"] = jnp.asarray(array)
    assert all(name.endswith("num_batches_tracked") for name in left)
    return unflatten(made)


def same(value, wanted):
    np.testing.assert_allclose(value, wanted, atol=2e-5, rtol=1e-5)


def test_maps_of_features_equal_the_reference(arrays, image, variables):
    with jax.default_matmul_precision("highest"):
        run = jax.jit(lambda v, x: MODEL.apply(v, x, mutable=["intermediates"]))
        out, kept = run(variables, image)
    for stage in range(3):
        for block in range(2):
            name = kept["intermediates"][f"stage{stage + 1}"][f"block{block + 1}"]["output"]
            wanted = arrays[f"out/hidden_states.{2 * stage + block + 1}"]
            same(name[0].transpose(0, 3, 1, 2), wanted)
    last = arrays["out/last_hidden_state"]
    same(out.tokens, last.reshape(*last.shape[:2], -1).transpose(0, 2, 1))
    same(out.pooled, arrays["out/pooler_output"])


def test_gradients_equal_the_reference(arrays, image, variables):
    def loss(params):
        out = MODEL.apply({**variables, "params": params}, image)
        return jnp.sum(out.pooled * arrays["weights"])

    with jax.default_matmul_precision("highest"):
        gradient = jax.jit(jax.grad(loss))(variables["params"])
    for path, array in flatten(gradient).items():
        norm, wanted = np.linalg.norm(np.float64(array)), arrays[f"grad_norm/{theirs(path)}"]
        np.testing.assert_allclose(norm, wanted, atol=2e-5, rtol=1e-4, err_msg=path)
