"""What all objectives over pairs of pictures and texts share: views, positives, accuracy.

Every one of them compares each picture of the global batch with each text of it, in one of two
ways with the same outcome. Gathered, the texts are whole on each device, the pictures stay where
they are, and similarities are [batch, batch] with rows cut over the devices. Over a ring, blocks
of texts pass from device to device, and no device ever holds more than one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax.objectives.base import Coupled, Embeddings, Forward
from mmjax.objectives.double_float import MASKED, matmul
from mmjax.parallel.ring import row_shards
from mmjax.parallel.sharding import constrain, current_mesh
from mmjax.typing import Array, Batch, Bool, Float, Int, View

IMAGE = View("encode_image", ("image", "row"))
TEXT = View("encode_text", ("token_ids", "text_mask", "row"))
IDENTITIES = ("caption_id", "group")
COMPARISONS = ("auto", "gather", "ring")

# 'auto' gathers as long as one device's logits, [local batch, global batch] in float32, take no
# more: fewer hops. A gradient needs six to eight times that, a ring none of it.
GATHER_BYTES = 1 << 22
# The same of a device that compares alone, where a ring of one only cuts the logits into blocks.
ALONE_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True)
class Pairs(Coupled):
    """Base of the objectives that compare each picture with each text of the global batch.

    The positives of a row are always its own pair and the rows of the same source sample, which
    may stand in a batch twice.

    Args:
      image: (method, words) of the first side.
      text: (method, words) of the second side.
      positives: further identity words of the batch, of 'caption_id' and 'group': rows in which
        one of them is equal are positives of each other too.
      comparison: 'gather' brings all texts to each device, whose logits then grow with the number
        of devices; 'ring' passes them round and needs memory of the local batch alone; 'auto'
        gathers while the logits of a device stay under 4 MiB (`GATHER_BYTES`), or under 256 MiB
        where it compares alone (`ALONE_BYTES`).

    Raises:
      ValueError: a word that is no identity, a comparison that there is not.
    """

    reads_tokens: ClassVar[bool] = False

    image: tuple[str, Sequence[str]] = IMAGE
    text: tuple[str, Sequence[str]] = TEXT
    positives: Sequence[str] = ()
    comparison: str = "auto"

    def __post_init__(self) -> None:
        if self.comparison not in COMPARISONS:
            raise ValueError(f"comparison={self.comparison!r} is none of {', '.join(COMPARISONS)}.")
        for word in self.positives:
            if word not in IDENTITIES:
                raise ValueError(
                    f"positives={tuple(self.positives)}: {word!r} is none of "
                    f"{', '.join(IDENTITIES)} (the same sample is always positive)."
                )

    @property
    def needs(self) -> tuple[str, ...]:
        """Words of both views, and those that say which rows are real and which are equal."""
        words = (*self.image[1], *self.text[1], "valid", "sample_id", *self.positives)
        return tuple(dict.fromkeys(words))

    def ring_mesh(self, embeddings: Embeddings) -> tuple[bool, Mesh | None]:
        """(whether the texts go round in a ring, the mesh being traced for).

        Raises:
          ValueError: a ring was asked for, and the mesh does not divide the batch.
        """
        mesh, batch = current_mesh(), embeddings["valid"].shape[0]
        shards = row_shards(mesh)
        if self.comparison == "ring" and batch % shards:
            raise ValueError(
                f"comparison='ring': a batch of {batch} rows is no multiple of the {shards} parts "
                f"into which the mesh cuts it. Take {batch // shards * shards or shards}."
            )
        most = GATHER_BYTES if shards > 1 else ALONE_BYTES
        large = batch // shards * batch * 4 > most
        rings = mesh is not None and batch % shards == 0 and large
        return self.comparison == "ring" or (self.comparison == "auto" and rings), mesh

    def embed(self, forward: Forward, batch: Batch) -> Embeddings:
        """'image' and 'text' at unit length, 'valid', and the identity words as they are."""
        words = ("valid", "sample_id", *self.positives)
        return {
            "image": forward.view(View(*self.image), batch).embedding,
            "text": forward.view(View(*self.text), batch).embedding,
            **{word: batch[word] for word in words},
        }


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sides:
    """Who the rows of a batch are, the same for a row's picture and its text.

    Attributes:
      valid: [batch] bool, True where a row is real.
      identities: [batch, words, 2] int32; rows with one of the words equal are positives.
    """

    valid: Any
    identities: Any


def lay_out_ring(
    embeddings: Embeddings, words: Sequence[str]
) -> tuple[tuple[Float[Array, "batch dim"], Float[Array, "batch dim"]], Sides]:
    """((pictures, texts), who they are) of `Pairs.embed`, each row on its own device alone.

    Args:
      embeddings: what `Pairs.embed` returned.
      words: identity words beside 'sample_id' that make positives.
    """
    valid = embeddings["valid"]
    identities = jnp.stack([embeddings[word] for word in ("sample_id", *words)], axis=1)
    vectors = tuple(
        jnp.where(valid[:, None], embeddings[name].astype(jnp.float32), 0.0)
        for name in ("image", "text")
    )
    return vectors, Sides(valid, identities)


def relation(
    rows: Sides, columns: Sides
) -> tuple[Bool[Array, "rows columns"], Bool[Array, "rows columns"]]:
    """(positive, negative): pairs of real rows that belong together, and the others."""
    both = rows.valid[:, None] & columns.valid[None, :]
    positive = jnp.zeros_like(both)
    for word in range(rows.identities.shape[1]):
        positive |= equal_identities(rows.identities[:, word], columns.identities[:, word])
    return both & positive, both & ~positive


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Compared:
    """The global batch laid out for comparison.

    Attributes:
      image: [batch, dim] float32, rows cut over devices; zeros where a row is not real.
      text: the same of the texts.
      texts: `text`, whole on each device.
      valid: [batch] bool, True where a row is real.
      positive: [batch, batch] bool, picture by text; False where either is not real.
      negative: [batch, batch] bool, the other pairs of which both are real.
    """

    image: Any
    text: Any
    texts: Any
    valid: Any
    positive: Any
    negative: Any

    @property
    def count(self) -> Float[Array, ""]:
        """Number of real rows."""
        return jnp.sum(self.valid, dtype=jnp.float32)


def lay_out(embeddings: Embeddings, words: Sequence[str]) -> Compared:
    """The batch of `Pairs.embed`, gathered and masked.

    Args:
      embeddings: what `Pairs.embed` returned.
      words: identity words beside 'sample_id' that make positives.
    """
    valid = embeddings["valid"]
    real = valid[:, None]
    image = jnp.where(real, embeddings["image"].astype(jnp.float32), 0.0)
    text = jnp.where(real, embeddings["text"].astype(jnp.float32), 0.0)
    positive = jnp.eye(valid.shape[0], dtype=bool)
    for word in ("sample_id", *words):
        positive |= equal_identities(embeddings[word], constrain(embeddings[word], None, None))
    both = real & constrain(valid, None)[None, :]
    positive = constrain(positive & both, "batch", None)
    return Compared(
        image=constrain(image, "batch", None),
        text=constrain(text, "batch", None),
        texts=constrain(text, None, None),
        valid=valid,
        positive=positive,
        negative=both & ~positive,
    )


def similarities(
    image: Float[Array, "images dim"], text: Float[Array, "texts dim"]
) -> Float[Array, "images texts"]:
    """Dot products in full float32, whole rows of them on each device.

    A TPU multiplies float32 matrices in bfloat16 unless told otherwise, and a scale of 100 makes
    that an error of 0.2 in the logits.
    """
    return constrain(matmul(image, text.T), "batch", None)


def counted_accuracies(hits: Sequence[Any], count: Any) -> dict[str, Any]:
    """The same as `accuracies` from the numbers of hits that a ring has counted."""
    names = "accuracy/image_to_text", "accuracy/text_to_image"
    return {name: (found, count) for name, found in zip(names, hits)}


def accuracies(scores: Float[Array, "images texts"], compared: Compared) -> dict[str, Any]:
    """How often a positive scores higher than all negatives, both ways, as (sum, count).

    A tie counts as a miss: embeddings that are all the same have an accuracy of 0.
    """
    best = jnp.where(compared.positive, scores, MASKED)
    wrong = jnp.where(compared.negative, scores, MASKED)
    found = {}
    for name, axis in (("image_to_text", 1), ("text_to_image", 0)):
        hits = (best.max(axis) > wrong.max(axis)) & compared.valid
        found[f"accuracy/{name}"] = (jnp.sum(hits, dtype=jnp.float32), compared.count)
    return found


def equal_identities(
    rows: Int[Array, "images two"], columns: Int[Array, "texts two"]
) -> Bool[Array, "images texts"]:
    """Where 64-bit identities, held as two words, are equal."""
    return (rows[:, None, 0] == columns[None, :, 0]) & (rows[:, None, 1] == columns[None, :, 1])
