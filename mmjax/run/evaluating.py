"""Parameters and held-out data to numbers: fills in the evaluators' `Context`."""

import contextlib
import copy
import functools
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
from mmjax.data.rows import Picked, evaluation_rows
from mmjax.data.sources.base import CAUSES, BadSample
from mmjax.data.transforms.captions import clean_caption
from mmjax.data.transforms.naflex import picture_of
from mmjax.evaluation.base import Context, Evaluator, Result, write_artifact
from mmjax.objectives.base import Forward
from mmjax.parallel import hosts
from mmjax.parallel.mesh import rows_of_process
from mmjax.parallel.sharding import activations, batch_sharding, replicated, specs_of
from mmjax.run.assembly import Parts, check_contract, find_tokenize
from mmjax.run.console import say
from mmjax.run.feeding import late_is_failure, open_feed
from mmjax.run.looking import looking
from mmjax.run.suiting import check_evaluators, scored
from mmjax.run.vocabulary import answers_of
from mmjax.training.optimizers.base import merge
from mmjax.training.state import State
from mmjax.training.step import apply_model, score, split_params
from mmjax.typing import Batch, Encoded, PyTree, View

_IDENTITY = ("valid", "group", "label", "labels", "bad_samples")


class Interrupted(Exception):
    """A request to stop ended an evaluation between two batches, on all processes alike."""


