"""The softmax loss over a ring, in memory of the local batch alone.

The forward ring keeps, for each row and each column, the sums of an online softmax. The backward
ring makes every pair's slope again from these sums; the slopes of the texts travel with them.

What is small is never made as a difference of what is large: positives and negatives have sums of
their own, so that a loss of 1e-20 and its gradient are as exact as one of 1.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax.objectives.double_float import (
    MASKED,
    DoubleFloat,
    exp_difference,
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
def softmax_ring(
    vectors: tuple[Float[Array, "batch dim"], Float[Array, "batch dim"]],
    log_scale: Float[Array, ""],
    sides: Sides,
    mesh: Mesh | None,
    chunk: int,
) -> Result:
    """(loss summed over the real rows, pictures that find a text, texts that find a picture).

    Args:
      vectors: pictures and texts, float32, at unit length, zeros where a row is not real.
      log_scale: logarithm of what multiplies the similarities.
      sides: which rows are real and which belong together.
      mesh: the run's mesh, whose batch axes divide the batch.
      chunk: so many texts at a time, at most; changes no more than the last digits.

    Source: the online softmax is Milakov and Gimelshein, "Online normalizer calculation for
    softmax", algorithm 3.
    """
    return _forward(vectors, log_scale, sides, mesh, chunk)[0]


def _forward(
    vectors: PyTree, log_scale: Any, sides: Sides, mesh: Mesh | None, chunk: int
) -> tuple[Result, PyTree]:
    scale = exponential(log_scale)
    own = scale.high * jnp.sum(vectors[0] * vectors[1], axis=1)
    rows, columns = ({"vectors": v, "own": own, "sides": sides} for v in vectors)
    sums = _nothing_yet(own)
    found = meet_all(_gather, rows, columns, sums, sums, scale, mesh, chunk)
    losses = sum(_losses(one, own) for one in found) / 2
    hits = [one["best"] > one["best_wrong"] for one in found]
    real = [jnp.where(sides.valid, x, 0.0) for x in (losses, *hits)]
    return tuple(total(x.astype(jnp.float32), mesh) for x in real), (scale, *found)


def _nothing_yet(own: Any) -> dict[str, Any]:
    """What a row knows before it has met anybody.

    Of the positives: their number, the sum of their logits' distances from the row's own, the
    highest logit, and the sum of exponentials below it; of the negatives the last two.
    """
    zeros, lowest = jnp.zeros_like(own), jnp.full_like(own, MASKED)
    return {
        "positives": zeros,
        "away": zeros,
        "best": lowest,
        "mass": zeros,
        "best_wrong": lowest,
        "mass_wrong": zeros,
    }


def _gather(
    rows: PyTree, columns: PyTree, row_sums: PyTree, column_sums: PyTree, scale: DoubleFloat
) -> tuple[PyTree, PyTree]:
    logits = once(multiply(scale, products(rows["vectors"], columns["vectors"])))
    positive, negative = relation(rows["sides"], columns["sides"])
    return (
        _add(row_sums, logits, positive, negative, rows["own"], 1),
        _add(column_sums, logits, positive, negative, columns["own"], 0),
    )


def _add(
    sums: PyTree, logits: DoubleFloat, positive: Any, negative: Any, own: Any, axis: int
) -> PyTree:
    highest = {}
    for name, these in (("best", positive), ("best_wrong", negative)):
        here = jnp.max(jnp.where(these, logits.high, MASKED), axis)
        highest[name] = jnp.maximum(sums[name], here)
    exps = once(_exps(highest, logits, positive, positive | negative, axis))
    away = (logits.high - jnp.expand_dims(own, axis)) + logits.low

    def rescaled(mass: str, best: str) -> Any:
        old = DoubleFloat(sums[best], jnp.zeros_like(sums[best]))
        return sums[mass] * exp_difference(old, highest[best])

    return {
        **highest,
        "positives": sums["positives"] + jnp.sum(positive, axis, dtype=jnp.float32),
        "away": sums["away"] + jnp.sum(jnp.where(positive, away, 0.0), axis),
        "mass": rescaled("mass", "best") + jnp.sum(jnp.where(positive, exps, 0.0), axis),
        "mass_wrong": rescaled("mass_wrong", "best_wrong")
        + jnp.sum(jnp.where(negative, exps, 0.0), axis),
    }


def _exps(highest: PyTree, logits: DoubleFloat, positive: Any, known: Any, axis: int) -> Any:
    """e to the logit less the highest of its kind; 0 for what is masked."""
    best, wrong = (jnp.expand_dims(highest[name], axis) for name in ("best", "best_wrong"))
    masked = DoubleFloat(jnp.where(known, logits.high, 4 * MASKED), logits.low)
    return exp_difference(masked, jnp.where(positive, best, wrong))


def _wrong_to_right(sums: PyTree) -> tuple[Any, Any]:
    """(Σ e^logit of the negatives over that of the positives, its logarithm)."""
    best = DoubleFloat(sums["best_wrong"], jnp.zeros_like(sums["best_wrong"]))
    mass = jnp.maximum(sums["mass"], jnp.finfo(jnp.float32).tiny)
    ratio = sums["mass_wrong"] / mass
    log = jnp.log(jnp.maximum(ratio, jnp.finfo(jnp.float32).tiny))
    return exp_difference(best, sums["best"]) * ratio, best.high - sums["best"] + log


def _losses(sums: PyTree, own: Any) -> Any:
    """-mean of the positives' log softmax: how they differ among each other, and the negatives."""
    ratio, log_ratio = _wrong_to_right(sums)
    count = jnp.maximum(sums["positives"], 1.0)
    mass = jnp.where(sums["positives"] > 0, sums["mass"], 1.0)
    spread = (sums["best"] - own) + jnp.log(mass) - sums["away"] / count
    spread = jnp.where(count > 1, spread, 0.0)
    wrong = jnp.where(
        log_ratio > 0, log_ratio + jnp.log1p(jnp.exp(-jnp.abs(log_ratio))), jnp.log1p(ratio)
    )
    return spread + wrong


