"""Texts with their own pictures and with those of other rows, as a model sees them together.

Which rows are put together depends on the whole batch. So where a batch is taken in micro-batches,
the others of each row are told for all of it first, their words are brought beside the row's own,
and each part then makes its pairs by itself.
"""

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmjax.objectives.base import Embeddings, Forward, Loss, Objective
from mmjax.objectives.hard_negatives import CHOICES, Chosen, hard_negatives
from mmjax.objectives.pairs import IDENTITIES, Sides, lay_out_ring
from mmjax.objectives.replacing import Replace, check_replace, read_words, replaced
from mmjax.parallel.ring import row_numbers, row_shards
from mmjax.parallel.rows import take_rows
from mmjax.parallel.sharding import current_mesh
from mmjax.typing import Batch, Bool, Encoded, PyTree, View

__all__ = ["NEGATIVES", "Others", "Pair", "Paired", "Pairing"]

NEGATIVES = ("random", *CHOICES)
# Words of a text, and the name of what a model makes of it; all others are a picture's.
TEXT = ("token_ids", "text_mask", "token_type", "task", "row", "text")


class Pair(NamedTuple):
    """Texts with pictures, one a row, as a model sees them together.

    Attributes:
      fused: what its `fuse` gives.
      asked: [batch], which rows are asked about.
      right: whether a text's picture is its own.
    """

    fused: Any
    asked: Any
    right: bool


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Others:
    """What each row's text, or its picture, is put together with.

    Attributes:
      words: {word: array} of the other rows, as stored.
      asked: [batch], which rows are asked about.
      of_text: whether the other rows' texts are meant, and else their pictures.
    """

    words: dict[str, Any]
    asked: Any
    of_text: bool = dataclasses.field(metadata={"static": True})

    @property
    def key(self) -> str:
        """The name under which the pass draws its dropout."""
        return "wrong text" if self.of_text else "wrong picture"


