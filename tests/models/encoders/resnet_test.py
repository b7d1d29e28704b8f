"""ResNets by themselves: published sizes, types, devices, and what is refused."""

import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.dual import two_tower
from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders import resnet
from mmjax.models.encoders.classifier import Classifier
from mmjax.models.encoders.clip_resnet import AveragedBottleneck, ClipResNet
from mmjax.models.encoders.resnet import BasicBlock, Bottleneck, ResNet
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.parallel.layout import lay_out
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations, batch_sharding
from mmjax.paths import flatten, map_with_path

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
COUNTS = json.loads((GOLDEN / "resnet_counts.json").read_text())["counts"]
PLAIN = {"channels": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "stem_channels": 8}
CLIP = {"image_size": 32, "width": 4, "depths": (1, 1, 1, 1), "head_width": 32, "embed_dim": 12}
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(8, 32, 32, 3)), jnp.float32)


def size(shapes):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize("name", [name for name in COUNTS if not name.startswith("clip")])
def test_a_published_size_has_the_published_number_of_parameters(name):
    model = Classifier(ResNet(**getattr(resnet, name)()), 1000)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    assert size(shapes["params"]) == COUNTS[name]


@pytest.mark.parametrize("name", [name for name in COUNTS if name.startswith("clip")])
def test_a_published_clip_has_the_published_number_of_parameters(name):
    fields = getattr(two_tower, name)()
    image, text = ClipResNet(**fields["image"]), TextTransformer(**fields["text"])
    model = TwoTower(image=image, text=text, **fields["model"])
    shapes = jax.eval_shape(
        model.init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((2, image.image_size, image.image_size, 3), jnp.float32),
        jax.ShapeDtypeStruct((2, text.length), jnp.int32),
        jax.ShapeDtypeStruct((2, text.length), jnp.bool_),
    )
    assert size(shapes["params"]) == COUNTS[name]


@pytest.mark.parametrize("block", [BasicBlock(8), Bottleneck(2), AveragedBottleneck(2)])
def test_a_block_begins_as_its_shortcut(block):
    x = jnp.abs(IMAGE[:1, :4, :6]).repeat(3, -1)[..., :8]

    def first(key):
        y, variables = block.init_with_output(key, x)
        return y, flatten(variables["params"])

    y, params = jax.jit(first)(jax.random.key(0))
    np.testing.assert_array_equal(y, x)
    assert not any("shortcut" in path for path in params)


@pytest.mark.parametrize("model", [ResNet, ClipResNet])
def test_bfloat16_is_for_activations_alone(model):
    made = model(**(PLAIN if model is ResNet else CLIP), dtype="bfloat16")

    def run(key):
        variables = made.init(key, IMAGE)
        return variables, made.apply(variables, IMAGE, train=True, mutable=["batch_stats"])

    variables, (output, after) = jax.eval_shape(run, jax.random.key(0))
    assert output.tokens.dtype == output.pooled.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves((variables, after))} == {jnp.dtype("float32")}


def test_cut_parameters_and_batches_on_eight_devices_give_what_one_gives():
    model = ResNet(block="basic", channels=(8, 16), depths=(1, 1), stem_channels=8)
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    variables = map_with_path(
        lambda path, x: jnp.asarray(
            rng.uniform(0.5, 1.5, x.shape) if x.ndim == 1 else rng.normal(0, 0.1, x.shape), x.dtype
        ),
        shapes,
    )

    def step(params, statistics, image):
        def loss(params):
            output, after = model.apply(
                {"params": params, "batch_stats": statistics},
                image,
                train=True,
                mutable=["batch_stats"],
            )
            return jnp.square(output.pooled).mean(), after["batch_stats"]

        return jax.value_and_grad(loss, has_aux=True)(params)

    params, statistics = variables["params"], variables["batch_stats"]
    one = jax.jit(step)(params, statistics, IMAGE)
    mesh = make_mesh(2, 2, 2)
    placed = lay_out(params, mesh, (), 0)
    specs = {path: place.spec for path, place in placed.items()}
    assert any("fsdp" in spec and len(spec) == 4 for spec in specs.values())
    params = map_with_path(
        lambda path, x: jax.device_put(x, jax.NamedSharding(mesh, specs[path])), params
    )
    with activations(mesh, params=specs):
        many = jax.jit(lambda *given: step(*given))(
            params, statistics, jax.device_put(IMAGE, batch_sharding(mesh))
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), one, many)


def test_what_a_block_stores_changes_no_number_and_moves_the_statistics_once():
    found = {}
    for remat in ("none", "dots_no_batch", "full"):
        model = ResNet(block="basic", channels=(8,), depths=(2,), stem_channels=8, remat=remat)

        def loss(params, statistics, model=model):
            both = {"params": params, "batch_stats": statistics}
            output, after = model.apply(both, IMAGE, train=True, mutable=["batch_stats"])
            return jnp.square(output.pooled).mean(), after

        variables = jax.jit(model.init)(jax.random.key(0), IMAGE)
        grad = jax.jit(jax.grad(loss, has_aux=True))
        made = grad.lower(variables["params"], variables["batch_stats"]).compile()
        numbers = made(variables["params"], variables["batch_stats"])
        found[remat] = numbers, made.memory_analysis().temp_size_in_bytes
    for remat in ("dots_no_batch", "full"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5),
            found[remat][0],
            found["none"][0],
        )
    sizes = [size for _, size in found.values()]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ResNet(block="wide"), "block='wide' is none of basic, bottleneck"),
        (ResNet(depths=(2, 2)), "4 channels for 2 depths"),
        (ClipResNet(), "pictures are 32x32, the model's image_size is 224"),
        (ClipResNet(image_size=40), "no multiple of 32"),
        (ClipResNet(image_size=32, depths=(1, 1)), "four stages"),
        (ClipResNet(image_size=32, width=4, head_width=48), "head_width=48 does not divide .* 128"),
    ],
)
def test_options_that_do_not_fit_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), IMAGE)
