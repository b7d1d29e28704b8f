"""Losses on distances over a ring, in memory of the local batch alone.

The forward ring finds out what each row asks of its negatives: the sum of what they are too near
by, or which of them is meant and how far it is. The backward ring makes the slopes from that; those
of the texts travel with them.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax.objectives.double_float import MASKED, matmul, total
from mmjax.objectives.pairs import Sides, relation
from mmjax.parallel.ring import meet_all, row_numbers
from mmjax.typing import Array, Float, PyTree

FAR = -MASKED

# Squares of distances below this have no gradient: as a difference of float32 dot products they
# are no more exact than that, and the slope of the root goes to infinity.
SMALLEST_SQUARE = 1e-7


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a row asks of its negatives.

    Attributes:
      distance: 'cosine', 'euclidean' or 'squared_euclidean'.
      margin: by which each negative should be farther away than the row's own pair.
      negatives: 'hardest', 'semi_hard', 'all' (their mean) or 'sum'.
    """

    distance: str
    margin: float
    negatives: str

    def squares(self, products: Any, row_norms: Any, column_norms: Any) -> Any:
        """What orders pairs as their distance does, and is as exact as their product."""
        if self.distance == "cosine":
            return 1 - products
        return row_norms[:, None] + column_norms[None] - 2 * products

    def distances(self, squares: Any) -> Any:
        """The distances themselves."""
        if self.distance == "cosine":
            return squares
        squares = jnp.maximum(squares, self.floor)
        return jnp.sqrt(squares) if self.distance == "euclidean" else squares

    def slopes(self, squares: Any) -> Any:
        """Of `distances` by the squares."""
        if self.distance == "cosine":
            return jnp.ones_like(squares)
        slopes = step(squares - self.floor)
        return slopes / (2 * self.distances(squares)) if self.distance == "euclidean" else slopes

    def hinges(self, own: Any, distances: Any) -> Any:
        """By how much a pair is too near; below 0 where it is not."""
        return self.margin + own - distances

    @property
    def floor(self) -> float:
        """Of the squares; none for a distance that is no root or square."""
        return SMALLEST_SQUARE if self.distance == "euclidean" else 0.0