class Evaluation:
    """One held-out set of a run and the compiled functions that score it.

    Args:
      parts: with the tokenizer bound.
      mesh: of the run.
      reading: how batches are made ahead.
      stopping: whether this process was asked to stop.
      name: of the set in `parts.eval_data`, and of its evaluators where there are several.
    """

    def __init__(
        self,
        parts: Parts,
        mesh: Mesh,
        reading: Reading,
        stopping: Callable[[], bool] = lambda: False,
        name: str = "",
    ):
        data = parts.eval_data[name]
        named = parts.settings["evaluators"]
        self._evaluators = named.get(name, {}) if name else named
        self._within = f"{name}/" if name else ""
        self._source = members_of(data)[0].source
        self._vocabulary = answers_of(data)
        self._stopping = stopping
        self._parts = parts
        self._mesh = mesh
        self._reading = reading
        self._rows = evaluation_rows(members_of(data), parts.recipe.seed)
        self._maker = BatchMaker(
            self._rows,
            parts.settings["eval_batch_size"],
            jax.process_index(),
            jax.process_count(),
            reading.threads,
            rows_of_process(mesh, parts.settings["eval_batch_size"], jax.process_index()),
        )
        where = self._where = f"eval_data{name and '.'}{name}"
        self._bad = np.zeros(len(CAUSES), np.int64)
        check_contract(parts.recipe.contract, self._maker.shapes, where)
        self._recipe = scored(parts.recipe, self._maker.global_shapes, where)
        self._tokenize = find_tokenize(data)
        self._apply = apply_model(parts.recipe.model)
        self._embed = apply_model(parts.recipe.model, tokens=False)
        self._specs: dict[str, Any] = {}
        self._whole = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))
        check_evaluators(
            self._evaluators,
            parts.recipe.model,
            self._maker.global_shapes,
            next(filter(None, map(self._usable, range(len(self._rows.order)))), {}),
            self._answers(),
            tuple(self._recipe.goals),
        )

    def _usable(self, position: int) -> dict[str, Any] | None:
        try:
            return self._facts(position)
        except BadSample:
            return None

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
            for own, evaluator in self._evaluators.items():
                name = f"{self._within}{own}"
                result = self._run(f"evaluators.{name.replace('/', '.')}", evaluator, context)
                numbers |= {f"{prefix}{name}/{k}": float(v) for k, v in result.metrics.items()}
                if workdir is not None and hosts.is_main():
                    _keep(workdir, step, f"{prefix}{name}", result)
        if self._bad.any():
            numbers[f"{self._within}unusable_samples"] = float(self._bad.sum())
            causes = ", ".join(f"{n} {cause}" for cause, n in zip(CAUSES, self._bad) if n)
            say(
                f"{self._where}: {self._bad.sum()} of {len(self._rows.order)} samples cannot be "
                f"used and are in no number ({causes})."
            )
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
            chosen=self._chosen,
            attention=lambda view, batch: self._attention(view, params, state, batch),
        )

    def _batches(self) -> Iterator[Batch]:
        length = len(self._rows.order)
        bad = np.zeros(len(CAUSES), np.int64)
        for batch in self._feed({"eval_data": self._maker}, np.arange(length), ()):
            bad += batch.pop("bad_samples").sum(axis=0)
            yield batch
        self._bad = bad

    def _chosen(
        self, positions: Sequence[int], others: Sequence[int] = (), words: Sequence[str] = ()
    ) -> Iterator[Batch]:
        makers = {"eval_data": self._picked(positions)}
        if words:
            makers["others"] = self._picked(others)
        return self._feed(makers, np.asarray(positions), words)

    def _picked(self, positions: Sequence[int]) -> BatchMaker:
        maker = copy.copy(self._maker)
        maker.rows = Picked(self._rows, positions)
        return maker

    def _feed(
        self, makers: Mapping[str, BatchMaker], positions: np.ndarray, words: Sequence[str]
    ) -> Iterator[Batch]:
        """Batches of the samples at some positions, with these words of the stream 'others'."""
        size = self._maker.batch_size
        number = -(-len(positions) // size)
        filled = np.resize(positions, number * size)
        feed = open_feed(makers, 0, number, self._reading, batch_sharding(self._mesh))
        try:
            for index in range(number):
                with late_is_failure():
                    made = next(feed)
                placed = made["eval_data"]
                known = {word: placed[word] for word in _IDENTITY if word in placed}
                if words:
                    placed = {**placed, **{word: made["others"][word] for word in words}}
                    known["others"] = made["others"]["valid"]
                host = self._fetch(known)
                host["valid"] = host["valid"] & host.pop("others", True)
                position = filled[index * size : (index + 1) * size]
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
                    output, _ = self._embed(view.method, variables, batch, False, {})
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
                    made = forward.view(view, batch)
                    made = forward(head, {"fused": made}) if head else made
                if not hasattr(made, "astype"):
                    raise ValueError(f"{view.method!r} gives no scores; name one of its heads.")
                return made.astype(jnp.float32)

            self._encoders[view, head] = jax.jit(scores, out_shardings=replicated(self._mesh))
        return self._encoders[view, head]

    def _scores(
        self, view: View, head: str, params: PyTree, state: State, batch: Batch
    ) -> np.ndarray:
        words = self._words(view, batch)
        own, _ = split_params(params)
        return np.asarray(jax.device_get(self._head(view, head)(own, state.batch_stats, words)))

    def _attention(
        self, view: View, params: PyTree, state: State, batch: Batch
    ) -> tuple[np.ndarray, np.ndarray] | None:
        if ("attention", view) not in self._encoders:
            look = looking(self._parts.recipe.model, self._parts.recipe.contract, view)

            def whole(*given: PyTree) -> Any:
                with activations(self._mesh, params=self._specs):
                    return look(*given)

            how = {"out_shardings": replicated(self._mesh)}
            self._encoders["attention", view] = jax.jit(whole, **how)
        own, _ = split_params(params)
        words = self._words(view, batch)
        words |= {word: batch["device"][word] for word in ("boxes",) if word in batch["device"]}
        found = self._encoders["attention", view](own, state.batch_stats, words)
        return None if found is None else tuple(np.asarray(x) for x in jax.device_get(found))

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
        size = self._maker.batch_size
        rng = np.random.default_rng(0)
        made = []
        for start in range(0, len(texts), size):
            self._fetch({})
            part = list(texts[start : start + size])
            rows = [self._tokenize({"caption": text}, rng) for text in part]
            rows += [rows[-1]] * (size - len(rows))
            # Not a block by the process's number: devices of a process need not be neighbours.
            mine = [rows[n] for n in rows_of_process(self._mesh, size, jax.process_index())]
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
        return self._vocabulary.names if self._vocabulary is not None else ()

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
        if "patches" in row:
            return {**found, "image": picture_of(row["patches"], row["patch_grid"])}
        if "image" not in row:
            return found
        image = row["image"]
        return {**found, "image": np.concatenate(image, axis=1) if image.ndim == 4 else image}

    def _classes(self) -> tuple[str, ...]:
        return tuple(getattr(self._source, "classes", ()))


def _keep(workdir: pathlib.Path, step: int, name: str, result: Result) -> None:
    """Writes what the report draws; a disk that refuses it costs the report a part, not the run."""
    try:
        write_artifact(workdir, step, name, result)
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            print(f"evaluations/{step}/{name}.json could not be written: {error}", flush=True)