@dataclasses.dataclass(frozen=True)
class Pairing:
    """Which texts and pictures of a batch are put together.

    Right pairs are a row's own. A pair that might match all the same (one sample, one caption or
    one group) is not asked about.

    Args:
      fuse: (method, words) by which the model looks at text and picture together.
      shift: how many rows further on the wrong picture is taken from; for 'random' alone.
      negatives: 'random', 'hardest' or 'sampled', see `Matching`.
      replace: see `MaskedLm`; then the right pairs are those of its pass.

    Raises:
      ValueError: an option that is none, or that says nothing beside another.
    """

    fuse: tuple[str, tuple[str, ...]]
    shift: int = 1
    negatives: str = "random"
    replace: Replace = ()

    def __post_init__(self) -> None:
        check_replace(self.fuse, self.replace)
        # Tuples throughout, whatever a config made of them, so that equal ones are equal keys.
        object.__setattr__(self, "fuse", (self.fuse[0], tuple(self.fuse[1])))
        object.__setattr__(self, "replace", tuple(map(tuple, self.replace)))
        if self.shift < 1:
            raise ValueError(f"shift={self.shift}: the wrong picture is of another row; give 1 up.")
        if self.negatives not in NEGATIVES:
            raise ValueError(f"negatives={self.negatives!r} is none of {', '.join(NEGATIVES)}.")
        if self.negatives != "random" and self.shift != 1:
            raise ValueError(
                f"shift={self.shift} is for negatives='random'; leave it out with "
                f"{self.negatives!r}."
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """The words of the model's view, those that stand in for others in their place."""
        return read_words(self.fuse, self.replace)

    @property
    def view(self) -> View:
        """`fuse`."""
        return View(*self.fuse)

    def pairs(self, forward: Forward, batch: Batch) -> Iterator[Pair]:
        """The right pairs of a whole batch, then the wrong ones.

        Random ones that are asked for again run no model.

        Raises:
          ValueError: a batch of no more rows than the shift; for chosen negatives a batch that the
            mesh does not divide, or a model that does not make `fuse` of its two towers.
        """
        method, inputs = self._own(forward, batch)
        asked = [(inputs, batch["valid"], "")]
        if self.negatives == "random":
            name = f"pictures of {self.shift} rows further on"
            told = {word: batch[word] for word in ("valid", *self._identities(batch))}
            made = forward.once(name, {**inputs, **told}, lambda: self._shifted(inputs, batch))
            asked.append(made)
        else:
            asked += self._chosen(forward, inputs, batch)
        for given, which, key in asked:
            yield Pair(forward(method, given, key=key), which, given is inputs)

    def divided(self, forward: Forward, batch: Batch, others: Iterable[Others]) -> Iterator[Pair]:
        """As `pairs`, of a micro-batch, whose rows' others were told before.

        Args:
          forward: of the micro-batch.
          batch: the micro-batch.
          others: of these rows, as ready for the model as the batch is.
        """
        method, inputs = self._own(forward, batch)
        yield Pair(forward(method, inputs), batch["valid"], True)
        for other in others:
            swapped = self._swapped(forward, batch, other)
            yield Pair(forward(method, {**inputs, **swapped}, key=other.key), other.asked, False)

    def told(self, forward: Forward, batch: Batch) -> Embeddings:
        """What has to be known of every row before others are told; {} for 'random'."""
        if self.negatives == "random":
            return {}
        _, inputs = self._own(forward, batch)
        image, text = self._encoded(inputs)
        return {"image": image.embedding, "text": text.embedding}

    def others(self, forward: Forward, batch: Batch, told: Embeddings) -> list[Others]:
        """For each row of a whole batch what its text or picture is put together with.

        Args:
          forward: for the model's scalars and the step's random key; runs no tower.
          batch: as stored.
          told: of `told`, the whole batch's.
        """
        if self.negatives == "random":
            self._check_shift(batch)
            words = self._words(batch, of_text=False)
            moved = {word: jnp.roll(x, -self.shift, axis=0) for word, x in words.items()}
            return [Others(moved, self._unlike(batch), False)]
        chosen, mesh = self._choose(forward, told["image"], told["text"], batch)
        rows = batch["valid"].shape[0]
        return [
            Others(
                take_rows(self._words(batch, of_text), _instead(one, rows, mesh), mesh),
                one.found,
                of_text,
            )
            for one, of_text in zip(chosen, (True, False), strict=True)
        ]

    def _own(self, forward: Forward, batch: Batch) -> tuple[str, dict[str, Any]]:
        """(method, inputs) of the rows as they are."""
        view = self.view
        return forward.apart(view.method, forward.inputs(view, replaced(batch, self.replace)))

    def _swapped(self, forward: Forward, batch: Batch, other: Others) -> dict[str, Any]:
        """The inputs that are the other rows', by what the model makes of their words."""
        view, theirs = self.view, {**replaced(batch, self.replace), **other.words}
        made = forward.made_of(view.method)
        only = None if made is None else {n for n in made.parts if (n in TEXT) == other.of_text}
        _, inputs = forward.apart(view.method, forward.inputs(view, theirs), only=only)
        return {n: x for n, x in inputs.items() if (n in TEXT) == other.of_text}

    def _words(self, batch: Batch, of_text: bool) -> dict[str, Any]:
        """What a pass over other rows' texts, or pictures, reads of them."""
        given = replaced(batch, self.replace)
        wanted = {word for word in self.view.words if (word in TEXT) == of_text}
        return {word: given[word] for word in sorted({*wanted, "row"}) if word in given}

    def _shifted(self, inputs: dict[str, Any], batch: Batch) -> tuple[dict[str, Any], Any, str]:
        """(texts with the pictures of rows further on, which pairs are asked about, name)."""
        self._check_shift(batch)

        def moved(tree: Any) -> Any:
            return jax.tree.map(lambda x: jnp.roll(x, -self.shift, axis=0), tree)

        given = {name: x if name in TEXT else moved(x) for name, x in inputs.items()}
        return given, self._unlike(batch), "wrong picture"  # its own draws of dropout

    def _check_shift(self, batch: Batch) -> None:
        rows = batch["valid"].shape[0]
        if rows <= self.shift:
            raise ValueError(
                f"a batch of {rows} rows has none {self.shift} further on; lower shift."
            )

    def _unlike(self, batch: Batch) -> Bool[Any, " batch"]:
        """Where a row's text and the other row's picture are real and of different things."""
        asked = batch["valid"] & jnp.roll(batch["valid"], -self.shift)
        for word in self._identities(batch):
            other = jnp.roll(batch[word], -self.shift, axis=0)
            asked &= jnp.any(batch[word] != other, axis=1)
        return asked

    def _identities(self, batch: Batch) -> tuple[str, ...]:
        """The words that tell what may match all the same, as far as they are there."""
        return tuple(word for word in ("sample_id", *IDENTITIES) if word in batch)

    def _encoded(self, inputs: Mapping[str, Any]) -> tuple[Encoded, Encoded]:
        image, text = inputs.get("image"), inputs.get("text")
        if not (isinstance(image, Encoded) and isinstance(text, Encoded)):
            raise ValueError(
                f"negatives={self.negatives!r} are chosen by what two towers find similar, and "
                f"this model does not make {self.fuse[0]!r} of encode_image and encode_text. Take "
                "a GeneralFusion, or negatives='random'."
            )
        return image, text

    def _chosen(
        self, forward: Forward, inputs: dict[str, Any], batch: Batch
    ) -> list[tuple[dict[str, Any], Any, str]]:
        """[(inputs, which pairs are asked about, name)]: pictures with wrong texts; the reverse."""
        image, text = self._encoded(inputs)
        chosen, mesh = self._choose(forward, image.embedding, text.embedding, batch)
        rows = batch["valid"].shape[0]

        def other(chosen: Chosen, of_text: bool, key: str) -> tuple[dict[str, Any], Any, str]:
            swapped = {
                name: x._replace(embedding=None) if isinstance(x, Encoded) else x
                for name, x in inputs.items()
                if (name in TEXT) == of_text
            }
            taken = take_rows(swapped, _instead(chosen, rows, mesh), mesh)
            return {**inputs, **taken}, chosen.found, key

        return [other(chosen[0], True, "wrong text"), other(chosen[1], False, "wrong picture")]

    def _choose(
        self, forward: Forward, image: Any, text: Any, batch: Batch
    ) -> tuple[tuple[Chosen, Chosen], Any]:
        """((a text for each picture, a picture for each text), the mesh that is traced for)."""
        mesh, rows = current_mesh(), batch["valid"].shape[0]
        shards = row_shards(mesh)
        if rows % shards:
            raise ValueError(
                f"negatives={self.negatives!r}: a batch of {rows} rows is no multiple of the "
                f"{shards} parts into which the mesh cuts it. Take "
                f"{rows // shards * shards or shards}."
            )
        words = [word for word in IDENTITIES if word in batch]
        told = {word: batch[word] for word in ("valid", "sample_id", *words)}
        vectors, sides = lay_out_ring({"image": image, "text": text, **told}, words)
        return self._drawn(forward, vectors, sides, mesh), mesh

    def _drawn(
        self, forward: Forward, vectors: tuple[Any, Any], sides: Sides, mesh: Any
    ) -> tuple[Chosen, Chosen]:
        if self.negatives == "hardest":
            return hard_negatives(vectors, sides, mesh)
        scale = jnp.exp(forward("scalars", {})["log_scale"].astype(jnp.float32))
        key = forward.random("matching negatives")
        return hard_negatives(vectors, sides, mesh, "sampled", scale, key)


def _instead(chosen: Chosen, rows: int, mesh: Any) -> Any:
    """The chosen rows; of a row without a wrong one its own, which is real and not asked about."""
    return jnp.where(chosen.found, chosen.row, row_numbers(rows, mesh))


class Paired(Objective):
    """An objective about texts and pictures of one row or of two, put together by a `Pairing`.

    It sums over pairs, and its count depends on the batch and on what was put together alone. It
    has no memory.
    """

    @property
    @abc.abstractmethod
    def pairing(self) -> Pairing:
        """Which texts and pictures are put together; objectives with equal ones share passes."""

    @abc.abstractmethod
    def of_pairs(self, forward: Forward, batch: Batch, pairs: Iterable[Pair]) -> Loss:
        """The sums over the pairs of a batch, or of a part of one."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The words that the pairs' pass reads."""
        return self.pairing.needs

    def __call__(self, forward: Forward, batch: Batch, state: PyTree) -> Loss:
        """The pairs of a whole batch, scored."""
        made = self.of_pairs(forward, batch, self.pairing.pairs(forward, batch))
        return dataclasses.replace(made, state=state)
