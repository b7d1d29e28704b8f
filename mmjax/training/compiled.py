"""The step and its start, compiled for a mesh."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.parallel.layout import WHOLE_ABOVE_BYTES, lay_out
from mmjax.parallel.sharding import activations, batch_sharding, replicated
from mmjax.parallel.xla_flags import compiler_options
from mmjax.paths import Rules, map_with_path
from mmjax.training.accumulation import check_micro_batches
from mmjax.training.flops import step_flops
from mmjax.training.state import State
from mmjax.training.step import Recipe, init_state, train_step
from mmjax.typing import Batch, PyTree


def _countable(model: Any) -> Any:
    """The model with no tower recomputing anything or hiding products in a kernel's call."""
    plain = {"remat": "none", "attention": "xla"}
    towers = {
        name: tower.clone(**{key: value for key, value in plain.items() if hasattr(tower, key)})
        for name, tower in vars(model).items()
        if hasattr(tower, "remat")
    }
    return model.clone(**towers) if towers else model


Shapes = Mapping[str, tuple[tuple[int, ...], Any]]


def shapes_to_plain(streams: Mapping[str, Shapes]) -> dict[str, dict[str, Any]]:
    """The batches' shapes as plain values for JSON: {stream: {word: [shape, dtype]}}."""
    return {
        name: {word: [list(shape), jnp.dtype(kind).name] for word, (shape, kind) in words.items()}
        for name, words in streams.items()
    }


def shapes_from_plain(streams: Mapping[str, Mapping[str, Any]]) -> dict[str, Shapes]:
    """What `shapes_to_plain` wrote down."""
    return {
        name: {word: (tuple(shape), jnp.dtype(kind)) for word, (shape, kind) in words.items()}
        for name, words in streams.items()
    }


class Compiled:
    """A recipe on a mesh: shapes and places of the state, its start, and the donated step.

    Args:
      recipe: what is trained.
      mesh: of the run.
      streams: {stream: {word: (global shape, dtype)}}.
      rules: how the state lies on the mesh, tried before the package's own; see `lay_out`.
      whole_above_bytes: most bytes of an array that may lie whole on each device; see `lay_out`.
    """

    def __init__(
        self,
        recipe: Recipe,
        mesh: Mesh,
        streams: Mapping[str, Shapes],
        rules: Rules = (),
        whole_above_bytes: int = WHOLE_ABOVE_BYTES,
    ):
        self.recipe, self.mesh = recipe, mesh
        rows = batch_sharding(mesh)
        self.batches = {
            name: {
                word: jax.ShapeDtypeStruct(shape, kind, sharding=rows)
                for word, (shape, kind) in words.items()
            }
            for name, words in streams.items()
        }
        shape = jax.eval_shape(self._init)
        check_micro_batches(
            recipe.micro_batches,
            {name: goal.objective for name, goal in recipe.goals.items()},
            {name: words["valid"].shape[0] for name, words in self.batches.items()},
            mesh.shape["data"] * mesh.shape["fsdp"],
            shape.batch_stats,
            recipe.statistics,
        )
        self.layout = lay_out(shape, mesh, rules, whole_above_bytes)
        self.shardings = map_with_path(
            lambda path, _: NamedSharding(mesh, self.layout[path].spec), shape
        )
        self.state = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shape,
            self.shardings,
        )
        self.stop = jax.ShapeDtypeStruct(
            (mesh.size,), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        )
        self.step = jax.jit(
            self._step,
            donate_argnums=0,
            out_shardings=(self.shardings, replicated(mesh)),
            compiler_options=compiler_options(mesh),
        )

    def init(self) -> State:
        """The state before the first step."""
        options = compiler_options(self.mesh, once=True)
        return jax.jit(self._init, out_shardings=self.shardings, compiler_options=options)()

    def with_params(self, state: State, params: PyTree, statistics: PyTree) -> State:
        """The state with other parameters and statistics, and the average begun from them."""
        params = jax.device_put(params, self.shardings.params)
        statistics = jax.device_put(statistics, self.shardings.batch_stats)
        ema = state.ema
        if self.recipe.ema:
            trainable, _ = self.recipe.optimizer.split(params)
            ema = jax.tree.map(jnp.copy, trainable)
        return dataclasses.replace(state, params=params, ema=ema, batch_stats=statistics)

    @functools.cached_property
    def flops(self) -> float:
        """Operations of one step, from shapes: what is computed twice once, the optimizer not."""
        recipe, optimizer = self.recipe, self.recipe.optimizer
        recipe = dataclasses.replace(recipe, model=_countable(recipe.model), micro_batches=1)
        whole = step_flops(
            functools.partial(train_step, recipe), self.state, self.batches, self.stop
        )
        grads, _ = optimizer.split(self.state.params)
        update = optimizer.transform(self.state.params).update
        return whole - step_flops(update, grads, self.state.opt_state, grads)

    @functools.cached_property
    def executed_flops(self) -> float:
        """Operations of one step as it runs: what is computed twice counts twice."""
        return step_flops(self._step, self.state, self.batches, self.stop)

    def _init(self) -> State:
        zeros = {
            name: {word: jnp.zeros(leaf.shape, leaf.dtype) for word, leaf in words.items()}
            for name, words in self.batches.items()
        }
        with activations(self.mesh):
            return init_state(self.recipe, zeros)

    def _step(
        self, state: State, batches: Mapping[str, Batch], stop: Any
    ) -> tuple[State, dict[str, Any]]:
        params = {
            path.removeprefix("params/"): place.spec
            for path, place in self.layout.items()
            if path.startswith("params/")
        }
        with activations(self.mesh, params=params):
            return train_step(self.recipe, state, batches, stop)