def step(x: Any) -> Any:
    """The slope of max(x, 0)."""
    return jnp.where(x > 0, 1.0, jnp.where(x == 0, 0.5, 0.0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def ranking_ring(
    vectors: tuple[Float[Array, "batch dim"], Float[Array, "batch dim"]],
    squares: tuple[Float[Array, "batch"], Float[Array, "batch"], Float[Array, "batch"]],
    sides: Sides,
    rule: Rule,
    mesh: Mesh | None,
    chunk: int,
) -> tuple[Float[Array, ""], PyTree]:
    """(loss summed over the real rows, counts of rows: 'active' and 'hits', both ways each).

    Of several negatives that are equally near, the first in the batch is the hardest.

    Args:
      vectors: pictures and texts, float32, zeros where a row is not real.
      squares: of the distance of each row's own pair (1 - product where that is the distance), of
        each picture's length, of each text's.
      sides: which rows are real and which belong together.
      rule: what is asked.
      mesh: the run's mesh, whose batch axes divide the batch.
      chunk: so many texts at a time, at most; changes no more than the last digits.
    """
    return _forward(vectors, squares, sides, rule, mesh, chunk)[0]


def _forward(
    vectors: PyTree, squares: PyTree, sides: Sides, rule: Rule, mesh: Mesh | None, chunk: int
) -> tuple[Any, PyTree]:
    rows, columns = _sides(vectors, squares, sides, mesh)
    sums = _nothing_yet(rule, rows["number"])
    meet = functools.partial(_gather, rule)
    found = meet_all(meet, rows, columns, sums, sums, (), mesh, chunk)
    own = rule.distances(squares[0])
    asked = [_asked(rule, one, own, sides.valid) for one in found]
    loss = total(asked[0]["losses"] + asked[1]["losses"], mesh)
    counts = {
        "active": [total(jnp.float32(one["losses"] > 0), mesh) for one in asked],
        "hits": [
            total(jnp.float32(sides.valid & (one["best"] < one["wrong"])), mesh) for one in found
        ],
    }
    return (loss, counts), asked


def _sides(vectors: PyTree, squares: PyTree, sides: Sides, mesh: Mesh | None) -> list[PyTree]:
    own, *norms = squares
    number = row_numbers(own.shape[0], mesh)
    return [
        {"vectors": v, "norms": norm, "own": own, "sides": sides, "number": number}
        for v, norm in zip(vectors, norms)
    ]


def _nothing_yet(rule: Rule, number: Any) -> dict[str, Any]:
    """What a row knows before it has met anybody; the first two for the accuracies."""
    zeros, nobody = jnp.zeros(number.shape), jnp.full_like(number, -1)
    far = jnp.full_like(zeros, FAR)
    sums = {"best": far, "wrong": far}
    if rule.negatives in ("sum", "all"):
        return sums | {"negatives": zeros, "hinges": zeros, "active": zeros}
    sums["wrong_number"] = nobody
    if rule.negatives == "semi_hard":
        sums |= {"semi_hard": far, "semi_hard_number": nobody}
        sums |= {"farthest": far, "farthest_number": nobody}  # the least of -square
    return sums


def _gather(
    rule: Rule, rows: PyTree, columns: PyTree, row_sums: PyTree, column_sums: PyTree, _: PyTree
) -> tuple[PyTree, PyTree]:
    products = matmul(rows["vectors"], columns["vectors"].T)
    squares = rule.squares(products, rows["norms"], columns["norms"])
    related = relation(rows["sides"], columns["sides"])
    return (
        _add(rule, row_sums, squares, related, rows["own"], columns["number"], 1),
        _add(rule, column_sums, squares, related, columns["own"], rows["number"], 0),
    )


def _add(
    rule: Rule, sums: PyTree, squares: Any, related: Any, own: Any, numbers: Any, axis: int
) -> PyTree:
    positive, negative = related
    own, floored = jnp.expand_dims(own, axis), squares
    if rule.distance != "cosine":
        floored, own = jnp.maximum(squares, rule.floor), jnp.maximum(own, rule.floor)
    new = {"best": jnp.minimum(sums["best"], _least(floored, positive, axis))}
    if rule.negatives in ("sum", "all"):
        hinges = rule.hinges(rule.distances(own), rule.distances(squares))
        for name, value in (("hinges", jnp.maximum(hinges, 0.0)), ("active", step(hinges))):
            new[name] = sums[name] + jnp.sum(jnp.where(negative, value, 0.0), axis)
        new["negatives"] = sums["negatives"] + jnp.sum(negative, axis, dtype=jnp.float32)
        return new | {"wrong": jnp.minimum(sums["wrong"], _least(floored, negative, axis))}
    new |= _nearest(sums, "wrong", floored, negative, numbers, axis)
    if rule.negatives == "semi_hard":
        new |= _nearest(sums, "semi_hard", floored, negative & (floored > own), numbers, axis)
        new |= _nearest(sums, "farthest", -floored, negative, numbers, axis)
    return new


def _least(x: Any, these: Any, axis: int) -> Any:
    return jnp.min(jnp.where(these, x, FAR), axis)


def _nearest(
    sums: PyTree, name: str, x: Any, these: Any, numbers: Any, axis: int
) -> dict[str, Any]:
    """The least of these so far and whose it is, the lowest number where several are as near."""
    value = _least(x, these, axis)
    number = numbers[jnp.argmin(jnp.where(these, x, FAR), axis)]
    old, old_number = sums[name], sums[f"{name}_number"]
    better = (value < old) | ((value == old) & (value < FAR) & (number < old_number))
    return {
        name: jnp.where(better, value, old),
        f"{name}_number": jnp.where(better, number, old_number),
    }


def _asked(rule: Rule, sums: PyTree, own: Any, valid: Any) -> dict[str, Any]:
    """The rows' losses, and the facts from which the slopes by single distances are made.

    'weight' multiplies a negative's slope, or is that of the one that was chosen; 'by_own' is the
    slope by the distance to the own pair.
    """
    if rule.negatives in ("sum", "all"):
        share = jnp.where(valid, 1.0, 0.0)
        if rule.negatives == "all":
            share /= jnp.maximum(sums["negatives"], 1.0)
        losses = share * sums["hinges"]
        return {"losses": losses, "weight": share, "by_own": share * sums["active"]}
    square, number = sums["wrong"], sums["wrong_number"]
    if rule.negatives == "semi_hard":
        there = sums["semi_hard"] < FAR
        square = jnp.where(there, sums["semi_hard"], -sums["farthest"])
        number = jnp.where(there, sums["semi_hard_number"], sums["farthest_number"])
    hinge = rule.hinges(own, rule.distances(jnp.clip(square, MASKED, FAR)))
    asks = valid & (sums["wrong"] < FAR)
    weight = jnp.where(asks, step(hinge), 0.0)
    losses = jnp.where(asks, jnp.maximum(hinge, 0.0), 0.0)
    return {"losses": losses, "weight": weight, "by_own": weight, "chosen": number}


def _return(
    rule: Rule, rows: PyTree, columns: PyTree, row_sums: PyTree, column_sums: PyTree, _: PyTree
) -> tuple[PyTree, PyTree]:
    products = matmul(rows["vectors"], columns["vectors"].T)
    squares = rule.squares(products, rows["norms"], columns["norms"])
    _, negative = relation(rows["sides"], columns["sides"])
    by_distance = _slopes(rule, rows, squares, negative, columns["number"], 1)
    by_distance += _slopes(rule, columns, squares, negative, rows["number"], 0)
    slopes = by_distance * rule.slopes(squares)
    by_product = -slopes if rule.distance == "cosine" else -2 * slopes
    return (
        {
            "vectors": row_sums["vectors"] + matmul(by_product, columns["vectors"]),
            "norms": row_sums["norms"] + jnp.sum(slopes, axis=1),
        },
        {
            "vectors": column_sums["vectors"] + matmul(by_product.T, rows["vectors"]),
            "norms": column_sums["norms"] + jnp.sum(slopes, axis=0),
        },
    )


def _slopes(
    rule: Rule, asking: PyTree, squares: Any, negative: Any, numbers: Any, axis: int
) -> Any:
    weight = jnp.expand_dims(asking["weight"], axis)
    if rule.negatives in ("sum", "all"):
        own = jnp.expand_dims(rule.distances(asking["own"]), axis)
        return jnp.where(negative, -weight * step(rule.hinges(own, rule.distances(squares))), 0.0)
    chosen = jnp.expand_dims(asking["chosen"], axis) == jnp.expand_dims(numbers, 1 - axis)
    return jnp.where(negative & chosen, -weight, 0.0)


def _keep(
    vectors: PyTree, squares: PyTree, sides: Sides, rule: Rule, mesh: Mesh | None, chunk: int
) -> tuple[Any, PyTree]:
    result, asked = _forward(vectors, squares, sides, rule, mesh, chunk)
    return result, (vectors, squares, sides, asked)


def _backward(rule: Rule, mesh: Mesh | None, chunk: int, kept: PyTree, slopes: PyTree) -> PyTree:
    vectors, squares, sides, asked = kept
    rows, columns = (
        side | {name: facts[name] for name in ("weight", "chosen") if name in facts}
        for side, facts in zip(_sides(vectors, squares, sides, mesh), asked)
    )
    sums = {"vectors": jnp.zeros_like(vectors[0]), "norms": jnp.zeros_like(squares[0])}
    meet = functools.partial(_return, rule)
    found = meet_all(meet, rows, columns, sums, sums, (), mesh, chunk)
    by_own = (asked[0]["by_own"] + asked[1]["by_own"]) * rule.slopes(squares[0])
    by_squares = (by_own, *(one["norms"] for one in found))
    made = tuple(one["vectors"] for one in found), by_squares
    return *jax.tree.map(lambda x: slopes[0] * x, made), None


ranking_ring.defvjp(_keep, _backward)
