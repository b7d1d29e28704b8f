"""Heads that several models of text and picture have: words, answers, regions, plain scores."""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from mmjax.models.layers.compute import compute_type
from mmjax.models.layers.dense import Dense, product
from mmjax.models.layers.mlp import activation
from mmjax.typing import Array, Float

INITIAL = nn.initializers.normal(0.02)


def check_heads(heads: Sequence[str], known: Sequence[str]) -> None:
    """Raises ValueError for a head that a model cannot have."""
    unknown = [head for head in heads if head not in known]
    if unknown:
        raise ValueError(f"heads={heads!r}: {unknown[0]!r} is none of {', '.join(known)}.")


def need(heads: Sequence[str], head: str) -> None:
    """Raises ValueError for a model without this head."""
    if head not in heads:
        raise ValueError(f"This model has no {head!r} head; add it to heads={heads!r}.")


class WordsAsked(nn.Module):
    """Base of a model with a 'masked_lm' head, which shares its table with the tower that reads.

    `reader` names the field of that tower.
    """

    reader: ClassVar[str] = "text"

    def masked_lm_logits(
        self, tokens: Float[Array, "batch places dim"]
    ) -> Float[Array, "batch places words"]:
        """Logits of all words, float32, for words that know of the picture: all or those asked for.

        Raises:
          ValueError: a model without this head.
        """
        need(self.heads, "masked_lm")
        tower = getattr(self, self.reader)
        table = tower.get_variable("params", "token_embedding")
        return self.masked_lm(tokens, table, "/".join((*tower.path, "token_embedding")))


class ScoreHead(nn.Module):
    """A dense layer in float32.

    Attributes:
      features: number of scores.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "*axes dim"]) -> Float[Array, "*axes features"]:
        layer = Dense(self.features, kernel_init=INITIAL, name="scores")
        return layer(x.astype(jnp.float32))


class AnswerHead(nn.Module):
    """Scores of answers: widen, activate, layer norm, narrow; float32.

    Attributes:
      num_answers: number of answers.
      hidden_dim: width between the two layers.
      activation: see `mmjax.models.layers.mlp.activation`.
      norm_epsilon: added to the variance in the layer norm.

    Source: airsplay/lxmert, src/tasks/vqa_model.py; facebookresearch/vilbert-multi-task,
    vilbert/vilbert.py `SimpleClassifier`.
    """

    num_answers: int
    hidden_dim: int
    activation: str = "gelu"
    norm_epsilon: float = 1e-12

    @nn.compact
    def __call__(self, pooled: Float[Array, "batch dim"]) -> Float[Array, "batch answers"]:
        def dense(features: int, name: str) -> Dense:
            return Dense(features, kernel_init=INITIAL, name=name)

        x = dense(self.hidden_dim, "up")(pooled.astype(jnp.float32))
        x = activation(self.activation)(x)
        x = nn.LayerNorm(epsilon=self.norm_epsilon, name="norm")(x)
        return dense(self.num_answers, "down")(x)


class RegionHead(nn.Module):
    """Scores at each region, of one kind or several, behind one dense layer, activation and norm.

    Attributes:
      outputs: ((name, number of scores), ...).
      activation: see `mmjax.models.layers.mlp.activation`.
      norm_epsilon: added to the variance in the layer norm.
      dtype: type to compute in up to the norm, see `compute_type`; the scores are float32.

    Source: Tan and Bansal 2019 (LXMERT), section 3.1.2; Lu et al. 2019 (ViLBERT), section 3.1.
    """

    outputs: tuple[tuple[str, int], ...]
    activation: str = "gelu"
    norm_epsilon: float = 1e-12
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "batch regions dim"]
    ) -> dict[str, Float[Array, "batch regions _"]]:
        dtype = compute_type(self.dtype)
        x = Dense(tokens.shape[-1], kernel_init=INITIAL, name="dense", dtype=dtype)(tokens)
        x = activation(self.activation)(x)
        x = nn.LayerNorm(epsilon=self.norm_epsilon, dtype=dtype, name="norm")(x)
        x = x.astype(jnp.float32)
        made = {}
        for name, features in self.outputs:
            made[name] = Dense(features, kernel_init=INITIAL, name=name)(x)
        return made


class ScaledDense(nn.Module):
    """A dense layer whose kernel is a direction, of length 1 as a whole, times one number.

    Attributes:
      features: width of the result.

    Source: Salimans and Kingma 2016, equation 2, with one norm over the whole kernel.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch dim"]) -> Float[Array, "batch features"]:
        kernel = self.param("kernel", INITIAL, (x.shape[-1], self.features))
        start = 0.02 * kernel.size**0.5  # the length of a kernel as it is drawn
        length = self.param("length", nn.initializers.constant(start), ())
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        made = product(x, kernel, "/".join((*self.path, "kernel")))
        return made * (length / jnp.linalg.norm(kernel)) + bias


class ScaledAnswerHead(nn.Module):
    """Scores of answers by two dense layers with ReLU between, each kernel scaled by one number.

    Attributes:
      num_answers: number of answers.
      hidden_dim: width between the two layers.

    Source: jiasenlu/vilbert_beta, vilbert/vilbert.py `SimpleClassifier`.
    """

    num_answers: int
    hidden_dim: int

    @nn.compact
    def __call__(self, pooled: Float[Array, "batch dim"]) -> Float[Array, "batch answers"]:
        x = ScaledDense(self.hidden_dim, name="up")(pooled.astype(jnp.float32))
        return ScaledDense(self.num_answers, name="down")(nn.relu(x))
