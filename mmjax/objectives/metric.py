"""Losses on distances: a pair has to lie nearer together than what does not belong together."""

import abc
import dataclasses

import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax.objectives.base import Embeddings, Loss, Scalars
from mmjax.objectives.double_float import MASKED
from mmjax.objectives.pairs import (
    Compared,
    Pairs,
    accuracies,
    counted_accuracies,
    lay_out,
    lay_out_ring,
    similarities,
)
from mmjax.objectives.ranking_ring import SMALLEST_SQUARE, Rule, ranking_ring
from mmjax.parallel.ring import CHUNK_COLUMNS
from mmjax.parallel.sharding import constrain
from mmjax.typing import Array, Bool, Float, PyTree

DISTANCES = ("cosine", "euclidean", "squared_euclidean")
NEGATIVES = ("hardest", "semi_hard", "all")


@dataclasses.dataclass(frozen=True)
class Ranking(Pairs):
    """Base of the losses that ask each row's own pair to be nearer than its negatives.

    Rows that are positives otherwise (same sample, caption or group) are no negatives. Both sides
    ask: each picture among the texts, each text among the pictures; the two are added.

    Args:
      image: (method, words) of the first side.
      text: (method, words) of the second side.
      positives: identity words, of 'caption_id' and 'group', that make further positives.
      margin: in units of the distance, above 0.
      distance: between embeddings of unit length: 'cosine' (1 - similarity, 0 to 2), 'euclidean'
        (0 to 2) or 'squared_euclidean' (0 to 4).

    Raises:
      ValueError: a number or name that is not allowed.
    """

    margin: float = 0.2
    distance: str = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin <= 0:
            raise ValueError(f"margin={self.margin}: above 0 is needed.")
        if self.distance not in DISTANCES:
            raise ValueError(f"distance={self.distance!r} is none of {', '.join(DISTANCES)}.")

    @property
    @abc.abstractmethod
    def asked(self) -> str:
        """The same as `rank` for a ring: 'hardest', 'semi_hard', 'all' or 'sum'."""

    @abc.abstractmethod
    def rank(
        self,
        own: Float[Array, "batch"],
        distances: Float[Array, "images texts"],
        negative: Bool[Array, "images texts"],
        axis: int,
    ) -> Float[Array, "batch"]:
        """The loss of each asking row.

        Args:
          own: distance of each row to its own pair.
          distances: of each picture to each text.
          negative: where a pair counts as wrong.
          axis: the axis of the answers, 1 for texts, 0 for pictures.
        """

    def compare(self, embeddings: Embeddings, scalars: Scalars, state: PyTree) -> Loss:
        """The loss over the global batch, in float32; the scalars are not used."""
        rings, mesh = self.ring_mesh(embeddings)
        if rings:
            return self._compare_round(embeddings, mesh, state)
        compared = lay_out(embeddings, self.positives)
        own, distances = _distances(compared, self.distance)
        total = jnp.float32(0)
        metrics = accuracies(-distances, compared)
        for name, axis in (("image_to_text", 1), ("text_to_image", 0)):
            asking = own if axis == 1 else constrain(own, None)
            losses = self.rank(asking, distances, compared.negative, axis)
            losses = jnp.where(compared.valid, losses, 0.0)
            total += jnp.sum(losses)
            # Where no row is active any more there is nothing left to learn from.
            active = jnp.sum(losses > 0, dtype=jnp.float32)
            metrics[f"active/{name}"] = (active, compared.count)
        return Loss(total, compared.count, metrics, state)

    def _compare_round(self, embeddings: Embeddings, mesh: Mesh | None, state: PyTree) -> Loss:
        vectors, sides = lay_out_ring(embeddings, self.positives)
        image, text = vectors
        if self.distance == "cosine":
            own = 1 - jnp.sum(image * text, axis=1)
            squares = own, jnp.zeros_like(own), jnp.zeros_like(own)
        else:
            both = ((image - text) ** 2, image**2, text**2)
            squares = tuple(jnp.sum(x, axis=1) for x in both)
        rule = Rule(self.distance, self.margin, self.asked)
        total, counts = ranking_ring(vectors, squares, sides, rule, mesh, CHUNK_COLUMNS)
        count = jnp.sum(sides.valid, dtype=jnp.float32)
        metrics = counted_accuracies(counts["hits"], count)
        for name, active in zip(("image_to_text", "text_to_image"), counts["active"]):
            metrics[f"active/{name}"] = (active, count)
        return Loss(total, count, metrics, state)

    def hinges(
        self, own: Float[Array, "batch"], distances: Float[Array, "images texts"], axis: int
    ) -> Float[Array, "images texts"]:
        """max(0, margin + own - distance) of each pair."""
        return jnp.maximum(self.margin + jnp.expand_dims(own, axis) - distances, 0.0)


