"""The sigmoid loss over a ring, in memory of the local batch alone.

A pair's slope depends on that pair alone, so the gradients are made while the texts pass by for
the first time, and the backward pass only scales them. Where no gradient is asked for, none is
made.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax.objectives.double_float import (
    MASKED,
    DoubleFloat,
    add,
    exponential,
    matmul,
    multiply,
    once,
    products,
    sums_by_kind,
    total,
)
from mmjax.objectives.pairs import Sides, relation
from mmjax.parallel.ring import meet_all
from mmjax.typing import Array, Float, PyTree

Result = tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def sigmoid_ring(
    vectors: tuple[Float[Array, "batch dim"], Float[Array, "batch dim"]],
    scalars: tuple[Float[Array, ""], Float[Array, ""]],
    sides: Sides,
    mesh: Mesh | None,
    chunk: int,
) -> Result:
    """(loss summed over all real pairs, pictures that find a text, texts that find a picture).

    Args:
      vectors: pictures and texts, float32, at unit length, zeros where a row is not real.
      scalars: logarithm of what multiplies the similarities, and what is added then.
      sides: which rows are real and which belong together.
      mesh: the run's mesh, whose batch axes divide the batch.
      chunk: so many texts at a time, at most; changes no more than the last digits.
    """
    return _forward(vectors, scalars, sides, mesh, chunk, slopes=False)[0]


def _forward(
    vectors: PyTree, scalars: PyTree, sides: Sides, mesh: Mesh | None, chunk: int, slopes: bool
) -> tuple[Result, PyTree]:
    log_scale, bias = scalars
    scale = exponential(log_scale)
    rows, columns = ({"vectors": v, "sides": sides} for v in vectors)
    zeros = jnp.zeros(vectors[0].shape[0])
    lowest = jnp.full_like(zeros, MASKED)
    column_sums = {"best": lowest, "best_wrong": lowest}
    row_sums = {**column_sums, "loss": zeros}
    if slopes:
        column_sums["vectors"] = jnp.zeros_like(vectors[1])
        both = jnp.zeros((zeros.size, 2))
        row_sums |= {"vectors": jnp.zeros_like(vectors[0]), "scale": both, "bias": both}
    meet = functools.partial(_meet, slopes=slopes)
    whole = scale, bias
    by_row, by_column = meet_all(meet, rows, columns, row_sums, column_sums, whole, mesh, chunk)
    hits = [sides.valid & (one["best"] > one["best_wrong"]) for one in (by_row, by_column)]
    result = tuple(total(x.astype(jnp.float32), mesh) for x in (by_row["loss"], *hits))
    if not slopes:
        return result, ()
    by_vectors = scale.high * by_row["vectors"], scale.high * by_column["vectors"]
    by_scalars = scale.high * total(by_row["scale"], mesh), total(by_row["bias"], mesh)
    return result, (by_vectors, by_scalars)


def _meet(
    rows: PyTree,
    columns: PyTree,
    row_sums: PyTree,
    column_sums: PyTree,
    whole: tuple[DoubleFloat, Any],
    slopes: bool,
) -> tuple[PyTree, PyTree]:
    scale, bias = whole
    similarities = products(rows["vectors"], columns["vectors"])
    logits = once(add(multiply(scale, similarities), bias))
    positive, negative = relation(rows["sides"], columns["sides"])
    sign = jnp.where(positive, -1.0, 1.0)  # of the logit in the pair's loss, log(1 + e^±logit)
    high, low = sign * logits.high, sign * logits.low
    falling = once(jnp.exp(-jnp.abs(high)) * jnp.where(high > 0, 1.0 - low, 1.0 + low))
    losses = jnp.log1p(falling) + jnp.where(high > 0, high + low, 0.0)
    losses = jnp.where(positive | negative, losses, 0.0)

    def best(sums: PyTree, axis: int) -> PyTree:
        return {
            name: jnp.maximum(sums[name], jnp.max(jnp.where(these, logits.high, MASKED), axis))
            for name, these in (("best", positive), ("best_wrong", negative))
        }

    by_row = best(row_sums, 1) | {"loss": row_sums["loss"] + jnp.sum(losses, axis=1)}
    by_column = best(column_sums, 0)
    if not slopes:
        return by_row, by_column
    slope = sign * jnp.where(high > 0, 1.0, falling) / (1.0 + falling)
    slope = once(jnp.where(positive | negative, slope, 0.0))
    by_scale = slope * similarities.high + slope * similarities.low
    by_row["vectors"] = row_sums["vectors"] + matmul(slope, columns["vectors"])
    by_row["scale"] = row_sums["scale"] + sums_by_kind(by_scale, positive)
    by_row["bias"] = row_sums["bias"] + sums_by_kind(slope, positive)
    by_column["vectors"] = column_sums["vectors"] + matmul(slope.T, rows["vectors"])
    return by_row, by_column


def _keep(
    vectors: PyTree, scalars: PyTree, sides: Sides, mesh: Mesh | None, chunk: int
) -> tuple[Result, PyTree]:
    return _forward(vectors, scalars, sides, mesh, chunk, slopes=True)


def _backward(mesh: Mesh | None, chunk: int, kept: PyTree, slopes: PyTree) -> PyTree:
    del mesh, chunk
    return *jax.tree.map(lambda x: slopes[0] * x, kept), None


sigmoid_ring.defvjp(_keep, _backward)
