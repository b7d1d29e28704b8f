import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.dual.naflex import NaFlexTwoTower
from mmjax.models.encoders.naflex import NaFlexViT
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.models.layers.patches import patchify
from mmjax.parallel.mesh import make_mesh
from mmjax.parallel.sharding import activations, batch_sharding
from mmjax.paths import flatten

SMALL = {"patch_size": 2, "dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 24}
MODEL = NaFlexViT(**SMALL, positions=9)
RNG = np.random.default_rng(0)
GRIDS = jnp.asarray([[2, 3], [1, 4], [3, 2]])
LENGTH = 8
MASK = jnp.arange(LENGTH) < (GRIDS[:, :1] * GRIDS[:, 1:])
PATCHES = jnp.asarray(RNG.normal(size=(3, LENGTH, 12)), jnp.float32)


@pytest.fixture(scope="module")
def variables(random_variables):
    return random_variables(MODEL, PATCHES, MASK, GRIDS)


@pytest.fixture(scope="module")
def out(variables):
    return jax.jit(MODEL.apply)(variables, PATCHES, MASK, GRIDS)


def test_padding_is_not_seen(variables, out):
    other = jnp.where(MASK[..., None], PATCHES, 7.0)
    made = jax.jit(MODEL.apply)(variables, other, MASK, GRIDS)
    np.testing.assert_allclose(made.pooled, out.pooled, atol=2e-5)
    more = jnp.pad(PATCHES, ((0, 0), (0, 5), (0, 0)), constant_values=3.0)
    made = jax.jit(MODEL.apply)(variables, more, jnp.pad(MASK, ((0, 0), (0, 5))), GRIDS)
    np.testing.assert_allclose(made.pooled, out.pooled, atol=2e-5)
    np.testing.assert_array_equal(out.mask, MASK)


def test_the_same_patches_in_another_shape_are_another_picture(variables, out):
    made = jax.jit(MODEL.apply)(variables, PATCHES, MASK, GRIDS[:, ::-1])
    assert (np.abs(made.pooled - out.pooled).max(axis=1) > 1e-4).all()


def test_a_square_picture_of_the_table_s_size_is_a_vit_s(random_variables):
    vit = ViT(**SMALL, image_size=6)
    image = jnp.asarray(RNG.normal(size=(2, 6, 6, 3)), jnp.float32)
    variables = random_variables(vit, image)
    words = (patchify(image, 2), jnp.ones((2, 9), bool), jnp.full((2, 2), 3))
    ours, theirs = jax.jit(MODEL.apply)(variables, *words), jax.jit(vit.apply)(variables, image)
    np.testing.assert_allclose(ours.tokens, theirs.tokens, atol=2e-5)
    np.testing.assert_allclose(ours.pooled, theirs.pooled, atol=2e-5)


def test_over_a_mesh_nothing_changes(variables, out):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    words = [jnp.concatenate([x, x[:1]]) for x in (PATCHES, MASK, GRIDS)]  # 4 rows

    def run(variables, *words):
        with activations(mesh):
            return MODEL.apply(variables, *words).pooled

    words = [jax.device_put(x, batch_sharding(mesh)) for x in words]
    np.testing.assert_allclose(jax.jit(run)(variables, *words)[:3], out.pooled, atol=2e-5)


def test_gradients_reach_every_parameter_and_are_finite_beside_an_empty_row(variables):
    grids, mask = GRIDS.at[1].set(0), MASK.at[1].set(False)

    def loss(params):
        pooled = MODEL.apply({"params": params}, PATCHES, mask, grids).pooled
        return jnp.sum(jnp.where(jnp.array([[1], [0], [1]], bool), pooled, 0.0) ** 2)

    made = flatten(jax.jit(jax.grad(loss))(variables["params"]))
    for path, gradient in made.items():
        assert np.isfinite(gradient).all(), path
        if path != "blocks/attention/key/bias" and path != "pool/attention/key/bias":
            assert np.abs(gradient).max() > 0, path


def test_patches_of_another_size_and_positions_of_no_square_are_refused(variables):
    with pytest.raises(ValueError, match="patches hold 27 numbers each, and patch_size=2 takes 12"):
        MODEL.apply(variables, jnp.zeros((3, LENGTH, 27)), MASK, GRIDS)
    with pytest.raises(ValueError, match="positions=8 is no square number"):
        MODEL.clone(positions=8).apply(variables, PATCHES, MASK, GRIDS)


def test_two_towers_take_patches_by_their_words(random_variables):
    text = TextTransformer(
        vocab_size=9, length=4, dim=16, depth=1, num_heads=2, mlp_dim=24, pooling="last"
    )
    model = NaFlexTwoTower(MODEL, text, embed_dim=16, project_image="none", bias_init=-10.0)
    words = {"patches": PATCHES, "patch_mask": MASK, "patch_grid": GRIDS}
    texts = {"token_ids": jnp.zeros((3, 4), jnp.int32), "text_mask": jnp.ones((3, 4), bool)}
    variables = random_variables(model, *words.values(), *texts.values())
    image, _, scalars = jax.jit(model.apply)(variables, **words, **texts)
    assert set(scalars) == {"log_scale", "bias"}
    np.testing.assert_allclose(np.linalg.norm(image.embedding, axis=1), 1, rtol=1e-5)
