"""What all objectives over pairs of pictures and texts share: views, positives, accuracy.

Every one of them compares each picture of the global batch with each text of it. The texts are
gathered on every device, the pictures stay where they are: similarities are [batch, batch] with
rows cut over the devices.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.objectives.base import Coupled, Embeddings, Forward
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Batch, Bool, Float, Int, View

IMAGE = View("encode_image", ("image", "row"))
TEXT = View("encode_text", ("token_ids", "text_mask", "row"))
IDENTITIES = ("caption_id", "group")

MASKED = -1e30  # instead of -inf: rows in which all is masked keep finite gradients


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

    Raises:
      ValueError: a word that is no identity.
    """

    image: tuple[str, Sequence[str]] = IMAGE
    text: tuple[str, Sequence[str]] = TEXT
    positives: Sequence[str] = ()

    def __post_init__(self) -> None:
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
        positive |= _equal(embeddings[word], constrain(embeddings[word], None, None))
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
    """Dot products in full float32.

    A TPU multiplies float32 matrices in bfloat16 unless told otherwise, and a scale of 100 makes
    that an error of 0.2 in the logits.
    """
    products = jnp.matmul(image, text.T, precision=jax.lax.Precision.HIGHEST)
    return constrain(products, "batch", None)


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


def _equal(
    rows: Int[Array, "images two"], columns: Int[Array, "texts two"]
) -> Bool[Array, "images texts"]:
    """Where 64-bit identities, held as two words, are equal."""
    return (rows[:, None, 0] == columns[None, :, 0]) & (rows[:, None, 1] == columns[None, :, 1])
