"""For each picture a wrong text that looks right, and for each text a picture, of the whole batch.

A matching objective asks a fusion model about such pairs. All rows of the global batch may be
chosen, and only those that are travel: similarities are made over a ring, and then each device
asks the owners for just the rows it has chosen (`mmjax.parallel.rows`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import random as extended_random
from jax.sharding import Mesh

from mmjax.objectives.double_float import MASKED, matmul
from mmjax.objectives.pairs import Sides, relation
from mmjax.parallel.ring import CHUNK_COLUMNS, meet_all, row_numbers
from mmjax.typing import Array, Float, PRNGKeyArray, PyTree

CHOICES = ("hardest", "sampled")


class Chosen(NamedTuple):
    """What was chosen for each row.

    Attributes:
      row: [batch] int32, number of the chosen row within the global batch; -1 where none is.
      found: [batch] bool, False where a row is not real or has no negative in the batch.
    """

    row: Any
    found: Any


def hard_negatives(
    vectors: tuple[Float[Array, "batch dim"], Float[Array, "batch dim"]],
    sides: Sides,
    mesh: Mesh | None,
    choice: str = "hardest",
    scale: Float[Array, ""] | float = 1.0,
    key: PRNGKeyArray | None = None,
    chunk: int = CHUNK_COLUMNS,
) -> tuple[Chosen, Chosen]:
    """(a text for each picture, a picture for each text); never a positive, never an empty row.

    No gradient goes through the choice.

    Args:
      vectors: pictures and texts at unit length, zeros where a row is not real.
      sides: which rows are real and which belong together, see `pairs.lay_out_ring`.
      mesh: the run's mesh, whose batch axes divide the batch; None for one device.
      choice: 'hardest', the most similar (of equals the first in the batch), or 'sampled', with
        the probability that a softmax over the row's negatives gives.
      scale: multiplies similarities in that softmax, above 0.
      key: of the sampling. A draw depends on it and on the two rows' numbers alone, so any number
        of devices chooses alike.
      chunk: so many texts at a time, at most.

    Raises:
      ValueError: a choice that there is not, or no key to sample with.

    Source: Li et al., "Align before Fuse", section 3.2 (sampled by contrastive similarity); the
    highest of logits with Gumbel noise is a draw from their softmax.
    """
    if choice not in CHOICES:
        raise ValueError(f"choice={choice!r} is none of {', '.join(CHOICES)}.")
    if choice == "sampled" and key is None:
        raise ValueError("choice='sampled' needs a key, such as the step's.")
    vectors = jax.lax.stop_gradient(vectors)
    batch = vectors[0].shape[0]
    number = row_numbers(batch, mesh)
    rows, columns = ({"vectors": v, "sides": sides, "number": number} for v in vectors)
    lowest = jnp.full_like(number, MASKED, dtype=jnp.float32)
    sums = {"best": lowest, "row": jnp.full_like(number, -1)}
    whole = (jnp.asarray(scale, jnp.float32),)
    if choice == "sampled":
        whole += (jax.random.key_data(key).astype(jnp.uint32).ravel()[-2:],)
    found = meet_all(_meet, rows, columns, sums, sums, jax.lax.stop_gradient(whole), mesh, chunk)
    return tuple(Chosen(one["row"], one["row"] >= 0) for one in found)


def _meet(
    rows: PyTree, columns: PyTree, row_sums: PyTree, column_sums: PyTree, whole: tuple[Any, ...]
) -> tuple[PyTree, PyTree]:
    scores = matmul(rows["vectors"], columns["vectors"].T)
    by_row = by_column = scores
    if len(whole) == 2:
        scale, words = whole
        noise = _noise(words, rows["number"], columns["number"])
        by_row, by_column = scale * scores + noise[0], scale * scores + noise[1]
    _, negative = relation(rows["sides"], columns["sides"])
    return (
        _best(row_sums, jnp.where(negative, by_row, MASKED), columns["number"], 1),
        _best(column_sums, jnp.where(negative, by_column, MASKED), rows["number"], 0),
    )


def _best(sums: PyTree, scores: Any, numbers: Any, axis: int) -> PyTree:
    score, number = jnp.max(scores, axis), numbers[jnp.argmax(scores, axis)]
    old, old_number = sums["best"], sums["row"]
    better = (score > old) | ((score == old) & (score > MASKED) & (number < old_number))
    return {
        "best": jnp.where(better, score, old),
        "row": jnp.where(better, number, old_number),
    }


def _noise(words: Any, rows: Any, columns: Any) -> tuple[Any, Any]:
    """Two Gumbel draws for each pair, by the pair's numbers."""
    pairs = jnp.broadcast_arrays(rows[:, None], columns[None, :])
    count = jnp.stack(pairs).astype(jnp.uint32)  # the hash takes one word of each half
    bits = extended_random.threefry_2x32(words, count)
    uniform = ((bits >> 9).astype(jnp.float32) + 0.5) * 2.0**-23  # inside 0 to 1
    return tuple(-jnp.log(-jnp.log(uniform)))
