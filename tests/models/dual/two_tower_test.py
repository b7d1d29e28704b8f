import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.dual import two_tower
from mmjax.models.dual.two_tower import TwoTower, unit_length
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.models.interfaces import DualEncoder
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations, batch_sharding, replicated
from mmjax.paths import flatten
from mmjax.typing import Encoded

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
COUNTS = json.loads((GOLDEN / "parameter_counts.json").read_text())["counts"]

SMALL = {"dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32}
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(3, 16, 16, 3)), jnp.float32)
IDS = jnp.asarray(np.random.default_rng(1).integers(0, 20, (3, 6)), jnp.int32)
MASK = jnp.ones((3, 6), bool)


@functools.cache
def make(dtype="float32", patch_dropout=0.0, **fields):
    """A model and its first parameters."""
    model = TwoTower(
        image=ViT(image_size=16, patch_size=8, dtype=dtype, patch_dropout=patch_dropout, **SMALL),
        text=TextTransformer(vocab_size=20, length=6, dtype=dtype, **SMALL),
        **{"embed_dim": 12, **fields},
    )
    return model, jax.jit(model.init)(jax.random.key(0), IMAGE, IDS, MASK)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_embeddings_are_float32_and_of_unit_length(dtype):
    model, variables = make(dtype)
    assert isinstance(model, DualEncoder)
    image = model.apply(variables, IMAGE, method="encode_image")
    text = model.apply(variables, token_ids=IDS, text_mask=MASK, method="encode_text")
    for encoded in (image, text):
        assert isinstance(encoded, Encoded)
        assert encoded.embedding.dtype == encoded.pooled.dtype == jnp.float32
        assert encoded.tokens.dtype == jnp.dtype(dtype)
        assert encoded.embedding.shape == (3, 12)
        lengths = np.linalg.norm(np.float64(encoded.embedding), axis=1)
        np.testing.assert_allclose(lengths, np.ones(3), atol=1e-6)


def test_the_top_of_the_tree_is_as_documented():
    _, clip = make()
    towers = {"image", "text", "log_scale"}
    assert set(clip["params"]) == towers | {"image_projection", "text_projection"}
    assert set(clip["params"]["text_projection"]) == {"kernel"}
    _, siglip = make(
        embed_dim=16, project_image="none", project_text="linear_bias", bias_init=-10.0
    )
    assert set(siglip["params"]) == towers | {"text_projection", "bias"}
    assert set(siglip["params"]["text_projection"]) == {"kernel", "bias"}


def test_scalars_start_where_the_papers_say():
    model, variables = make()
    scalars = model.apply(variables, method="scalars")
    np.testing.assert_allclose(scalars["log_scale"], math.log(1 / 0.07), rtol=1e-6)
    assert set(scalars) == {"log_scale"}
    model, variables = make(log_scale_init=math.log(10.0), bias_init=-10.0)
    scalars = model.apply(variables, method="scalars")
    np.testing.assert_allclose(np.exp(scalars["log_scale"]), 10, rtol=1e-6)
    assert scalars["bias"] == -10
    assert scalars["bias"].dtype == scalars["log_scale"].dtype == jnp.float32


def test_patch_dropout_reaches_the_tower_by_row_number():
    model, variables = make(patch_dropout=0.5)

    def run(image, row):
        return model.apply(
            variables,
            image,
            row=row,
            train=True,
            rngs={"dropout": jax.random.key(1)},
            method="encode_image",
        ).embedding

    order = jnp.asarray([2, 0, 1])
    whole = run(IMAGE, jnp.arange(3))
    np.testing.assert_allclose(run(IMAGE[order], order), whole[order], atol=1e-6)


def test_a_zero_vector_has_a_finite_gradient():
    value, gradient = jax.value_and_grad(lambda x: unit_length(x).sum())(jnp.zeros((1, 4)))
    assert value == 0
    assert np.isfinite(gradient).all()


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="project_text='conv' is none of none, linear"):
        make(project_text="conv")
    with pytest.raises(ValueError, match="is 16 wide, embed_dim is 12"):
        make(project_image="none")


def published(name):
    """A published model, by its function's name."""
    fields = getattr(two_tower, name)()
    return TwoTower(
        image=ViT(**fields["image"]), text=TextTransformer(**fields["text"]), **fields["model"]
    )


@pytest.mark.parametrize("name", COUNTS)
def test_a_published_size_has_the_published_number_of_parameters(name):
    model = published(name)
    size, length = model.image.image_size, model.text.length
    shapes = jax.eval_shape(
        model.init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32),
        jax.ShapeDtypeStruct((2, length), jnp.int32),
        jax.ShapeDtypeStruct((2, length), jnp.bool_),
    )
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == COUNTS[name]


def test_eight_devices_give_what_one_gives():
    model, variables = make(patch_dropout=0.5)
    rng = np.random.default_rng(2)
    image = jnp.asarray(rng.normal(size=(16, 16, 16, 3)), jnp.float32)
    ids = jnp.asarray(rng.integers(0, 20, (16, 6)), jnp.int32)
    inputs = (image, ids, ids > 2, jnp.arange(16))

    def loss(variables, image, ids, mask, row):
        rngs = {"dropout": jax.random.key(1)}
        image, text, _ = model.apply(variables, image, ids, mask, row, train=True, rngs=rngs)
        return jnp.sum((image.embedding @ text.embedding.T) ** 3)

    single = jax.jit(jax.value_and_grad(loss))(variables, *inputs)
    mesh = make_mesh()
    assert mesh.size == 8
    spread = [jax.device_put(x, batch_sharding(mesh)) for x in inputs]
    with activations(mesh):
        step = jax.jit(jax.value_and_grad(lambda *arguments: loss(*arguments)))
        lowered = step.lower(jax.device_put(variables, replicated(mesh)), *spread)
    assert "sharding_constraint" in lowered.as_text()
    many = lowered.compile()(jax.device_put(variables, replicated(mesh)), *spread)
    for path, value in flatten(single).items():
        np.testing.assert_allclose(flatten(many)[path], value, rtol=1e-4, atol=1e-5)
