"""A batch in micro-batches, with the gradient of the undivided one.

An objective in which examples see each other is taken in three parts. All embeddings are made,
micro-batch after micro-batch, and nothing of the towers is kept; they are compared as one batch,
which gives the loss and its gradient with respect to each embedding; then each micro-batch is run
again, and that gradient is taken back through the towers. So the negatives are those of the whole
batch, and the memory is that of one micro-batch. An objective that sums over examples needs only
the number it is divided by beforehand. One about pairs of rows is told for the whole batch which
rows go together, of each row the words of its others come along with its own, and then it sums too.

A layer that normalises by the batch sees one micro-batch at a time, so with such layers the
gradient is another than that of the undivided batch. Their running statistics move once a step, by
the mean over the micro-batches, as the first pass gives them.

Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"
(GradCache), section 3; Cui et al. (BASIC), section 4.1.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.objectives.base import Additive, Coupled, Forward, Loss, Objective
from mmjax.objectives.pairing import Others, Paired, Pairing
from mmjax.parallel.sharding import batch_shards, constrain
from mmjax.typing import Batch, PyTree


@dataclasses.dataclass(frozen=True)
class Part:
    """What one goal reads and weighs, as far as the gradient needs it.

    Attributes:
      objective: `Coupled`, `Additive` or `Paired`.
      stream: name of its stream.
      weight: of its mean loss in the sum that is trained, scalar.
      memory: the objective's own, before the step.
    """

    objective: Objective
    stream: str
    weight: Any
    memory: PyTree


# (trainable parameters, number of the micro-batch or None) -> ({goal: its forward}, preprocessing)
MakeForward = Callable[[PyTree, Any], Mapping[str, Forward]]


def accumulated_gradients(
    goals: Mapping[str, Part],
    trainable: PyTree,
    make_forward: MakeForward,
    prepare: Callable[[Batch], Batch],
    batches: Mapping[str, Batch],
    micro_batches: int,
) -> tuple[Any, dict[str, Loss], PyTree, PyTree]:
    """The loss, its parts and its gradient, as of the undivided batch.

    Args:
      goals: {name: what is scored}.
      trainable: parameters to differentiate with respect to.
      make_forward: runs the model for each goal; its randomness differs by micro-batch, but for
        what is keyed by a row's number.
      prepare: preprocessing, made for each micro-batch anew.
      batches: {stream: Batch} as stored.
      micro_batches: number of parts, at least 2; divides each device's rows.

    Returns:
      Σ weight × mean loss; {goal: Loss}; the gradient, shaped as `trainable`; the running
      statistics after it.
    """
    coupled = {name: part for name, part in goals.items() if isinstance(part.objective, Coupled)}
    paired = {name: part for name, part in goals.items() if isinstance(part.objective, Paired)}
    additive = {name: part for name, part in goals.items() if name not in {*coupled, *paired}}
    pairings = _pairings(paired)
    divided = jax.tree.map(lambda x: divide(x, micro_batches), dict(batches))
    numbers = jnp.arange(micro_batches)

    def run(
        trainable: PyTree, number: Any, stored: Mapping[str, Batch], others: Any = None
    ) -> tuple[Any, Any, Any, Any]:
        """({goal: embeddings}, what pairings are told, {goal: sums}, statistics) of a micro-batch.

        Without others nothing is paired; with them the pairings need be told nothing.
        """
        forward = make_forward(trainable, number)
        ready = {name: prepare(batch) for name, batch in stored.items()}
        embedded = {n: g.objective.embed(forward[n], ready[g.stream]) for n, g in coupled.items()}
        summed = {
            n: dataclasses.replace(g.objective(forward[n], ready[g.stream], g.memory), state=())
            for n, g in additive.items()
        }
        told = {}
        for key, (stream, pairing, names) in pairings.items():
            batch = ready[stream]
            if others is None:
                told[key] = pairing.told(forward[names[0]], batch)
                continue
            theirs = [dataclasses.replace(o, words=prepare(o.words)) for o in others[key]]
            for name in names:
                pairs = pairing.divided(forward[name], batch, theirs)
                summed[name] = paired[name].objective.of_pairs(forward[name], batch, pairs)
        return embedded, told, summed, next(iter(forward.values())).statistics

    def first(_: None, part: Any) -> tuple[None, Any]:
        embedded, told, summed, statistics = run(trainable, *part)
        # Of the sums only the counts are asked for: the compiler drops the towers behind the rest.
        return None, (embedded, told, _counts(summed), statistics)

    _, (embedded, told, counts, statistics) = jax.lax.scan(first, None, (numbers, divided))
    statistics = jax.tree.map(lambda x: x.mean(0), statistics)
    others: dict[str, list[Others]] = {}
    if pairings:
        forward = make_forward(trainable, None)
        for key, (stream, pairing, names) in pairings.items():
            known = jax.tree.map(unite, told[key])
            whole = pairing.others(forward[names[0]], batches[stream], known)
            others[key] = jax.tree.map(lambda x: divide(x, micro_batches), whole)

        def count(_: None, part: Any) -> tuple[None, Any]:
            return None, _counts(run(trainable, *part)[2])

        _, counts = jax.lax.scan(count, None, (numbers, divided, others))
    counts = {name: count.sum() for name, count in counts.items()}
    whole = jax.tree.map(unite, embedded)

    def compare(trainable: PyTree, floats: PyTree) -> tuple[Any, dict[str, Loss]]:
        total, losses = jnp.zeros((), jnp.float32), {}
        forward = make_forward(trainable, None)
        for name, goal in coupled.items():
            embeddings = {**whole[name], **floats[name]}
            scalars = forward[name]("scalars", {})
            losses[name] = goal.objective.compare(embeddings, scalars, goal.memory)
            total += goal.weight * losses[name].mean()
        return total, losses

    floats = {name: with_gradient(embeddings) for name, embeddings in whole.items()}
    (loss, losses), (grads, back) = jax.value_and_grad(compare, argnums=(0, 1), has_aux=True)(
        trainable, floats
    )
    summing = {**additive, **paired}
    shares = {name: goal.weight / jnp.maximum(counts[name], 1e-9) for name, goal in summing.items()}

    def second(grads: PyTree, part: Any) -> tuple[PyTree, Any]:
        *given, back = part

        def outputs(trainable: PyTree) -> tuple[Any, Any]:
            embedded, _, summed, _ = run(trainable, *given)
            floats = {name: with_gradient(embeddings) for name, embeddings in embedded.items()}
            return (floats, {name: loss.total for name, loss in summed.items()}), summed

        _, pull, summed = jax.vjp(outputs, trainable, has_aux=True)
        (more,) = pull((back, shares))
        return jax.tree.map(jnp.add, grads, more), summed

    back = jax.tree.map(lambda x: divide(x, micro_batches), back)
    grads, summed = jax.lax.scan(second, grads, (numbers, divided, others, back))
    for name, goal in summing.items():
        losses[name] = jax.tree.map(lambda x: x.sum(0), summed[name])
        losses[name] = dataclasses.replace(losses[name], state=goal.memory)
        loss += goal.weight * losses[name].mean()
    return loss, {name: losses[name] for name in goals}, grads, statistics


def _pairings(paired: Mapping[str, Part]) -> dict[str, tuple[str, Pairing, list[str]]]:
    """{name of one of them: (stream, pairing, all goals that share it)}."""
    found: dict[tuple[str, Pairing], list[str]] = {}
    for name, goal in paired.items():
        found.setdefault((goal.stream, goal.objective.pairing), []).append(name)
    return {names[0]: (*asked, names) for asked, names in found.items()}


def _counts(summed: Mapping[str, Loss]) -> dict[str, Any]:
    return {name: loss.count for name, loss in summed.items()}


def divide(x: Any, micro_batches: int) -> Any:
    """[batch, ...] → [micro_batches, batch / micro_batches, ...], each device's rows divided.

    So no row changes its device: micro-batch m holds the m-th block of every device's rows.
    """
    shards = batch_shards()
    x = x.reshape(shards, micro_batches, -1, *x.shape[1:])  # [b, ...] -> [shards, m, rows, ...]
    x = jnp.moveaxis(x, 1, 0).reshape(micro_batches, -1, *x.shape[3:])
    return constrain(x, None, "batch", *[None] * (x.ndim - 2))


def unite(x: Any) -> Any:
    """What `divide` took apart, the rows in their order."""
    shards, micro_batches = batch_shards(), x.shape[0]
    x = x.reshape(
        micro_batches, shards, -1, *x.shape[2:]
    )  # [m, b/m, ...] -> [m, shards, rows, ...]
    x = jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[3:])
    return constrain(x, "batch", *[None] * (x.ndim - 1))


def check_micro_batches(
    micro_batches: int,
    objectives: Mapping[str, Objective],
    batch_sizes: Mapping[str, int],
    shards: int,
    statistics: PyTree,
    choice: str = "batch",
) -> None:
    """Raises ValueError where a batch cannot be taken in so many parts, with numbers that can.

    Args:
      micro_batches: number of parts.
      objectives: {goal: objective}.
      batch_sizes: {stream: rows of the global batch}.
      shards: devices over which a batch is cut.
      statistics: the model's running statistics, {} for none.
      choice: the recipe's `statistics`.
    """
    if micro_batches < 1:
        raise ValueError(f"micro_batches={micro_batches}: 1 (undivided) or more.")
    if micro_batches == 1:
        return
    for stream, size in batch_sizes.items():
        rows = size // shards
        if rows % micro_batches:
            fitting = [str(n) for n in range(1, rows + 1) if rows % n == 0]
            raise ValueError(
                f"micro_batches={micro_batches} does not divide the {rows} rows that a device has "
                f"of stream {stream!r} (batch {size} over {shards}). These do: "
                f"{', '.join(fitting[:12])}."
            )
    for name, objective in objectives.items():
        if not isinstance(objective, Coupled | Additive | Paired):
            raise ValueError(
                f"micro_batches={micro_batches}: goal {name!r} ({type(objective).__name__}) is "
                "neither Coupled (embed and compare) nor Additive (sums over examples) nor Paired "
                "(sums over pairs of rows), so it cannot be taken in parts; set micro_batches=1."
            )
    if choice == "batch" and jax.tree.leaves(statistics):
        raise ValueError(
            f"micro_batches={micro_batches}: the model normalises by the statistics of the whole "
            "batch, which parts of it do not have. Set micro_batches=1, or statistics='micro' "
            "(each part is normalised by its own) or 'frozen' (by the running ones, which stay)."
        )


def with_gradient(embeddings: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of an `embed` that have a gradient."""
    return {
        name: value
        for name, value in embeddings.items()
        if jnp.issubdtype(value.dtype, jnp.inexact)
    }
