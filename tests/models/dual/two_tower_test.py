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
from mmjax.typing import Encoded

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
COUNTS = json.loads((GOLDEN / "parameter_counts.json").read_text())["counts"]

SMALL = {"dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32}
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(3, 16, 16, 3)), jnp.float32)
IDS = jnp.asarray(np.random.default_rng(1).integers(0, 20, (3, 6)), jnp.int32)
MASK = jnp.ones((3, 6), bool)


def small(dtype="float32", patch_dropout=0.0, **fields):
    """A model that compiles soon."""
    image = {"image_size": 16, "patch_size": 8, "patch_dropout": patch_dropout}
    return TwoTower(
        image=ViT(**image, dtype=dtype, **SMALL),
        text=TextTransformer(vocab_size=20, length=6, dtype=dtype, **SMALL),
        **{"embed_dim": 12, **fields},
    )


def initial(model):
    """Its own first parameters, as shapes."""
    return jax.eval_shape(model.init, jax.random.key(0), IMAGE, IDS, MASK)["params"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_embeddings_are_float32_and_of_unit_length(random_variables, dtype):
    model = small(dtype)
    assert isinstance(model, DualEncoder)
    variables = random_variables(model, IMAGE, IDS, MASK)
    image, text, _ = jax.jit(model.apply)(variables, IMAGE, IDS, MASK)
    for encoded in (image, text):
        assert isinstance(encoded, Encoded)
        assert encoded.embedding.dtype == encoded.pooled.dtype == jnp.float32
        assert encoded.tokens.dtype == jnp.dtype(dtype)
        assert encoded.embedding.shape == (3, 12)
        lengths = np.linalg.norm(np.float64(encoded.embedding), axis=1)
        np.testing.assert_allclose(lengths, np.ones(3), atol=1e-6)


def test_each_method_takes_the_words_of_its_tower(random_variables):
    model = small()
    variables = random_variables(model, IMAGE, IDS, MASK)

    def encode(method, **words):
        return model.apply(variables, **words, method=method).embedding

    image, text, scalars = jax.jit(model.apply)(variables, IMAGE, IDS, MASK)
    alone = jax.jit(lambda: encode("encode_image", image=IMAGE))()
    np.testing.assert_allclose(alone, image.embedding, atol=1e-6)
    alone = jax.jit(lambda: encode("encode_text", token_ids=IDS, text_mask=MASK))()
    np.testing.assert_allclose(alone, text.embedding, atol=1e-6)
    np.testing.assert_array_equal(
        model.apply(variables, method="scalars")["log_scale"], scalars["log_scale"]
    )


def test_the_top_of_the_tree_is_as_documented():
    clip = initial(small())
    towers = {"image", "text", "log_scale"}
    assert set(clip) == towers | {"image_projection", "text_projection"}
    assert set(clip["text_projection"]) == {"kernel"}
    fields = {"project_image": "none", "project_text": "linear_bias", "bias_init": -10.0}
    siglip = initial(small(embed_dim=16, **fields))
    assert set(siglip) == towers | {"text_projection", "bias"}
    assert set(siglip["text_projection"]) == {"kernel", "bias"}


def test_scalars_start_where_the_papers_say():
    scalars, _ = small().init_with_output(jax.random.key(0), method="scalars")
    np.testing.assert_allclose(scalars["log_scale"], math.log(1 / 0.07), rtol=1e-6)
    assert set(scalars) == {"log_scale"}
    model = small(log_scale_init=math.log(10.0), bias_init=-10.0)
    scalars, _ = model.init_with_output(jax.random.key(0), method="scalars")
    np.testing.assert_allclose(np.exp(scalars["log_scale"]), 10, rtol=1e-6)
    assert scalars["bias"] == -10
    assert scalars["bias"].dtype == scalars["log_scale"].dtype == jnp.float32


def test_the_temperature_may_be_the_parameter():
    model = small(log_scale_init=-math.log(0.5), learned_scale="temperature")
    scalars, variables = model.init_with_output(jax.random.key(0), method="scalars")
    assert set(variables["params"]) == {"temperature"}
    assert variables["params"]["temperature"] == 0.5
    np.testing.assert_allclose(scalars["log_scale"], math.log(2), rtol=1e-6)


def test_a_zero_vector_has_a_finite_gradient():
    value, gradient = jax.value_and_grad(lambda x: unit_length(x).sum())(jnp.zeros((1, 4)))
    assert value == 0
    assert np.isfinite(gradient).all()


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="project_text='conv' is none of none, linear"):
        initial(small(project_text="conv"))
    with pytest.raises(ValueError, match="is 16 wide, embed_dim is 12"):
        initial(small(project_image="none"))
    with pytest.raises(ValueError, match="learned_scale='scale' is none of log_scale, temp"):
        initial(small(learned_scale="scale"))


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


def test_eight_devices_give_what_one_gives(random_variables):
    # With patches dropped: a row's choice must not depend on the device it lies on.
    model = small(patch_dropout=0.5)
    variables = random_variables(model, IMAGE, IDS, MASK)
    rng = np.random.default_rng(2)
    image = jnp.asarray(rng.normal(size=(16, 16, 16, 3)), jnp.float32)
    ids = jnp.asarray(rng.integers(0, 20, (16, 6)), jnp.int32)
    inputs = (image, ids, ids > 2, jnp.arange(16))

    def encode(variables, image, ids, mask, row):
        rngs = {"rows": jax.random.key(1)}
        image, text, _ = model.apply(variables, image, ids, mask, row, train=True, rngs=rngs)
        return image.embedding, text.embedding

    single = jax.jit(encode)(variables, *inputs)
    mesh = make_mesh()
    assert mesh.size == 8
    everywhere = jax.device_put(variables, replicated(mesh))
    spread = [jax.device_put(x, batch_sharding(mesh)) for x in inputs]
    with activations(mesh):
        lowered = jax.jit(lambda *arguments: encode(*arguments)).lower(everywhere, *spread)
    assert "sharding_constraint" in lowered.as_text()
    many = lowered.compile()(everywhere, *spread)
    for one, other in zip(single, many, strict=True):
        assert len(other.sharding.device_set) == 8
        np.testing.assert_allclose(other, one, atol=1e-6)
