"""The type to compute in: what 'auto' means where, and that a model's products follow it."""

import re

import jax
import jax.numpy as jnp
import pytest

from mmjax.models.dual.features import FeatureTowers
from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.models.layers import compute
from mmjax.models.layers.compute import compute_type
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations

INPUTS = (jnp.ones((3, 16, 16, 3)), jnp.ones((3, 6), jnp.int32), jnp.ones((3, 6), bool))


def two_towers(dtype):
    size = {"dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32, "dtype": dtype}
    return TwoTower(
        image=ViT(image_size=16, patch_size=8, **size),
        text=TextTransformer(vocab_size=20, length=6, pooling="attention", **size),
        embed_dim=12,
    )


def products(model):
    """Types of the operands of all matrix products in a model's program."""
    variables = jax.eval_shape(model.init, jax.random.key(0), *INPUTS)
    text = jax.jit(model.apply).lower(variables, *INPUTS).as_text()
    pattern = r"dot_general .*: \(tensor<[^>]*x(\w+)>, tensor<[^>]*x(\w+)>\)"
    found = re.findall(pattern, text)
    assert len(found) == text.count("stablehlo.dot_general")
    return found


def test_auto_is_float32_on_this_cpu():
    assert compute_type("auto") == jnp.float32


@pytest.mark.parametrize(
    ("platform", "wanted"), [("cpu", "float32"), ("tpu", "bfloat16"), ("gpu", "bfloat16")]
)
def test_auto_is_bfloat16_where_the_platform_gains_by_it(monkeypatch, platform, wanted):
    monkeypatch.setattr(compute, "platform", lambda: platform)
    assert compute_type("auto") == jnp.dtype(wanted)


def test_the_mesh_that_is_traced_for_decides_before_the_default_backend(monkeypatch):
    mesh = make_mesh()
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert compute_type("auto") == jnp.bfloat16
    with activations(mesh):
        assert compute_type("auto") == jnp.float32


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_type_that_is_named_is_taken_on_every_platform(monkeypatch, platform, dtype):
    monkeypatch.setattr(compute, "platform", lambda: platform)
    assert compute_type(dtype) == jnp.dtype(dtype)


@pytest.mark.parametrize("name", ["float16", "int32", "half", ""])
def test_another_name_is_refused_with_those_that_are_allowed(name):
    with pytest.raises(ValueError, match=f"dtype='{name}' is none of auto, float32, bfloat16"):
        compute_type(name)


def test_a_linear_projector_without_hidden_layers_refuses_it_too():
    model = FeatureTowers(3, dtype="half")
    with pytest.raises(ValueError, match="dtype='half' is none of"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((2, 4)), jnp.ones((2, 5)))


def test_on_a_tpu_auto_multiplies_in_bfloat16_and_keeps_parameters_and_embeddings(monkeypatch):
    monkeypatch.setattr(compute, "platform", lambda: "tpu")
    model = two_towers("auto")
    variables = jax.eval_shape(model.init, jax.random.key(0), *INPUTS)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    image, text, scalars = jax.eval_shape(model.apply, variables, *INPUTS)
    for encoded in (image, text):
        assert encoded.tokens.dtype == jnp.bfloat16
        assert encoded.embedding.dtype == encoded.pooled.dtype == jnp.float32
    assert {x.dtype for x in scalars.values()} == {jnp.dtype("float32")}
    found = products(model)
    assert set(found) == {("bf16", "bf16"), ("f32", "f32")}
    assert found.count(("f32", "f32")) == 2  # the projections into the shared space


def test_on_a_cpu_auto_multiplies_in_float32():
    assert set(products(two_towers("auto"))) == {("f32", "f32")}
