import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.layers.patches import PatchEmbedding, drop_patches, patchify

KEY = jax.random.key(3)


def image(batch, height, width):
    values = np.random.default_rng(0).normal(size=(batch, height, width, 3))
    return jnp.asarray(values, jnp.float32)


def tokens(batch, patches):
    """Tokens that say which patch they are, [batch, patches, 1]."""
    return jnp.broadcast_to(jnp.arange(patches, dtype=jnp.float32)[:, None], (batch, patches, 1))


def test_patches_stand_in_reading_order():
    x = image(1, 4, 6)
    patches = patchify(x, 2)
    assert patches.shape == (1, 6, 12)
    np.testing.assert_array_equal(patches[0, 1], x[0, :2, 2:4].reshape(-1))
    np.testing.assert_array_equal(patches[0, 3], x[0, 2:, :2].reshape(-1))


@pytest.mark.parametrize("bias", [True, False])
def test_the_embedding_is_a_convolution_that_leaves_the_rest_out(bias):
    x = image(2, 11, 10)  # 11 = 2 · 4 + 3, 10 = 2 · 4 + 2
    out, variables = PatchEmbedding(4, 5, bias).init_with_output(jax.random.key(0), x)
    params = variables["params"]["embedding"]
    assert ("bias" in params) == bias
    expected = jax.lax.conv_general_dilated(
        x,
        params["kernel"].reshape(4, 4, 3, 5),
        window_strides=(4, 4),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(out, expected.reshape(2, 4, 5), atol=1e-5)


def test_a_picture_smaller_than_a_patch_is_refused():
    with pytest.raises(ValueError, match="a patch of 16 pixels does not fit pictures of 8x32"):
        patchify(image(1, 8, 32), 16)


def test_every_row_keeps_the_same_number_in_order_and_without_doubles():
    kept = drop_patches(tokens(16, 12), 0.5, KEY, jnp.arange(16))[..., 0]
    assert kept.shape == (16, 6)
    assert (np.diff(kept, axis=1) > 0).all()
    assert len({tuple(row) for row in np.asarray(kept)}) > 8


def test_what_a_row_keeps_hangs_on_its_number_alone():
    whole = drop_patches(tokens(8, 12), 0.5, KEY, jnp.arange(8))
    order = jnp.asarray([5, 2, 7])
    np.testing.assert_array_equal(drop_patches(tokens(3, 12), 0.5, KEY, order), whole[order])


def test_another_key_keeps_other_patches():
    first = drop_patches(tokens(8, 12), 0.5, KEY, jnp.arange(8))
    second = drop_patches(tokens(8, 12), 0.5, jax.random.key(4), jnp.arange(8))
    assert (first != second).any()


def test_every_patch_is_kept_as_often_as_every_other():
    kept = drop_patches(tokens(4000, 4), 0.75, KEY, jnp.arange(4000))
    counts = np.bincount(np.asarray(kept, int).ravel(), minlength=4)
    # 1,000 each; the standard deviation is 27.
    assert (np.abs(counts - 1000) < 135).all()


def test_one_patch_is_always_left():
    assert drop_patches(tokens(2, 3), 0.99, KEY, jnp.arange(2)).shape == (2, 1, 1)
