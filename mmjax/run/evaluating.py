"""Parameters and held-out data to numbers: fills in the evaluators' `Context`."""

import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax import preprocess
from mmjax.data.dataset import members_of
from mmjax.data.device import flags_to_devices, to_devices
from mmjax.data.pipeline import BatchMaker, Reading
from mmjax.data.rows import evaluation_rows
from mmjax.data.sources.base import BadSample
from mmjax.data.transforms.captions import clean_caption
from mmjax.evaluation.base import Context, Evaluator, Result, write_artifact
from mmjax.evaluation.objectives import Objectives
from mmjax.objectives.base import Forward
from mmjax.parallel import hosts
from mmjax.parallel.mesh import rows_of_process
from mmjax.parallel.sharding import activations, batch_sharding, replicated, specs_of
from mmjax.run.assembly import Parts, check_contract, find_tokenize
from mmjax.run.console import say
from mmjax.run.feeding import late_is_failure, open_feed
from mmjax.run.vocabulary import answers_of
from mmjax.training.optimizers.base import merge
from mmjax.training.state import State
from mmjax.training.step import Recipe, apply_model, score, split_params
from mmjax.typing import Batch, Encoded, PyTree, View

_IDENTITY = ("valid", "group", "label")


class Interrupted(Exception):
    """A request to stop ended an evaluation between two batches, on all processes alike."""


