import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.encoders.vit import POOLING, POSITIONS, ViT
from mmjax.paths import flatten

SMALL = {"image_size": 16, "patch_size": 4, "dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32}
X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 16, 16, 3)), jnp.float32)


@pytest.fixture
def make(random_variables):
    """A model and parameters."""

    def make(**fields):
        model = ViT(**{**SMALL, **fields})
        return model, random_variables(model, X)

    return make


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("pooling", POOLING)
def test_every_way_to_pool_gives_one_vector_a_picture(make, pooling, positions):
    model, variables = make(pooling=pooling, positions=positions)
    out = jax.jit(model.apply)(variables, X)
    assert out.tokens.shape == (6, 17 if pooling == "class" else 16, 16)
    assert out.pooled.shape == (6, 16)
    assert out.mask is None
    expected = {"class": out.tokens[:, 0], "mean": out.tokens.mean(axis=1)}
    if pooling in expected:
        np.testing.assert_allclose(out.pooled, expected[pooling], atol=1e-6)
    paths = flatten(variables["params"]).keys()
    assert ("position_embedding" in paths) == (positions == "learned")
    assert ("class_token" in paths) == (pooling == "class")
    alone = jax.jit(lambda variables, x: model.apply(variables, x, tokens=False))(variables, X)
    assert (alone.tokens is None) == (pooling == "class")
    np.testing.assert_allclose(alone.pooled, out.pooled, atol=2e-6)


@pytest.mark.parametrize("positions", POSITIONS)
def test_the_place_of_a_patch_matters(make, positions):
    model, variables = make(pooling="mean", positions=positions)
    shifted = jnp.roll(X, 4, axis=2)
    assert (
        jax.jit(model.apply)(variables, X).pooled != jax.jit(model.apply)(variables, shifted).pooled
    ).any()


def test_a_head_is_a_dense_layer_over_the_pooled_vector(make):
    model, variables = make(pooling="class", head="linear", head_dim=5)
    out = jax.jit(model.apply)(variables, X)
    layer = variables["params"]["head"]
    scores = out.tokens[:, 0] @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(out.pooled, scores, atol=2e-5)
    made = jax.jit(model.clone(head="tanh").apply)(variables, X)
    np.testing.assert_allclose(made.pooled, jnp.tanh(scores), atol=2e-5)
    assert make(pooling="mean", head="tanh")[1]["params"]["head"]["kernel"].shape == (16, 16)
    with pytest.raises(ValueError, match="head='relu' is none of none, linear, tanh"):
        model.clone(head="relu").apply(variables, X)


def test_options_of_clip_change_the_tree(make):
    _, variables = make(pre_norm=True, patch_bias=False)
    assert "input_norm" in variables["params"]
    assert "bias" not in variables["params"]["patches"]["embedding"]


def test_dropped_patches_follow_the_rows_numbers(make):
    model, variables = make(pooling="class", patch_dropout=0.5)
    run = jax.jit(
        lambda image, row: model.apply(
            variables, image, row=row, train=True, rngs={"rows": jax.random.key(1)}
        )
    )
    whole = run(X, jnp.arange(6))
    assert whole.tokens.shape[1] == 1 + 8
    order = jnp.asarray([4, 1, 5, 0, 3, 2])
    np.testing.assert_allclose(run(X[order], order).pooled, whole.pooled[order], atol=1e-6)
    half = run(X[3:], jnp.arange(3, 6))
    np.testing.assert_allclose(half.pooled, whole.pooled[3:], atol=1e-6)
    assert not np.allclose(run(X, jnp.arange(6) + 6).pooled, whole.pooled, atol=1e-3)


def test_nothing_is_dropped_outside_training(make):
    plain, variables = make()
    model = ViT(**SMALL, patch_dropout=0.5)
    np.testing.assert_array_equal(
        jax.jit(model.apply)(variables, X).pooled, jax.jit(plain.apply)(variables, X).pooled
    )


def test_bfloat16_is_close_to_float32_and_keeps_parameters_float32(make):
    model, variables = make(pooling="attention")
    half = ViT(**SMALL, pooling="attention", dtype="bfloat16")
    own = jax.eval_shape(half.init, jax.random.key(0), X)
    assert {x.dtype for x in jax.tree.leaves(own)} == {jnp.dtype("float32")}
    out = jax.jit(half.apply)(variables, X)
    assert out.tokens.dtype == out.pooled.dtype == jnp.bfloat16
    expected = jax.jit(model.apply)(variables, X).pooled
    error = jnp.linalg.norm(out.pooled.astype(jnp.float32) - expected)
    assert 0 < error / jnp.linalg.norm(expected) < 0.02


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "max"}, "pooling='max' is none of class, mean, attention"),
        ({"positions": "rope"}, "positions='rope' is none of learned, sincos"),
        ({"image_size": 32}, "pictures are 16x16, the model's image_size is 32"),
        ({"patch_dropout": 1.0}, "patch_dropout=1.0 is not from 0 to below 1"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ViT(**{**SMALL, **fields}).init(jax.random.key(0), X)


def test_patch_dropout_without_row_numbers_is_refused():
    model = ViT(**SMALL, patch_dropout=0.5)
    rngs = {"params": jax.random.key(0), "rows": jax.random.key(1)}
    with pytest.raises(ValueError, match="needs the rows' numbers"):
        model.init(rngs, X, train=True)