def _factors(sums: PyTree) -> dict[str, Any]:
    """What turns a row's exponentials into slopes of its loss by its logits.

    The slope is (softmax - target). With k positives of mass Z and the negatives' share n of all:
    for a negative n e ÷ Z_wrong, for a positive (k e - Z) ÷ k Z - n e ÷ Z, which sum to zero.
    """
    ratio, log_ratio = _wrong_to_right(sums)
    share = jnp.where(log_ratio > 0, 1 / (1 + jnp.exp(-jnp.abs(log_ratio))), ratio / (1 + ratio))
    count, tiny = sums["positives"], jnp.finfo(jnp.float32).tiny
    mass = jnp.maximum(sums["mass"], tiny)
    return {
        "best": sums["best"],
        "best_wrong": sums["best_wrong"],
        "count": count,
        "mass": mass,
        "uneven": jnp.where(count > 1, 1 / (jnp.maximum(count, 1.0) * mass), 0.0),
        "right": share / mass,
        "wrong": share / jnp.maximum(sums["mass_wrong"], tiny),
    }


def _slopes(factors: PyTree, logits: DoubleFloat, positive: Any, negative: Any, axis: int) -> Any:
    each = {name: jnp.expand_dims(x, axis) for name, x in factors.items()}
    exps = once(_exps(factors, logits, positive, positive | negative, axis))
    uneven = each["uneven"] * (each["count"] * exps - each["mass"])
    slopes = jnp.where(positive, uneven - each["right"] * exps, each["wrong"] * exps)
    return jnp.where(positive | negative, slopes, 0.0)


def _return(
    rows: PyTree, columns: PyTree, row_sums: PyTree, column_sums: PyTree, scale: DoubleFloat
) -> tuple[PyTree, PyTree]:
    similarities = products(rows["vectors"], columns["vectors"])
    logits = once(multiply(scale, similarities))
    positive, negative = relation(rows["sides"], columns["sides"])
    slopes = _slopes(rows["factors"], logits, positive, negative, 1)
    slopes = once(slopes + _slopes(columns["factors"], logits, positive, negative, 0))
    by_scale = slopes * similarities.high + slopes * similarities.low
    return (
        {
            "vectors": row_sums["vectors"] + matmul(slopes, columns["vectors"]),
            "scale": row_sums["scale"] + sums_by_kind(by_scale, positive),
        },
        {"vectors": column_sums["vectors"] + matmul(slopes.T, rows["vectors"])},
    )


def _keep(
    vectors: PyTree, log_scale: Any, sides: Sides, mesh: Mesh | None, chunk: int
) -> tuple[Result, PyTree]:
    result, found = _forward(vectors, log_scale, sides, mesh, chunk)
    return result, (vectors, sides, found)


def _backward(mesh: Mesh | None, chunk: int, kept: PyTree, slopes: PyTree) -> PyTree:
    vectors, sides, (scale, *found) = kept
    rows, columns = (
        {"vectors": v, "sides": sides, "factors": _factors(sums)} for v, sums in zip(vectors, found)
    )
    row_sums = {"vectors": jnp.zeros_like(vectors[0]), "scale": jnp.zeros((len(vectors[0]), 2))}
    column_sums = {"vectors": jnp.zeros_like(vectors[1])}
    by_row, by_column = meet_all(_return, rows, columns, row_sums, column_sums, scale, mesh, chunk)
    factor = slopes[0] * scale.high / 2
    by_vectors = factor * by_row["vectors"], factor * by_column["vectors"]
    return by_vectors, factor * total(by_row["scale"], mesh), None


softmax_ring.defvjp(_keep, _backward)
