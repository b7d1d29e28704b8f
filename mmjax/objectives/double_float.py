"""Similarities and logits to more places than float32 has, in pairs of float32.

At a scale of 100 a logit near 100 has a grain of 8e-6 in float32, and the product of two vectors
in it an error of 1e-7, which the scale makes 1e-5: so far off is each probability. Here a number
is the sum of two float32, which every platform computes with, and a probability is as exact as a
float32 can be. Each product below is exact in float32, so a compiler that fuses it with an
addition changes nothing.

Source: Dekker, "A floating-point technique for extending the available precision"; the matrix
product that is exact on a grid is Ozaki et al., "Error-free transformations of matrix
multiplication by using fast routines of matrix multiplication and its applications".
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax.parallel.ring import ROW_AXES, on_rows
from mmjax.typing import Array, Bool, Float, PyTree

MASKED = -1e30  # instead of -inf: where all is masked, differences and sums stay finite

# Entries of unit vectors on this grid have products on its square, 2^-22. Sums of those up to 4
# fit the 24 bits of a float32, so adding them up loses nothing.
_GRID = 2048.0
_HALVINGS = 6  # of the exponential's argument, before its series


class DoubleFloat(NamedTuple):
    """high + low, the second below half a unit of the first's last place."""

    high: Any
    low: Any


_TERMS = 1 / np.arange(10, 0, -1)
_INVERSES = DoubleFloat(np.float32(_TERMS), np.float32(_TERMS - np.float32(_TERMS)))


def two_sum(a: Float[Array, "*a"], b: Float[Array, "*b"]) -> DoubleFloat:
    """a + b without any error; a and b are no products that are rounded."""
    high = a + b
    of_b = high - a
    return DoubleFloat(high, (a - (high - of_b)) + (b - of_b))


def multiply(x: DoubleFloat, y: DoubleFloat) -> DoubleFloat:
    """x × y, to about 2^-36 of it."""
    (a, b), (c, d) = _halves(x.high), _halves(y.high)
    return two_sum(a * c, (a * d + b * c) + (b * d + (x.high * y.low + x.low * y.high)))


def add(x: DoubleFloat, y: Float[Array, "*y"]) -> DoubleFloat:
    """x + y."""
    total = two_sum(x.high, y)
    return DoubleFloat(total.high, total.low + x.low)


def exponential(x: Float[Array, ""]) -> DoubleFloat:
    """e to the x, to about 1e-9 of it, for a scalar of ordinary size."""
    one, zero = jnp.ones_like(x), jnp.zeros_like(x)
    small = DoubleFloat(x * 0.5**_HALVINGS, zero)

    def term(result: DoubleFloat, inverse: DoubleFloat) -> tuple[DoubleFloat, None]:
        return add(multiply(result, multiply(small, inverse)), one), None

    result, _ = jax.lax.scan(term, DoubleFloat(one, zero), _INVERSES)
    return jax.lax.fori_loop(0, _HALVINGS, lambda _, x: multiply(x, x), result)


def exp_difference(x: DoubleFloat, reference: Any) -> Float[Array, "*x"]:
    """e to the (x - reference) as float32, exact to a few units of its last place."""
    difference = two_sum(x.high, -reference)
    return jnp.exp(difference.high) * (1.0 + (difference.low + x.low))


def products(rows: Float[Array, "rows dim"], columns: Float[Array, "columns dim"]) -> DoubleFloat:
    """Dot products of all pairs of vectors of unit length, to about 1e-10."""
    (row_high, row_low), (column_high, column_low) = _on_grid(rows), _on_grid(columns)
    low = matmul(row_high, column_low.T) + matmul(row_low, columns.T)
    return DoubleFloat(matmul(row_high, column_high.T), low)


def matmul(a: Float[Array, "rows inner"], b: Float[Array, "inner columns"]) -> Any:
    """The matrix product in full float32, on a TPU too."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def once(x: PyTree) -> PyTree:
    """`x`, made once: XLA would make it anew for each sum that reads it."""
    return jax.lax.optimization_barrier(x)


def sums_by_kind(
    x: Float[Array, "rows columns"], positive: Bool[Array, "rows columns"]
) -> Float[Array, "rows two"]:
    """Sums over positives and over the rest: a few large numbers, and many small ones."""
    return jnp.stack([jnp.sum(jnp.where(these, x, 0.0), 1) for these in (positive, ~positive)], 1)


def total(x: Float[Array, "batch *kinds"], mesh: Mesh | None) -> Float[Array, ""]:
    """The sum over the global batch, with no error but the last rounding of each device."""

    def part(x: Any) -> Any:
        size = 1 << max(x.size - 1, 0).bit_length()
        high = jnp.pad(x.ravel(), (0, size - x.size))
        low = jnp.zeros_like(high)
        while size > 1:
            size //= 2
            both = two_sum(high[:size], high[size:])
            high, low = both.high, low[:size] + low[size:] + both.low
        if mesh is None:
            return high[0] + low[0]
        return jax.lax.psum(high[0], ROW_AXES) + jax.lax.psum(low[0], ROW_AXES)

    return on_rows(part, mesh, 0, out=False)(x)


def _halves(x: Any) -> tuple[Any, Any]:
    """Two parts of 12 bits each: products of such parts fit a float32."""
    high = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=11)
    return high, x - high


def _on_grid(x: Any) -> tuple[Any, Any]:
    high = jnp.round(x * _GRID) / _GRID
    return high, x - high