class Evaluation:
    """The held-out data of a run and the compiled functions that score it.

    Args:
      parts: with the tokenizer bound.
      mesh: of the run.
      reading: how batches are made ahead.
      stopping: whether this process was asked to stop.
    """

    def __init__(
        self,
        parts: Parts,
        mesh: Mesh,
        reading: Reading,
        stopping: Callable[[], bool] = lambda: False,
    ):
        self._stopping = stopping
        self._parts = parts
        self._mesh = mesh
        self._reading = reading
        self._rows = evaluation_rows(members_of(parts.eval_data), parts.recipe.seed)
        self._maker = BatchMaker(
            self._rows,
            parts.settings["eval_batch_size"],
            jax.process_index(),
            jax.process_count(),
            reading.threads,
            rows_of_process(mesh, parts.settings["eval_batch_size"], jax.process_index()),
        )
        check_contract(parts.recipe.contract, self._maker.shapes, "eval_data")
        self._recipe = _scored(parts.recipe, self._maker.global_shapes)
        for name, evaluator in parts.settings["evaluators"].items():
            if isinstance(evaluator, Objectives):
                _check_told(name, evaluator, self._recipe)
        self._tokenize = find_tokenize(parts.eval_data)
        self._apply = apply_model(parts.recipe.model)
        self._specs: dict[str, Any] = {}
        self._whole = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))

    def __call__(self, state: State, step: int, workdir: pathlib.Path | None) -> dict[str, float]:
        """Runs every evaluator on the raw parameters and on their moving average.

        Args:
          state: what is scored.
          step: of the state.
          workdir: where artifacts for the report go, or None.

        Returns:
          {'retrieval/text_to_image/R@1': ..., 'ema/retrieval/...': ...}.

        Raises:
          Interrupted: a process was asked to stop.
        """
        versions = {"": state.params}
        if self._parts.recipe.ema:
            _, frozen = self._parts.recipe.optimizer.split(state.params)
            versions["ema/"] = merge(state.ema, frozen)
        numbers: dict[str, float] = {}
        for prefix, params in versions.items():
            context = self.context(params, state)
            for name, evaluator in self._parts.settings["evaluators"].items():
                result = self._run(f"evaluators.{name}", evaluator, context)
                numbers |= {f"{prefix}{name}/{k}": float(v) for k, v in result.metrics.items()}
                if workdir is not None and hosts.is_main():
                    _keep(workdir, step, f"{prefix}{name}", result)
        return numbers

    def _run(self, name: str, evaluator: Evaluator, context: Context) -> Result:
        try:
            return evaluator(context)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def context(self, params: PyTree, state: State) -> Context:
        """What evaluators may use, for one set of parameters."""
        self._specs = specs_of(state.params)  # kernels are gathered for their use, as in the step
        return Context(
            apply=lambda view, batch: self._encode(view, params, state.batch_stats, batch),
            batches=self._batches,
            captions=self._captions,
            sample=self._picture,
            encode_texts=lambda texts: self._encode_texts(texts, params, state.batch_stats),
            loss=lambda batch: self._loss(params, state, batch),
            classes=self._classes(),
            facts=self._facts,
            scores=lambda view, head, batch: self._scores(view, head, params, state, batch),
            answers=self._answers(),
        )

    def _batches(self) -> Iterator[Batch]:
        size = self._maker.batch_size
        number = -(-len(self._rows.order) // size)
        sharding = batch_sharding(self._mesh)
        feed = open_feed({"eval_data": self._maker}, 0, number, self._reading, sharding)
        try:
            for index in range(number):
                with late_is_failure():
                    placed = next(feed)["eval_data"]
                known = {word: placed[word] for word in _IDENTITY if word in placed}
                host = self._fetch(known)
                position = np.arange(index * size, (index + 1) * size)
                yield {**placed, **host, "position": position, "device": placed}
        finally:
            feed.close()

    def _fetch(self, known: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Global arrays on the host; ends the evaluation where a process was asked to stop."""
        asked = flags_to_devices(int(self._stopping()), self._mesh)
        flags, host = jax.device_get(self._whole((asked, known)))
        if flags.any():
            raise Interrupted
        return host

    @functools.cached_property
    def _encoders(self) -> dict[Any, Any]:
        return {}

    def _encoder(self, view: View) -> Any:
        if view not in self._encoders:

            def encode(params: PyTree, statistics: PyTree, batch: Batch) -> Any:
                batch = preprocess.preprocess(batch, self._parts.recipe.contract)
                variables = {"params": {k: v for k, v in params.items() if k != "objectives"}}
                if statistics:
                    variables["batch_stats"] = statistics
                with activations(self._mesh, params=self._specs):
                    output, _ = self._apply(view.method, variables, batch, False, {})
                return output.embedding

            self._encoders[view] = jax.jit(encode, out_shardings=replicated(self._mesh))
        return self._encoders[view]

    def _encode(self, view: View, params: PyTree, statistics: PyTree, batch: Batch) -> Encoded:
        words = self._words(view, batch)
        embedding = jax.device_get(self._encoder(view)(params, statistics, words))
        return Encoded(None, None, None, np.asarray(embedding))

    def _head(self, view: View, head: str) -> Any:
        if (view, head) not in self._encoders:

            def scores(params: PyTree, statistics: PyTree, batch: Batch) -> Any:
                batch = preprocess.preprocess(batch, self._parts.recipe.contract)
                forward = Forward(self._apply, params, statistics, False, None)
                with activations(self._mesh, params=self._specs):
                    made = forward(head, {"fused": forward.view(view, batch)})
                return made.astype(jnp.float32)

            self._encoders[view, head] = jax.jit(scores, out_shardings=replicated(self._mesh))
        return self._encoders[view, head]

    def _scores(
        self, view: View, head: str, params: PyTree, state: State, batch: Batch
    ) -> np.ndarray:
        words = self._words(view, batch)
        own, _ = split_params(params)
        return np.asarray(jax.device_get(self._head(view, head)(own, state.batch_stats, words)))

    def _words(self, view: View, batch: Batch) -> Batch:
        """The words of a view, from a batch of `_batches`."""
        words = {word: batch["device"][word] for word in view.words if word in batch["device"]}
        if len(words) < len(view.words):
            raise ValueError(f"eval_data gives {sorted(batch['device'])}, {view} needs more.")
        return words

    def _encode_texts(self, texts: Sequence[str], params: PyTree, statistics: PyTree) -> np.ndarray:
        if self._tokenize is None:
            raise ValueError(
                "texts can only be encoded where eval_data has a Tokenize transform; features name "
                "their words instead (text_words=('text_features',))."
            )
        view = View("encode_text", ("token_ids", "text_mask"))
        size, processes = self._maker.batch_size, jax.process_count()
        local = size // processes
        rng = np.random.default_rng(0)
        made = []
        for start in range(0, len(texts), size):
            self._fetch({})
            part = list(texts[start : start + size])
            rows = [self._tokenize({"caption": text}, rng) for text in part]
            rows += [rows[-1]] * (size - len(rows))
            mine = rows[jax.process_index() * local :][:local]
            batch = {word: np.stack([row[word] for row in mine]) for word in view.words}
            placed = to_devices(batch, batch_sharding(self._mesh))
            embedding = jax.device_get(self._encoder(view)(params, statistics, placed))
            made.append(np.asarray(embedding)[: len(part)])
        return np.concatenate(made)

    @functools.cached_property
    def _scorer(self) -> Any:
        recipe = self._recipe
        if not recipe.goals:
            raise ValueError("eval_data lack words of every goal, so there is no loss to tell.")

        def total(params: PyTree, state: State, batch: Batch) -> Mapping[str, Any]:
            batch = preprocess.preprocess(batch, recipe.contract)
            streams = {goal.stream: batch for goal in recipe.goals.values()}
            with activations(self._mesh, params=self._specs):
                losses, _ = score(
                    recipe,
                    params,
                    state.batch_stats,
                    state.objectives,
                    streams,
                    jax.random.key(recipe.seed),
                    train=False,
                )
            sums = {}
            for name, loss in losses.items():
                sums[name] = (loss.total, loss.count)
                sums |= {f"{name}/{metric}": value for metric, value in loss.metrics.items()}
            return sums

        return jax.jit(total, out_shardings=replicated(self._mesh))

    def _loss(self, params: PyTree, state: State, batch: Batch) -> dict[str, tuple[float, float]]:
        sums = jax.device_get(self._scorer(params, state, batch["device"]))
        return {name: (float(total), float(count)) for name, (total, count) in sums.items()}

    def _sample(self, position: int) -> dict[str, Any]:
        number, place = self._rows.order(position)
        dataset = self._rows.datasets[number]
        return dataset.fields(dataset.source[place])

    def _facts(self, position: int) -> dict[str, Any]:
        """What a sample's fields say of it, but for its pictures."""
        sample = self._sample(position)
        named = {word: sample[word] for word in ("answers", "truth", "label") if word in sample}
        return {**named, **sample.get("facts", {}), "captions": sample.get("captions", ())}

    def _answers(self) -> tuple[str, ...]:
        found = answers_of(self._parts.eval_data)
        return found.names if found is not None else ()

    def _captions(self, position: int) -> tuple[str, ...]:
        """A sample's captions as training would read them, without those that it would not."""
        usable = []
        for caption in self._sample(position).get("captions", ()):
            try:
                text = clean_caption(caption)
                if self._tokenize is not None:
                    self._tokenize.encode(text)
            except BadSample:
                continue
            usable.append(text)
        return tuple(usable)

    def _picture(self, position: int) -> dict[str, Any]:
        number, place = self._rows.order(position)
        captions = self._captions(position)
        row = self._rows._row(self._rows.datasets[number], number, place, position, 0)
        found = {"captions": captions}
        if "image" not in row:
            return found
        image = row["image"]
        return {**found, "image": np.concatenate(image, axis=1) if image.ndim == 4 else image}

    def _classes(self) -> tuple[str, ...]:
        source = members_of(self._parts.eval_data)[0].source
        return tuple(getattr(source, "classes", ()))


def _scored(recipe: Recipe, words: Mapping[str, Any]) -> Recipe:
    """The recipe with those goals that held-out data can score; says which they cannot."""
    lacking = {
        name: [word for word in goal.objective.needs if word not in words]
        for name, goal in recipe.goals.items()
    }
    if left_out := {name: found for name, found in lacking.items() if found}:
        told = "; ".join(f"{name} ({', '.join(found)})" for name, found in left_out.items())
        say(f"eval_data: goals that lack a word there are not scored: {told}.")
    goals = {name: goal for name, goal in recipe.goals.items() if not lacking[name]}
    return dataclasses.replace(recipe, goals=goals)


def _check_told(name: str, evaluator: Objectives, recipe: Recipe) -> None:
    """Raises ValueError where an evaluator is to tell of a goal that is not scored."""
    for goal in evaluator.goals:
        if goal not in recipe.goals:
            raise ValueError(
                f"evaluators.{name}: goals={evaluator.goals!r}: eval_data score no {goal!r}; they "
                f"score {', '.join(recipe.goals) or 'none'}."
            )


def _keep(workdir: pathlib.Path, step: int, name: str, result: Result) -> None:
    """Writes what the report draws; a disk that refuses it costs the report a part, not the run."""
    try:
        write_artifact(workdir, step, name, result)
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            print(f"evaluations/{step}/{name}.json could not be written: {error}", flush=True)


def print_numbers(numbers: Mapping[str, float]) -> str:
    """A table for people, one metric a line, the number that chance gives beside it."""
    lines = []
    for name, value in sorted(numbers.items()):
        if name.endswith("_chance"):
            continue
        chance = numbers.get(f"{name}_chance")
        lines.append(
            f"  {name:<44} {value:>10.4f}" + (f"  (chance {chance:.4f})" if chance else "")
        )
    return "\n".join(lines)


def to_line(step: int, numbers: Mapping[str, float]) -> str:
    """One JSON line, for scripts."""
    return json.dumps({"step": step, **numbers})
