"""Products in bfloat16 on a CPU, in the one form for which its compiler has the kernels.

XLA hands a product to the processor's own bfloat16 instructions where both operands lie row by row,
the first is summed over its columns and the second over its rows, and the result is float32. In any
other form, and so in both gradients of such a product, it converts to float32 and multiplies that
(jax 0.10 to 0.12). So the operands are turned round here, where the compiler cannot take it back.
A processor without the instructions computes the same: operands in bfloat16, sums in float32.
"""

from typing import Any

import jax
import jax.numpy as jnp

from mmjax.typing import Array, Float


@jax.custom_vjp
def multiply(
    rows: Float[Array, "rows dim"], kernel: Float[Array, "dim features"]
) -> Float[Array, "rows features"]:
    """rows · kernel, both and the result bfloat16, summed in float32; so are its gradients."""
    return _product(rows, kernel)


def _forward(rows: Any, kernel: Any) -> tuple[Any, Any]:
    return _product(rows, kernel), (rows, kernel)


def _backward(saved: Any, gradient: Any) -> tuple[Any, Any]:
    rows, kernel = saved
    return _product(gradient, _turned(kernel)), _product(_turned(rows), gradient)


multiply.defvjp(_forward, _backward)


def _product(a: Any, b: Any) -> Any:
    return jax.lax.dot(a, b, preferred_element_type=jnp.float32).astype(jnp.bfloat16)


def _turned(x: Float[Array, "rows columns"]) -> Float[Array, "columns rows"]:
    """The transpose, as a copy: taken as such, the compiler would make it part of the product."""
    rows, columns = x.shape
    block = next((n for n in (16, 8, 4, 2) if columns % n == 0), 1)
    parts = x.reshape(rows, columns // block, block).transpose(1, 2, 0)
    return parts.reshape(columns, rows)
