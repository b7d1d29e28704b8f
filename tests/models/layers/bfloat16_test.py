"""Products in bfloat16 on a CPU: their numbers, and that the processor's instructions make them."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.layers import bfloat16


def arrays(rows, dim, features):
    rng = np.random.default_rng(0)
    shapes = ((rows, dim), (dim, features), (rows, features))
    return [jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes]


def value_and_gradients(x, kernel, weights):
    made, back = jax.vjp(bfloat16.multiply, x, kernel)
    return made, *back(weights)


@pytest.mark.parametrize(
    ("rows", "dim", "features"), [(48, 32, 64), (51, 12, 7), (3, 1, 5), (1, 6, 1)]
)
def test_value_and_gradients_are_those_of_float64_to_a_rounding(rows, dim, features):
    x, kernel, weights = arrays(rows, dim, features)
    found = jax.jit(value_and_gradients)(x, kernel, weights)
    a, b, c = (np.asarray(value, np.float64) for value in (x, kernel, weights))
    for got, wanted in zip(found, (a @ b, c @ b.T, a.T @ c), strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(got, np.float64), wanted, rtol=2**-8, atol=1e-5)


def test_long_sums_are_float32_in_each_direction():
    n = 3000  # beyond 256 ones the next is lost in bfloat16
    ones = jnp.ones((n, n), jnp.bfloat16)
    for got in jax.jit(value_and_gradients)(ones, ones, ones):
        assert float(got[0, 0]) == float(jnp.bfloat16(n))


def test_a_processor_with_the_instructions_multiplies_all_three_by_them():
    """Others convert to float32, as the compiler does here too with any other form of product."""
    text = jax.jit(value_and_gradients).lower(*arrays(64, 192, 128)).compile().as_text()
    products = [part for part in text.split("\n\n") if " dot(" in part]
    types = [re.findall(r"= (\w+)\[\S+ parameter\(", part) for part in products]
    assert len(products) == 3
    if " avx512_bf16" in pathlib.Path("/proc/cpuinfo").read_text():
        assert types == [["bf16", "bf16"]] * 3
