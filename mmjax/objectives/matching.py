"""Whether a text tells of a picture, asked of a model that looks at both together."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmjax.objectives.answering import FUSE
from mmjax.objectives.base import Forward, Loss, Objective
from mmjax.objectives.hard_negatives import CHOICES, Chosen, hard_negatives
from mmjax.objectives.pairs import IDENTITIES, Sides, lay_out_ring
from mmjax.objectives.replacing import Replace, check_replace, read_words, replaced
from mmjax.parallel.ring import row_numbers, row_shards
from mmjax.parallel.rows import take_rows
from mmjax.parallel.sharding import current_mesh
from mmjax.typing import Array, Batch, Bool, Encoded, Float, PyTree, View

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


@dataclasses.dataclass(frozen=True)
class Matching(Objective):
    """Each text with its own picture, and with pictures and texts of other rows of the batch.

    A pair that might match all the same (one sample, one caption or one group) is not asked about.
    The loss is the cross-entropy of a sigmoid over all pairs that are asked about.

    'random' takes for each text the picture `shift` rows further on, which is a random one since
    rows come shuffled: as many wrong pairs as right ones. 'hardest' and 'sampled' take for each
    picture a wrong text and for each text a wrong picture out of the global batch, by how similar
    the model's two towers find them: the most similar one, or one drawn by a softmax over the
    scaled similarities. What the towers made of the chosen rows travels to where it is asked for,
    nothing else does, and no tower runs again. The model must say that it makes its `fuse` of
    `encode_image` and `encode_text` (`made_of`), as `GeneralFusion` does.

    Rows see each other, so a batch in micro-batches is refused.

    Args:
      fuse: (method, words) by which the model looks at text and picture together.
      shift: how many rows further on the wrong picture is taken from; for 'random' alone.
      negatives: 'random', 'hardest' or 'sampled'.
      replace: see `MaskedLm`; then the right pairs are those of its pass.

    Source: Chen et al. 2020 (UNITER), section 3.2; Tan and Bansal 2019 (LXMERT), section 3.1.2; for
    'sampled' Li et al. 2021 (ALBEF), section 3.2.
    """

    fuse: tuple[str, tuple[str, ...]] = FUSE
    shift: int = 1
    negatives: str = "random"
    replace: Replace = ()

    def __post_init__(self) -> None:
        check_replace(self.fuse, self.replace)
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

    def __call__(self, forward: Forward, batch: Batch, state: PyTree) -> Loss:
        """The mean over pairs, and the share of pairs that are told rightly."""
        total, count, right = (jnp.zeros((), jnp.float32) for _ in range(3))
        for pair in self.pairs(forward, batch):
            logits = forward("matching_logits", {"fused": pair.fused}).astype(jnp.float32)
            odds = -logits if pair.right else logits  # of being told wrongly
            total += _summed(jax.nn.softplus(odds), pair.asked)
            right += _summed((odds < 0).astype(jnp.float32), pair.asked)
            count += jnp.sum(pair.asked, dtype=jnp.float32)
        return Loss(total, count, {"accuracy": (right, count)}, state)

    def pairs(self, forward: Forward, batch: Batch) -> Iterator[Pair]:
        """The right pairs, then the wrong ones; random ones asked for again run no model.

        Raises:
          ValueError: a batch of no more rows than the shift; for chosen negatives a batch that the
            mesh does not divide, or a model that does not make `fuse` of its two towers.
        """
        view = View(*self.fuse)
        method, inputs = forward.apart(
            view.method, forward.inputs(view, replaced(batch, self.replace))
        )
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

    def _shifted(self, inputs: dict[str, Any], batch: Batch) -> tuple[dict[str, Any], Any, str]:
        """(texts with the pictures of rows further on, which pairs are asked about, name)."""
        rows = batch["valid"].shape[0]
        if rows <= self.shift:
            raise ValueError(
                f"a batch of {rows} rows has none {self.shift} further on; lower shift."
            )

        def moved(tree: Any) -> Any:
            return jax.tree.map(lambda x: jnp.roll(x, -self.shift, axis=0), tree)

        given = {name: x if name in TEXT else moved(x) for name, x in inputs.items()}
        return given, self._unlike(batch), "wrong picture"  # its own draws of dropout

    def _unlike(self, batch: Batch) -> Bool[Array, " batch"]:
        """Where a row's text and the other row's picture are real and of different things."""
        asked = batch["valid"] & jnp.roll(batch["valid"], -self.shift)
        for word in self._identities(batch):
            other = jnp.roll(batch[word], -self.shift, axis=0)
            asked &= jnp.any(batch[word] != other, axis=1)
        return asked

    def _identities(self, batch: Batch) -> tuple[str, ...]:
        """The words that tell what may match all the same, as far as they are there."""
        return tuple(word for word in ("sample_id", *IDENTITIES) if word in batch)

    def _chosen(
        self, forward: Forward, inputs: dict[str, Any], batch: Batch
    ) -> list[tuple[dict[str, Any], Any, str]]:
        """[(inputs, which pairs are asked about, name)]: pictures with wrong texts; the reverse."""
        image, text = inputs.get("image"), inputs.get("text")
        if not (isinstance(image, Encoded) and isinstance(text, Encoded)):
            raise ValueError(
                f"negatives={self.negatives!r} are chosen by what two towers find similar, and "
                f"this model does not make {self.fuse[0]!r} of encode_image and encode_text. Take "
                "a GeneralFusion, or negatives='random'."
            )
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
        embeddings = {"image": image.embedding, "text": text.embedding, **told}
        vectors, sides = lay_out_ring(embeddings, words)
        for_pictures, for_texts = self._choose(forward, vectors, sides, mesh)

        def other(chosen: Chosen, of_text: bool, key: str) -> tuple[dict[str, Any], Any, str]:
            swapped = {
                name: x._replace(embedding=None) if isinstance(x, Encoded) else x
                for name, x in inputs.items()
                if (name in TEXT) == of_text
            }
            # Of a row without a wrong one its own stands in, which is real and not asked about.
            row = jnp.where(chosen.found, chosen.row, row_numbers(rows, mesh))
            return {**inputs, **take_rows(swapped, row, mesh)}, chosen.found, key

        return [other(for_pictures, True, "wrong text"), other(for_texts, False, "wrong picture")]

    def _choose(
        self, forward: Forward, vectors: tuple[Any, Any], sides: Sides, mesh: Any
    ) -> tuple[Chosen, Chosen]:
        """(a text for each picture, a picture for each text)."""
        if self.negatives == "hardest":
            return hard_negatives(vectors, sides, mesh)
        scale = jnp.exp(forward("scalars", {})["log_scale"].astype(jnp.float32))
        key = forward.random("matching negatives")
        return hard_negatives(vectors, sides, mesh, "sampled", scale, key)


def _summed(values: Float[Array, " batch"], where: Bool[Array, " batch"]) -> Float[Array, ""]:
    return jnp.sum(jnp.where(where, values, 0.0))
