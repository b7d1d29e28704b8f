"""Optimal transport between two sets of vectors, each vector of a set of equal weight."""

import jax
import jax.numpy as jnp

from mmjax.typing import Array, Bool, Float


def cosine_costs(
    left: Float[Array, "batch m dim"], right: Float[Array, "batch n dim"]
) -> Float[Array, "batch m n"]:
    """1 - cosine of each pair, float32, 0 to 2."""

    def unit(x: Float[Array, "batch places dim"]) -> Float[Array, "batch places dim"]:
        x = x.astype(jnp.float32)
        # A vector of zeros has no direction; its slope is a large one then, and no 0 ÷ 0.
        length = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-10))
        return x / length

    return 1 - jnp.einsum("bmd,bnd->bmn", unit(left), unit(right))


def transport_plan(
    costs: Float[Array, "batch m n"],
    left: Bool[Array, "batch m"],
    right: Bool[Array, "batch n"],
    step: float = 0.5,
    iterations: int = 50,
) -> Float[Array, "batch m n"]:
    """How much of each left place goes to each right one, by inexact proximal point iterations.

    The more iterations, the nearer to the cheapest plan of all; what leaves the left places is even
    after each of them, what arrives at the right ones in the limit. No slope goes through.

    Args:
      costs: of carrying all of a left place to a right one.
      left: True where a left place is real.
      right: the same of right places; with none on either side nothing is carried.
      step: of an iteration, the paper's β: a larger one keeps more of what the last plan was.
      iterations: how many, each with one pass over the left and one over the right places.

    Returns:
      Shares, 0 at places that are not real; the sum is 1, or 0 where nothing is carried.

    Source: Xie et al. 2020, "A Fast Proximal Point Method for Computing Exact Wasserstein
    Distance", algorithm 2.
    """
    left, right = left & right.any(1)[:, None], right & left.any(1)[:, None]
    both = left[:, :, None] & right[:, None, :]
    kernel = jnp.where(both, jnp.exp(-jax.lax.stop_gradient(costs) / step), 0.0)
    lefts, rights = (jnp.maximum(x.sum(1), 1).astype(jnp.float32) for x in (left, right))

    def scale(of: Array, real: Array, number: Array) -> Array:
        """What makes each real place's sum 1 ÷ number; places that are not real have none."""
        safe = jnp.where(real, of, 1.0) * number[:, None]
        return jnp.where(real, 1 / safe, 0.0)

    def once(_, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        plan, out = carry
        drawn = kernel * plan
        into = scale(jnp.einsum("bmn,bm->bn", drawn, out), right, rights)
        out = scale(jnp.einsum("bmn,bn->bm", drawn, into), left, lefts)
        return out[:, :, None] * drawn * into[:, None, :], out

    start = both.astype(jnp.float32), jnp.where(left, 1 / lefts[:, None], 0.0)
    plan, _ = jax.lax.fori_loop(0, iterations, once, start)
    return jax.lax.stop_gradient(plan)
