"""Parts of a step looked at by themselves: what comparing costs, and what the towers keep.

Nothing here runs; shapes alone are traced, and what is lowered is for the plan to compile.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from mmjax import preprocess
from mmjax.objectives.base import Coupled, Forward
from mmjax.parallel.sharding import activations, batch_sharding, replicated
from mmjax.parallel.xla_flags import compiler_options
from mmjax.training.accumulation import with_gradient
from mmjax.training.compiled import Compiled
from mmjax.training.optimizers.base import merge
from mmjax.training.precision import in_forward
from mmjax.training.step import apply_model, score, split_params


def lowered_comparisons(compiled: Compiled) -> dict[str, Any]:
    """{goal: the loss of a whole batch and its gradient with respect to all embeddings, lowered}.

    Of the goals in which examples see each other; the memory of the others' losses grows with a
    device's own rows alone and is part of its activations.
    """
    recipe, mesh = compiled.recipe, compiled.mesh
    rows, whole = batch_sharding(mesh), replicated(mesh)

    def place(tree: Any, where: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree
        )

    found = {}
    for name, goal in recipe.goals.items():
        if not isinstance(goal.objective, Coupled):
            continue

        def embedded(state: Any, batch: Any, goal: Any = goal) -> tuple[Any, Any]:
            params, _ = split_params(in_forward(state.params, recipe.params_dtype))
            model = apply_model(recipe.model)
            with activations(mesh):
                forward = Forward(model, params, state.batch_stats, True, jax.random.key(0))
                ready = preprocess.preprocess(batch, recipe.contract)
                return goal.objective.embed(forward, ready), forward("scalars", {})

        def mean(floats: Any, scalars: Any, rest: Any, memory: Any, goal: Any = goal) -> Any:
            with activations(mesh):
                return goal.objective.compare({**rest, **floats}, scalars, memory).mean()

        made, scalars = jax.eval_shape(embedded, compiled.state, compiled.batches[goal.stream])
        floats = with_gradient(made)
        rest = {word: value for word, value in made.items() if word not in floats}
        function = jax.jit(
            jax.value_and_grad(mean, argnums=(0, 1)),
            out_shardings=(whole, (rows, whole)),
            compiler_options=compiler_options(mesh),
        )
        found[name] = function.lower(
            place(floats, rows),
            place(scalars, whole),
            place(rest, rows),
            compiled.state.objectives[name],
        )
    return found


def kept_bytes(compiled: Compiled) -> int:
    """Bytes on one device that the forward pass of a micro-batch keeps for the backward pass.

    From shapes: without what a compiler pads, makes again by itself or keeps beside it, so it is
    for telling policies apart before any of them is compiled.
    """
    recipe, mesh = compiled.recipe, compiled.mesh
    parts = recipe.micro_batches
    batches = {
        name: {
            word: jax.ShapeDtypeStruct((leaf.shape[0] // parts, *leaf.shape[1:]), leaf.dtype)
            for word, leaf in words.items()
        }
        for name, words in compiled.batches.items()
    }

    def kept(state: Any, batches: Any) -> Any:
        trainable, frozen = recipe.optimizer.split(state.params)

        def total(trainable: Any) -> Any:
            with activations(mesh):
                losses, _ = score(
                    recipe,
                    in_forward(merge(trainable, frozen), recipe.params_dtype),
                    state.batch_stats,
                    state.objectives,
                    {n: preprocess.preprocess(b, recipe.contract) for n, b in batches.items()},
                    jax.random.key(0),
                    train=True,
                )
            return sum((loss.mean() for loss in losses.values()), jnp.zeros(()))

        return jax.vjp(total, trainable)[1]

    weights = {leaf.shape for leaf in jax.tree.leaves(compiled.state.params)}
    rows = {words["valid"].shape[0] for words in batches.values()}
    leaves = jax.tree.leaves(jax.eval_shape(kept, compiled.state, batches))
    size = sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize
        for leaf in leaves
        if leaf.shape not in weights
        and any(n and n % several == 0 for n in leaf.shape for several in rows)
    )
    return size // (mesh.shape["data"] * mesh.shape["fsdp"])