@dataclasses.dataclass(frozen=True)
class Triplet(Ranking):
    """One wrong answer a row, chosen in the batch, has to be farther away by the margin.

    Args:
      image: (method, words) of the first side.
      text: (method, words) of the second side.
      positives: identity words, of 'caption_id' and 'group', that make further positives.
      margin: in units of the distance, above 0.
      distance: 'cosine', 'euclidean' or 'squared_euclidean'.
      negatives: 'hardest', the nearest wrong one; 'semi_hard', the nearest that is farther away
        than the right one, or the farthest where none is; 'all', the mean over all.

    Raises:
      ValueError: a number or name that is not allowed.

    Source: Schroff et al., "FaceNet", equations 1 and 4, with the farthest negative for want of a
    semi-hard one as in TensorFlow Addons' `triplet_semihard_loss`; 'hardest' is Faghri et al.,
    "VSE++", equation 6.
    """

    negatives: str = "hardest"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.negatives not in NEGATIVES:
            raise ValueError(f"negatives={self.negatives!r} is none of {', '.join(NEGATIVES)}.")

    @property
    def asked(self) -> str:
        """The choice of negatives."""
        return self.negatives

    def rank(
        self,
        own: Float[Array, "batch"],
        distances: Float[Array, "images texts"],
        negative: Bool[Array, "images texts"],
        axis: int,
    ) -> Float[Array, "batch"]:
        """The loss of each asking row; 0 where it has no negative."""
        if self.negatives == "all":
            hinges = jnp.where(negative, self.hinges(own, distances, axis), 0.0)
            return jnp.sum(hinges, axis) / jnp.maximum(jnp.sum(negative, axis), 1)
        far = -MASKED
        chosen = jnp.min(jnp.where(negative, distances, far), axis)
        if self.negatives == "semi_hard":
            semi_hard = negative & (distances > jnp.expand_dims(own, axis))
            nearest = jnp.min(jnp.where(semi_hard, distances, far), axis)
            farthest = jnp.max(jnp.where(negative, distances, -far), axis)
            chosen = jnp.where(jnp.any(semi_hard, axis), nearest, farthest)
        hinges = jnp.maximum(self.margin + own - chosen, 0.0)
        return jnp.where(jnp.any(negative, axis), hinges, 0.0)


@dataclasses.dataclass(frozen=True)
class Margin(Ranking):
    """The max-margin ranking loss: each wrong answer costs what it is too near by.

    Unlike `Triplet` with all negatives it sums over them: more negatives weigh more.

    Args:
      image: (method, words) of the first side.
      text: (method, words) of the second side.
      positives: identity words, of 'caption_id' and 'group', that make further positives.
      margin: in units of the distance, above 0.
      distance: 'cosine', 'euclidean' or 'squared_euclidean'.

    Raises:
      ValueError: a number or name that is not allowed.

    Source: Kiros et al., "Unifying Visual-Semantic Embeddings with Multimodal Neural Language
    Models", the pairwise ranking loss of section 2.
    """

    @property
    def asked(self) -> str:
        """The sum over all negatives."""
        return "sum"

    def rank(
        self,
        own: Float[Array, "batch"],
        distances: Float[Array, "images texts"],
        negative: Bool[Array, "images texts"],
        axis: int,
    ) -> Float[Array, "batch"]:
        """The loss of each asking row."""
        return jnp.sum(jnp.where(negative, self.hinges(own, distances, axis), 0.0), axis)


def _distances(
    compared: Compared, distance: str
) -> tuple[Float[Array, "batch"], Float[Array, "images texts"]]:
    """(of each row to its own pair, of each picture to each text)."""
    image, text, texts = compared.image, compared.text, compared.texts
    products = similarities(image, texts)
    if distance == "cosine":
        return 1 - jnp.sum(image * text, axis=1), 1 - products
    own = jnp.sum((image - text) ** 2, axis=1)
    squares = jnp.sum(image**2, axis=1)[:, None] + jnp.sum(texts**2, axis=1)[None] - 2 * products
    squares = jnp.maximum(squares, 0.0)
    if distance == "squared_euclidean":
        return own, squares
    return _root(own), _root(squares)


def _root(squares: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The square root, its slope bounded."""
    return jnp.sqrt(jnp.maximum(squares, SMALLEST_SQUARE))
