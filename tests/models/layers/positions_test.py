import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.layers.positions import resample, resize, sincos_2d, stretch

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "positions.npz"


def reference(rows, columns, dim):
    """One number at a time."""
    table = np.zeros((rows * columns, dim))
    quarter = dim // 4
    for row in range(rows):
        for column in range(columns):
            for i in range(quarter):
                omega = 1 / 10_000 ** (i / (quarter - 1))
                values = (
                    np.sin(column * omega),
                    np.cos(column * omega),
                    np.sin(row * omega),
                    np.cos(row * omega),
                )
                table[row * columns + column, i::quarter] = values
    return table


@pytest.mark.parametrize(("rows", "columns", "dim"), [(3, 3, 8), (2, 5, 16)])
def test_sincos_positions_are_their_formula(rows, columns, dim):
    np.testing.assert_allclose(
        sincos_2d(rows, columns, dim), reference(rows, columns, dim), atol=1e-6
    )


@pytest.mark.parametrize("dim", [4, 10])
def test_a_width_that_does_not_split_is_refused(dim):
    with pytest.raises(ValueError, match=f"not {dim}"):
        sincos_2d(2, 2, dim)


def test_resizing_keeps_what_is_no_patch_and_the_pictures_shape():
    # A table that grows along the columns alone stays so, whatever the size.
    grid = np.broadcast_to(np.arange(4.0)[None, :, None], (4, 4, 2)).reshape(16, 2)
    table = jnp.asarray(np.concatenate([[[7.0, 8.0]], grid]), jnp.float32)
    out = resize(table, 64, extra=1)
    assert out.shape == (65, 2)
    np.testing.assert_array_equal(out[0], [7, 8])
    new = np.asarray(out[1:]).reshape(8, 8, 2)
    np.testing.assert_allclose(new, np.broadcast_to(new[:1], new.shape), atol=1e-5)
    assert (np.diff(new[0, :, 0]) > 0).all()


def test_resizing_to_the_same_size_changes_nothing():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(9, 4)), jnp.float32)
    np.testing.assert_allclose(resize(table, 9), table, atol=1e-6)


@pytest.mark.parametrize(("old", "new"), [(12, 16), (16, 12)])
def test_positions_that_are_no_square_are_refused(old, new):
    with pytest.raises(ValueError, match=f"of {old} patches do not resize to {new}"):
        resize(jnp.zeros((old, 4)), new)


@pytest.mark.parametrize("side", [3, 4, 16])
def test_positions_for_pictures_of_many_shapes_equal_the_reference(side):
    with np.load(GOLDEN) as file:
        grids, table, wanted = (
            file[name] for name in ("grids", f"table_{side}", f"resized_{side}")
        )
    made = jax.jit(functools.partial(resample, length=wanted.shape[1]))(table, grids)
    np.testing.assert_allclose(made, wanted, atol=2e-6, rtol=1e-5)


def test_a_picture_of_one_column_is_one_of_one_row_turned():
    table = np.random.default_rng(0).normal(size=(4, 4, 3)).astype(np.float32)
    turned = table.transpose(1, 0, 2)
    column = resample(jnp.asarray(table.reshape(16, 3)), jnp.asarray([[7, 1]]), 8)
    row = resample(jnp.asarray(turned.reshape(16, 3)), jnp.asarray([[1, 7]]), 8)
    np.testing.assert_allclose(column, row, atol=1e-6)


def test_a_row_without_a_picture_stays_finite():
    table = jnp.ones((9, 2))
    assert np.isfinite(resample(table, jnp.zeros((1, 2), jnp.int32), 4)).all()


def test_a_table_stretched_over_a_picture_meets_its_corners_and_is_linear_between():
    table = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    square = table.reshape(3, 3, 2)
    grid = jnp.asarray([[4, 5], [3, 3], [1, 2], [2, 1]])
    number = jnp.broadcast_to(jnp.arange(20), (4, 20))
    found = jax.jit(stretch)(table, grid, number // 5, number % 5).reshape(4, 4, 5, 2)
    for made, (rows, columns) in zip(found, grid):
        down = np.linspace(0, 2, int(rows)) if rows > 1 else np.zeros(1)
        across = np.linspace(0, 2, int(columns)) if columns > 1 else np.zeros(1)
        places = np.arange(3)
        tall = np.stack(
            [[np.interp(down, places, square[:, c, d]) for d in range(2)] for c in range(3)]
        )  # [columns of the table, 2, rows]
        wanted = np.stack(
            [[np.interp(across, places, tall[:, d, r]) for d in range(2)] for r in range(len(down))]
        )
        outside = np.zeros((4, 5, 2))
        outside[: int(rows), : int(columns)] = wanted.transpose(0, 2, 1)
        np.testing.assert_allclose(made, outside, atol=1e-6)
