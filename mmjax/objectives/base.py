"""What a training goal is: an `Objective` calls the model through `Forward` and returns a `Loss`.

One loop serves every goal because a goal never returns a mean: it returns sums and counts, which
add up over devices, micro-batches and evaluation batches. The step divides once, at the end.
"""

import abc
import copy
import dataclasses
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mmjax.typing import WORDS, Array, Batch, Float, MadeOf, PyTree, View

_ROWS = 0x7FFFFFFF  # sets the keys of the stream 'rows' apart from those of the micro-batches

Embeddings = dict[str, Any]
Scalars = dict[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Loss:
    """The outcome of one objective on one batch, as sums that add up.

    Attributes:
      total: sum of the loss over everything counted, scalar float32.
      count: what `total` is divided by, scalar float32 (number of real rows, masked words, ...).
      metrics: {name: (sum, count)} of further numbers.
      state: the objective's own memory after this batch (queues, momentum copies), or ().
    """

    total: Any
    count: Any
    metrics: dict[str, tuple[Any, Any]]
    state: Any = ()

    def mean(self) -> Float[Array, ""]:
        """total ÷ count; zero where nothing was counted."""
        return self.total / jnp.maximum(self.count, 1e-9)


class Forward:
    """Runs the model's methods for the objectives of one step; equal calls run once.

    Two calls are equal when method, inputs (by identity), parameters (by identity), `train` and
    `key` are all the same, however many objectives ask. Randomness inside the model is a function
    of (seed, step, call name) alone. A method that the model makes of others is asked for as any
    other; what it is made of is run, and shared, as calls of their own.

    Args:
      apply: (method, variables, inputs, train, rngs) -> (output, running statistics after it).
      params: the model's parameters.
      statistics: the running statistics, {} where the model has none.
      train: whether dropout and the like are on, unless a call says otherwise.
      key: the step's random key.
      part: number of the micro-batch, or None for a whole batch. Dropout differs between parts;
        what is keyed by a row's number (the stream 'rows') does not know of them.
      made_of: {method: of which others the model makes it}.
    """

    def __init__(
        self,
        apply: Callable[..., tuple[Any, PyTree]],
        params: PyTree,
        statistics: PyTree,
        train: bool,
        key: Any,
        part: Any = None,
        made_of: Mapping[str, MadeOf] | None = None,
    ):
        self._apply = apply
        self._params = params
        self._statistics = statistics
        self._train = train
        self._key = key
        self._part = part
        self._made_of = made_of or {}
        self._made: dict[tuple[Any, ...], Any] = {}
        self._kept_alive: list[Any] = []  # identities stay unique only while the objects live
        self._after = {"batch_stats": statistics}  # one dict for all views of this forward
        self.own: PyTree = {}

    @property
    def statistics(self) -> PyTree:
        """The running statistics after the calls so far."""
        return self._after["batch_stats"]

    def owning(self, own: PyTree) -> "Forward":
        """The same forward, sharing all calls, with an objective's parameters as `own`."""
        view = copy.copy(self)
        view.own = own
        return view

    def __call__(
        self,
        method: str,
        inputs: Mapping[str, Any],
        params: PyTree = None,
        train: bool | None = None,
        key: str = "",
    ) -> Any:
        """The output of `model.method(**inputs)`.

        Args:
          method: name of one of the model's methods.
          inputs: keyword arguments of that method.
          params: other parameters (a teacher, a momentum copy), under stop_gradient; the running
            statistics of such a call are read and not updated.
          train: overrides the step's own setting.
          key: a further name for the call's randomness, where one method runs twice and must draw
            differently.
        """
        method, inputs = self.apart(method, inputs, params=params, train=train, key=key)
        train = self._train if train is None else train
        names = sorted(inputs)
        call = (method, key, train, id(params), *((name, id(inputs[name])) for name in names))
        if call not in self._made:
            own = params is None
            variables = {"params": self._params if own else jax.lax.stop_gradient(params)}
            if self._statistics:
                variables["batch_stats"] = self._statistics
            rngs = {}
            if train:
                drawn = jax.random.fold_in(self._key, zlib.crc32(f"{method}/{key}".encode()))
                rngs["rows"] = jax.random.fold_in(drawn, _ROWS)
                part = self._part
                rngs["dropout"] = drawn if part is None else jax.random.fold_in(drawn, part)
            output, after = self._apply(method, variables, dict(inputs), train, rngs)
            if own and train and after:
                self._after["batch_stats"] = _merge(self.statistics, after, self._statistics)
            self._made[call] = output
            self._kept_alive.append((params, dict(inputs)))
        return self._made[call]

    def view(self, view: View, batch: Batch, **how: Any) -> Any:
        """`view.method` on the words of the batch that the view names."""
        return self(view.method, self.inputs(view, batch), **how)

    def once(self, name: str, inputs: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for all who ask by one name for the same inputs.

        So other objectives' calls on what it gives equal each other too.

        Args:
          name: what is made.
          inputs: all that it is made of; equal means identical.
          make: makes it.
        """
        asked = ("once", name, *((word, id(inputs[word])) for word in sorted(inputs)))
        if asked not in self._made:
            self._made[asked] = make()
            self._kept_alive.append(dict(inputs))
        return self._made[asked]

    def random(self, name: str) -> Any:
        """A random key of this step for what an objective draws by itself, of its own by the name.

        It does not know of micro-batches.
        """
        return jax.random.fold_in(self._key, zlib.crc32(name.encode()))

    def inputs(self, view: View, batch: Batch) -> dict[str, Any]:
        """The words of the batch that a view names.

        Of a method that is made of others 'row' is among them, if any of these takes it, so that
        their calls equal those of objectives that name it.
        """
        inputs = {word: batch[word] for word in view.words}
        made = self._made_of.get(view.method)
        if made is not None and "row" in batch and "row" in _taken(made):
            inputs["row"] = batch["row"]
        return inputs

    def made_of(self, method: str) -> MadeOf | None:
        """Of what others the model makes a method, or None."""
        return self._made_of.get(method)

    def apart(
        self,
        method: str,
        inputs: Mapping[str, Any],
        only: Collection[str] | None = None,
        **how: Any,
    ) -> tuple[str, dict[str, Any]]:
        """(method, inputs) once what the method is made of has been run; as given if of nothing.

        Args:
          method: as in a call.
          inputs: as in a call.
          only: names of the parts that are run, for who wants no others; None for all.
          how: `params`, `train` and `key` as in a call.

        Raises:
          ValueError: an input that no part takes.
        """
        made = self._made_of.get(method)
        if made is None:
            return method, dict(inputs)
        unknown = sorted(set(inputs) - _taken(made))
        if unknown:
            raise ValueError(
                f"{method} does not take {', '.join(unknown)}; it takes "
                f"{', '.join(sorted(_taken(made)))}."
            )
        parts = {
            name: self(view.method, {w: inputs[w] for w in view.words if w in inputs}, **how)
            for name, view in made.parts.items()
            if only is None or name in only
        }
        return made.method, {**parts, **{w: inputs[w] for w in made.words if w in inputs}}


def _taken(made: MadeOf) -> set[str]:
    """All words that a method made of others takes."""
    return {*made.words, *(word for view in made.parts.values() for word in view.words)}


def _merge(current: PyTree, after: PyTree, before: PyTree) -> PyTree:
    """`current` with what a call changed: it hands back other towers' statistics untouched.

    Each call begins with the statistics of before the step, so the changes of several add up.
    """
    if isinstance(after, Mapping):
        return {name: _merge(current[name], after[name], before[name]) for name in after}
    if after is before:
        return current
    return after if current is before else current + (after - before)


class Objective(abc.ABC):
    """A training goal: a frozen dataclass that says which words it needs and how to score them.

    Attributes:
      reads_tokens: False where of what `encode_*` gives it reads the vectors of whole rows alone.
        If that holds for all goals of a step, towers may leave the tokens out.
    """

    reads_tokens: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def needs(self) -> tuple[str, ...]:
        """Words of the batch that must be there."""

    @abc.abstractmethod
    def __call__(self, forward: Forward, batch: Batch, state: PyTree) -> Loss:
        """Scores one batch.

        Args:
          forward: runs the model.
          batch: global arrays; `valid` is False for rows that only fill up.
          state: what `init_state` made, after all steps so far.
        """

    def init_state(self, batch: Batch) -> PyTree:
        """The objective's own memory before the first step; none unless overridden."""
        del batch
        return ()

    def init_params(self, key: Any, batch: Batch) -> PyTree:
        """Parameters that the objective owns (`params['objectives'][name]`); none by default."""
        del key, batch
        return {}


class Coupled(Objective):
    """An objective in which examples see each other, such as every contrastive one.

    It is split in two so that the step alone decides whether the batch runs whole or in
    micro-batches: first all embeddings are made, then they are compared.
    """

    @abc.abstractmethod
    def embed(self, forward: Forward, batch: Batch) -> Embeddings:
        """{name: array with the batch as first axis} of all that `compare` looks at."""

    @abc.abstractmethod
    def compare(self, embeddings: Embeddings, scalars: Scalars, state: PyTree) -> Loss:
        """The loss of the whole batch from its embeddings and the model's scalars."""

    def __call__(self, forward: Forward, batch: Batch, state: PyTree) -> Loss:
        """`embed`, then `compare`."""
        return self.compare(self.embed(forward, batch), forward("scalars", {}), state)


class Additive(Objective):
    """An objective that sums over examples, so that parts of a batch give parts of its sums.

    It has no memory, and its count depends on the batch alone.
    """


def check_needs(
    objectives: Mapping[str, Objective], words: Iterable[str], whose: str = "the batches"
) -> None:
    """Raises ValueError, before anything compiles, where a batch lacks a word of an objective.

    Args:
      objectives: {name: objective}.
      words: of the batches that all of them read.
      whose: how the message names these batches.
    """
    words = set(words)
    for name, objective in objectives.items():
        for need in objective.needs:
            if need in words:
                continue
            if need not in WORDS:
                raise ValueError(
                    f"objective {name!r} needs {need!r}, which is no word of a Batch. Words: "
                    f"{', '.join(sorted(WORDS))}."
                )
            raise ValueError(
                f"objective {name!r} needs {need!r} ({WORDS[need].meaning}), and {whose} hold "
                f"{', '.join(sorted(words))}. Add {WORDS[need].made_by}."
            )
