"""The training step: one compiled function from (state, batches) to (state, metrics)."""

import dataclasses
import functools
import inspect
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mmjax import preprocess
from mmjax.models.rolled import rolled
from mmjax.objectives.base import Forward, Objective
from mmjax.training.accumulation import Part, accumulated_gradients
from mmjax.training.ema import ema_decay, ema_update
from mmjax.training.optimizers.base import Optimizer, merge, position
from mmjax.training.precision import in_forward
from mmjax.training.state import State, add_samples, new_counters
from mmjax.training.statistics import check_choice, fixed_statistics, held, with_fixed
from mmjax.training.weighing import (
    Uncertainty,
    Weight,
    check_weight,
    learn_weights,
    total,
    weigh,
    with_weights,
)
from mmjax.typing import Batch, PyTree


@dataclasses.dataclass(frozen=True)
class Goal:
    """One objective in the weighted sum that is trained.

    Attributes:
      objective: what is scored.
      weight: its factor: a number, a schedule of the step, or `Uncertainty` for one that is
        learned.
      stream: which stream of batches it reads.
    """

    objective: Objective
    weight: Weight = 1.0
    stream: str = "main"

    def __post_init__(self) -> None:
        check_weight(self.weight)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that the step is made of; everything here is fixed when it compiles.

    Attributes:
      model: has `init` and `apply` as a flax module does.
      goals: {name: Goal}.
      optimizer: rules and update.
      contract: preprocessing of the pictures.
      seed: of everything random.
      ema: decay of the moving average of the parameters; 0 keeps none.
      micro_batches: parts that a batch is taken in, for less memory; the gradient is that of the
        undivided batch.
      params_dtype: type of the parameters within the step, see `in_forward`; the state's own
        are float32.
      statistics: whose statistics normalise in training, in models that keep running ones: those
        of the whole 'batch', which micro-batches refuse; those of each micro-batch ('micro'),
        whose mean moves the running ones; or the running ones themselves, which stay ('frozen').
        In a frozen tower it is the last always.

    Raises:
      ValueError: an unknown name in `statistics`.
    """

    model: Any
    goals: Mapping[str, Goal]
    optimizer: Optimizer
    contract: preprocess.Contract
    seed: int
    ema: float = 0.0
    micro_batches: int = 1
    params_dtype: str = "float32"
    statistics: str = "batch"

    def __post_init__(self) -> None:
        check_choice(self.statistics)


def apply_model(
    model: Any, fixed: frozenset[str] = frozenset(), tokens: bool = True
) -> Callable[..., tuple[Any, PyTree]]:
    """How `Forward` runs the model: (output, running statistics after the call).

    Args:
      model: has `apply` as a flax module does.
      fixed: paths of the running statistics that are used in training and stay.
      tokens: whether anybody reads the tokens that `encode_*` gives.
    """

    def apply(
        method: str, variables: PyTree, inputs: Mapping[str, Any], train: bool, rngs: PyTree
    ) -> tuple[Any, PyTree]:
        takes = inspect.signature(getattr(type(model), method)).parameters
        how = {"train": train} if "train" in takes else {}
        if "tokens" in takes and not tokens:
            how["tokens"] = False
        if not (train and "batch_stats" in variables):
            return model.apply(variables, **inputs, **how, method=method, rngs=rngs), {}
        variables = with_fixed(variables, fixed)
        output, after = model.apply(
            variables, **inputs, **how, method=method, rngs=rngs, mutable=["batch_stats"]
        )
        return output, after["batch_stats"]

    return apply


def split_params(params: PyTree) -> tuple[PyTree, PyTree]:
    """(the model's parameters, {objective's name: its own})."""
    return {k: v for k, v in params.items() if k != "objectives"}, params.get("objectives", {})


def init_state(recipe: Recipe, batches: Mapping[str, Batch]) -> State:
    """The state before the first step; run it under jit with the state's shardings.

    Args:
      recipe: what is trained.
      batches: {stream: Batch} of arrays of the right shapes; values do not matter.
    """
    key = jax.random.key(recipe.seed)
    takes = inspect.signature(type(recipe.model).__call__).parameters
    # Of several streams the one that has most of what the model takes, whatever their order.
    fullest = max(batches.values(), key=lambda batch: sum(word in takes for word in batch))
    first = {word: value[:1] for word, value in fullest.items()}
    first = preprocess.preprocess(first, recipe.contract)
    inputs = {word: value for word, value in first.items() if word in takes}
    variables = rolled(recipe.model).init(jax.random.fold_in(key, 0), **inputs)
    params = dict(variables["params"])
    owned, memory = {}, {}
    for number, (name, goal) in enumerate(recipe.goals.items()):
        batch = batches[goal.stream]
        own = goal.objective.init_params(jax.random.fold_in(key, 1 + number), batch)
        own = with_weights(goal.weight, own, name)
        if own:
            owned[name] = own
        memory[name] = goal.objective.init_state(batch)
    if owned:
        params["objectives"] = owned
    trainable, _ = recipe.optimizer.split(params)
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=recipe.optimizer.transform(params).init(trainable),
        ema=jax.tree.map(jnp.copy, trainable) if recipe.ema else {},
        batch_stats=variables.get("batch_stats", {}),
        objectives=memory,
        counters=new_counters(),
    )


def score(
    recipe: Recipe,
    params: PyTree,
    statistics: PyTree,
    memory: PyTree,
    batches: Mapping[str, Batch],
    key: Any,
    train: bool,
) -> tuple[dict[str, Any], PyTree]:
    """({goal's name: Loss}, running statistics after it) of one step's batches."""
    model_params, owned = split_params(params)
    fixed = _fixed(recipe, params, statistics) if train else frozenset()
    forward = Forward(
        _applied(recipe, fixed),
        model_params,
        statistics,
        train,
        key,
        made_of=getattr(recipe.model, "made_of", None),
    )
    losses = {
        name: goal.objective(
            forward.owning(owned.get(name, {})), batches[goal.stream], memory[name]
        )
        for name, goal in recipe.goals.items()
    }
    return losses, held(forward.statistics, statistics, fixed)


def _applied(recipe: Recipe, fixed: frozenset[str]) -> Callable[..., tuple[Any, PyTree]]:
    """How the recipe's goals run the model."""
    read = any(goal.objective.reads_tokens for goal in recipe.goals.values())
    return apply_model(recipe.model, fixed, read)


def _fixed(recipe: Recipe, params: PyTree, statistics: PyTree) -> frozenset[str]:
    """Paths of the running statistics that training leaves as they are."""
    return fixed_statistics(statistics, *recipe.optimizer.split(params), recipe.statistics)


def loss_and_grads(
    recipe: Recipe, state: State, batches: Mapping[str, Batch], key: Any
) -> tuple[Any, dict[str, Any], PyTree, PyTree]:
    """(the weighted sum, {goal: Loss}, running statistics, gradient of the trainable part)."""
    trainable, frozen = recipe.optimizer.split(state.params)
    prepare = functools.partial(preprocess.preprocess, contract=recipe.contract)

    def whole(trainable: PyTree) -> PyTree:
        params = merge(trainable, jax.lax.stop_gradient(frozen))
        return in_forward(params, recipe.params_dtype)

    def weighed(trainable: PyTree) -> tuple[dict[str, Any], Any]:
        return weigh(_weights(recipe), split_params(whole(trainable))[1], state.step)

    if recipe.micro_batches > 1:
        batches = {name: preprocess.exchange_regions(batch) for name, batch in batches.items()}
        fixed = _fixed(recipe, state.params, state.batch_stats)
        model = _applied(recipe, fixed)

        def forwards(trainable: PyTree, part: Any) -> dict[str, Forward]:
            params, owned = split_params(whole(trainable))
            made_of = getattr(recipe.model, "made_of", None)
            forward = Forward(model, params, state.batch_stats, True, key, part, made_of)
            return {name: forward.owning(owned.get(name, {})) for name in recipe.goals}

        weights, _ = weighed(trainable)
        goals = {
            name: Part(goal.objective, goal.stream, weights[name], state.objectives[name])
            for name, goal in recipe.goals.items()
        }
        loss, losses, grads, statistics = accumulated_gradients(
            goals, trainable, forwards, prepare, batches, recipe.micro_batches
        )
        if any(isinstance(weight, Uncertainty) for weight in _weights(recipe).values()):
            loss, grads = learn_weights(losses, weighed, trainable, grads)
        return loss, losses, held(statistics, state.batch_stats, fixed), grads

    ready = {name: prepare(batch) for name, batch in batches.items()}

    def total_loss(trainable: PyTree) -> tuple[Any, Any]:
        losses, statistics = score(
            recipe, whole(trainable), state.batch_stats, state.objectives, ready, key, train=True
        )
        return total(losses, *weighed(trainable)), (losses, statistics)

    (loss, (losses, statistics)), grads = jax.value_and_grad(total_loss, has_aux=True)(trainable)
    return loss, losses, statistics, grads


def _weights(recipe: Recipe) -> dict[str, Any]:
    """{goal: its weight as given}."""
    return {name: goal.weight for name, goal in recipe.goals.items()}


def train_step(
    recipe: Recipe, state: State, batches: Mapping[str, Batch], stop: Any
) -> tuple[State, dict[str, Any]]:
    """One update, or none where loss, gradient or the update itself is not finite.

    Args:
      recipe: what is trained.
      state: donated.
      batches: {stream: Batch} of global arrays.
      stop: int32 array, above zero where a process was asked to stop; its sum comes back among
        the metrics, so that all processes learn of it at the same step.

    Returns:
      The next state; metrics as device scalars, to be read a step later.
    """
    key = jax.random.fold_in(jax.random.key(recipe.seed), state.step)
    loss, losses, statistics, grads = loss_and_grads(recipe, state, batches, key)
    trainable, frozen = recipe.optimizer.split(state.params)
    grad_norms = _norms(grads)
    count = position(state.opt_state)
    transform = recipe.optimizer.transform(state.params)
    updates, opt_state = transform.update(grads, state.opt_state, trainable)
    updates = _stored(updates)
    update_norms = _norms(updates)
    # A finite gradient may still become an update that is not (a rate or decay out of range).
    norms = (grad_norms[""], update_norms[""])
    good = functools.reduce(jnp.logical_and, map(jnp.isfinite, (loss, *norms)))
    updated = recipe.optimizer.clamp(optax.apply_updates(trainable, updates))
    ema = ema_update(state.ema, updated, ema_decay(recipe.ema, count)) if recipe.ema else {}
    memory = {name: loss.state for name, loss in losses.items()}

    def keep(new: PyTree, old: PyTree) -> PyTree:
        return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)

    params = merge(keep(updated, trainable), frozen)
    rows = sum(batch["valid"].size for batch in batches.values())
    bad = sum(batch["bad_samples"].sum(axis=0) for batch in batches.values())
    counters = {
        "samples": add_samples(state.counters["samples"], rows),
        "bad_samples": state.counters["bad_samples"] + bad,
        "skipped": state.counters["skipped"] + ~good,
        "skipped_in_a_row": jnp.where(good, 0, state.counters["skipped_in_a_row"] + 1),
    }
    weights, _ = weigh(_weights(recipe), split_params(state.params)[1], state.step)
    metrics = {
        "loss": loss,
        **{f"weight/{name}": now for name, now in weights.items() if _varies(recipe, name)},
        "rate": recipe.optimizer.learning_rate(count),
        **{f"loss/{name}": one.mean() for name, one in losses.items()},
        **{
            f"{name}/{metric}": total / jnp.maximum(number, 1e-9)
            for name, one in losses.items()
            for metric, (total, number) in one.metrics.items()
        },
        **{f"grad_norm{part}": norm for part, norm in grad_norms.items()},
        **{f"update_norm{part}": norm for part, norm in update_norms.items()},
        **{f"counters/{name}": value for name, value in counters.items()},
        "stop": stop.sum(),
    }
    if "log_scale" in params:
        metrics["scale"] = jnp.exp(params["log_scale"])
    if "bias" in params:
        metrics["bias"] = params["bias"]
    state = State(
        step=state.step + 1,
        params=params,
        opt_state=keep(opt_state, state.opt_state),
        ema=keep(ema, state.ema),
        batch_stats=keep(statistics, state.batch_stats),
        objectives=keep(memory, state.objectives),
        counters=counters,
    )
    return state, metrics


def _varies(recipe: Recipe, name: str) -> bool:
    """Whether a goal's weight is another from step to step."""
    return not isinstance(recipe.goals[name].weight, numbers.Real)


def _norms(tree: Mapping[str, Any]) -> dict[str, Any]:
    """{"": the norm of all arrays together, "/tower": that of each tower's}.

    Each array is read once: the compiler does not see that a tower's sum is a part of the whole's.
    """
    squares = {part: optax.tree.norm(leaf, squared=True) for part, leaf in _stored(tree).items()}
    towers = (part for part, leaf in tree.items() if isinstance(leaf, Mapping))
    return {"": jnp.sqrt(sum(squares.values()))} | {
        f"/{part}": jnp.sqrt(squares[part]) for part in towers
    }


def _stored(tree: PyTree) -> PyTree:
    """`tree`, on a CPU as arrays in memory from which everything that follows starts.

    A CPU's program has no kernel that writes several arrays, so what two kernels need, each makes
    again from all that it came from, or (squares of gradients, for a norm and for Adam) it is
    written out, at several reads of the whole model. Elsewhere one kernel makes them all.
    """
    each = functools.partial(jax.tree.map, jax.lax.optimization_barrier)
    return jax.lax.platform_dependent(tree, cpu=each, default=lambda tree: tree)
