"""`ResNet` and `ClipResNet` beside timm's and open_clip's, same weights, same pictures."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.encoders.classifier import Classifier
from mmjax.models.encoders.clip_resnet import ClipResNet
from mmjax.models.encoders.resnet import ResNet
from mmjax.paths import flatten, unflatten

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
SMALL = {"channels": (4, 6, 8, 10), "depths": (2, 1, 1, 1)}
MODELS = {
    "basic": Classifier(ResNet(block="basic", **SMALL), 7),
    "bottleneck": Classifier(ResNet(block="bottleneck", **SMALL), 7),
    "clip": ClipResNet(image_size=64, width=4, depths=(2, 1, 1, 1), head_width=32, embed_dim=12),
}
PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "c_proj": "output"}


def theirs(path, name):
    """The reference's name of one of our arrays of the model `name`."""
    *parts, leaf = path.removeprefix("image/").split("/")
    kinds = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    made = []
    for part in parts:
        if part.startswith("stage"):
            made.append(part.replace("stage", "layer"))
        elif part.startswith("block"):
            made.append(str(int(part.removeprefix("block")) - 1))
        elif part.startswith("shortcut"):
            made.append("downsample.0" if part.endswith("conv") else "downsample.1")
        elif part.startswith("stem"):
            number = part[-1] if name == "clip" else "1"
            made.append(("conv" if "conv" in part else "bn") + number)
        elif part == "head":
            made.append("fc")
        elif part == "pool":
            made.append("attnpool")
        elif part in PROJECTIONS.values():
            made.append(next(k for k, v in PROJECTIONS.items() if v == part))
        elif part != "attention":
            made.append(part.replace("norm", "bn"))
    if leaf == "position_embedding":
        return ".".join((*made, "positional_embedding"))
    return ".".join((*made, kinds.get(leaf, leaf)))


def from_torch(value, path):
    """A reference's array as ours: kernels the other way round."""
    if not path.endswith("kernel"):
        return value
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    """(name, model, variables, pictures, arrays) with every array of the reference used."""
    with np.load(GOLDEN / f"resnet_{request.param}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    model = MODELS[request.param]
    image = jnp.asarray(arrays["image"].transpose(0, 2, 3, 1), jnp.float32) / 4
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    left = {k.removeprefix("state/"): v for k, v in arrays.items() if k.startswith("state/")}
    variables = {}
    for kind, tree in shapes.items():
        made = {}
        for path, leaf in flatten(tree).items():
            value = from_torch(left.pop(theirs(path, request.param)), path)
            assert value.shape == leaf.shape, path
            made[path] = jnp.asarray(value, jnp.float32)
        variables[kind] = unflatten(made)
    assert not left
    return request.param, model, variables, image, arrays


def same(value, wanted, rtol=1e-5):
    np.testing.assert_allclose(value, wanted, atol=2e-5, rtol=rtol)


def test_outputs_equal_the_reference(case):
    name, model, variables, image, arrays = case

    def run(variables):
        if name == "clip":
            made = model.apply(variables, image)
            return made.pooled, made.tokens
        tower = {kind: tree["image"] for kind, tree in variables.items()}
        return model.apply(variables, image), model.image.apply(tower, image).tokens

    with jax.default_matmul_precision("highest"):
        out, tokens = jax.jit(run)(variables)
    same(out, arrays["eval/out"])
    features = arrays["eval/features"]  # [b, c, h, w] -> [b, h * w, c]
    same(tokens, features.reshape(*features.shape[:2], -1).transpose(0, 2, 1))


def test_a_training_step_equals_the_reference(case):
    name, model, variables, image, arrays = case

    def loss(params, statistics):
        both = {"params": params, "batch_stats": statistics}
        out, after = model.apply(both, image, train=True, mutable=["batch_stats"])
        out = out.pooled if name == "clip" else out
        picked = jax.nn.log_softmax(out)[jnp.arange(3), jnp.arange(3)]
        return -picked.mean(), (out, after["batch_stats"])

    with jax.default_matmul_precision("highest"):
        (value, (out, after)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
            variables["params"], variables["batch_stats"]
        )
    same(out, arrays["train/out"])
    same(value, arrays["train/loss"])
    for path, value in flatten(after).items():
        same(value, arrays[f"after/{theirs(path, name)}"])
    for path, value in flatten(grads).items():
        same(np.linalg.norm(value), arrays[f"grad/{theirs(path, name)}"], rtol=1e-4)
