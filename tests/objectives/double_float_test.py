"""Pairs of float32 hold about twice the places of one."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives.double_float import (
    DoubleFloat,
    exp_difference,
    exponential,
    multiply,
    products,
    total,
    two_sum,
)
from mmjax.parallel.mesh import make_mesh


def exact(x):
    return np.float64(x.high) + np.float64(x.low)


@pytest.mark.parametrize("x", [-5.0, 0.0, math.log(10), math.log(100), 9.2])
def test_the_exponential_is_exact_far_beyond_float32(x):
    found = jax.jit(exponential)(jnp.float32(x))
    assert exact(found) == pytest.approx(math.exp(np.float64(np.float32(x))), rel=1e-9)


def test_dot_products_are_exact_far_beyond_float32():
    rng = np.random.default_rng(0)
    rows, columns = rng.normal(size=(2, 40, 512))
    columns[:20] = rows[:20] + 0.01 * columns[:20]  # products near 1 as well as near 0
    rows, columns = (
        np.float32(x / np.linalg.norm(x, axis=1, keepdims=True)) for x in (rows, columns)
    )
    expected = np.float64(rows) @ np.float64(columns).T
    found = jax.jit(products)(rows, columns)
    assert np.abs(exact(found) - expected).max() < 1e-9
    assert np.abs(np.float64(rows @ columns.T) - expected).max() > 1e-8
    scale = jax.jit(exponential)(jnp.float32(math.log(100)))
    logits = jax.jit(multiply)(scale, found)
    assert np.abs(exact(logits) - exact(scale) * expected).max() < 1e-7
    found = jax.jit(exp_difference)(logits, jnp.float32(30.3))
    expected = np.exp(exact(scale) * expected - np.float64(np.float32(30.3)))
    assert np.abs(found / expected - 1).max() < 1e-6


def test_a_sum_keeps_what_it_rounds_off():
    a, b = jnp.float32(1e8), jnp.float32(1.2345678)
    assert exact(two_sum(a, b)) == np.float64(a) + np.float64(b)
    third = DoubleFloat(jnp.float32(1 / 3), jnp.float32(1 / 3 - float(np.float32(1 / 3))))
    assert exact(multiply(third, third)) == pytest.approx(1 / 9, rel=1e-10)


@pytest.mark.parametrize("mesh", [None, (8, 1, 1), (2, 2, 2)])
def test_a_total_has_one_rounding_however_the_rows_are_cut(mesh):
    x = np.random.default_rng(0).normal(size=(104, 2)).astype(np.float32)
    x[::2] *= 1e6
    x[1::4] = -x[::4]  # most of it cancels out
    mesh = None if mesh is None else make_mesh(*mesh)
    found = jax.jit(lambda x: total(x, mesh))(x)
    scale = np.abs(x).max()
    assert abs(float(found) - np.float64(x).sum()) < 3e-7 * scale
