"""Masked regions of a picture: what they are, told from the other regions and the text."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mmjax.objectives.base import Additive, Forward, Loss
from mmjax.objectives.masked_lm import scored
from mmjax.objectives.replacing import Replace, check_replace, read_words, replaced
from mmjax.typing import Array, Batch, Bool, Float, PyTree, View

SEEN = View("fuse", ("token_ids", "text_mask", "regions", "boxes", "region_mask"))
MASKED: Replace = (("regions", "masked_regions"),)
HEADS = {"class": "object", "feature": "feature", "kl": "object"}
LABELS = {
    "object": ("object_labels", "object_confidence"),
    "attribute": ("attribute_labels", "attribute_confidence"),
}
OVER = ("asked", "all")


@dataclasses.dataclass(frozen=True)
class MaskedRegions(Additive):
    """What stood where regions were masked, by the labels or the features of a detector.

    A region counts where it is real, in a real row, and asked for ('region_asked'); for 'class' it
    must have a label, for 'kl' probabilities. The loss is the sum over these regions of the value
    of `form`, divided by their number, or by `share` times the number of real regions.

    With a row's several pictures the regions of all of them are taken together.

    Args:
      fuse: (method, words) by which the model looks at text and regions together.
      form: 'class': the cross-entropy of the detector's label, times its confidence (LXMERT);
        'feature': the smooth L1 distance of the features as they were, mean over these: half the
        square up to 1, and the distance less a half beyond (LXMERT; the paper says L2, the code
        does this); 'kl': the Kullback-Leibler divergence of a softmax over classes from the
        detector's probabilities (ViLBERT).
      head: which of the model's region scores are read; '' is 'feature' for 'feature' and 'object'
        for the others. For 'class' it may be 'attribute'.
      replace: see `MaskedLm`.
      over: 'asked', or 'all' for each real region, masked or not, as LXMERT's own code does for
        'class'.
      share: the part of the real regions that the sum is divided by, above 0; None divides by the
        regions that count. LXMERT's code has 0.15, which with `over='all'` is more than a mean.

    Source: Tan and Bansal 2019 (LXMERT), section 3.1.2, and airsplay/lxmert, src/lxrt/modeling.py
    `LXRTPretraining`; Lu et al. 2019 (ViLBERT), section 3.1.
    """

    fuse: tuple[str, tuple[str, ...]] = SEEN
    form: str = "class"
    head: str = ""
    replace: Replace = MASKED
    over: str = "asked"
    share: float | None = None

    def __post_init__(self) -> None:
        check_replace(self.fuse, self.replace, "regions")
        if self.form not in HEADS:
            raise ValueError(f"form={self.form!r} is none of {', '.join(HEADS)}.")
        if self.over not in OVER:
            raise ValueError(f"over={self.over!r} is none of {', '.join(OVER)}.")
        if self.form == "class" and self._head not in LABELS:
            raise ValueError(
                f"head={self.head!r}: labels are of {' or '.join(LABELS)} for form='class'."
            )
        if self.share is not None and not self.share > 0:
            raise ValueError(f"share={self.share}; give a number above 0, or None.")

    @property
    def _head(self) -> str:
        return self.head or HEADS[self.form]

    @property
    def needs(self) -> tuple[str, ...]:
        """The words of the model's view, masked ones in place of some, and what is asked for."""
        targets = {"class": LABELS.get(self._head, ()), "feature": ("regions",)}
        words = (
            *read_words(self.fuse, self.replace),
            "region_mask",
            *(("region_asked",) if self.over == "asked" else ()),
            *targets.get(self.form, ("region_classes",)),
        )
        return tuple(dict.fromkeys(words))

    def __call__(self, forward: Forward, batch: Batch, state: PyTree) -> Loss:
        """The mean over regions; 'accuracy' is the share of them whose likeliest class is right.

        A label beyond the head's classes makes the loss not-a-number, which the step does not take.

        Raises:
          ValueError: the model does not give these scores, or of another number of classes or
            features than the data has.
        """
        fused = forward.view(View(*self.fuse), replaced(batch, self.replace))
        found = forward("region_logits", {"tokens": fused.image})
        if self._head not in found:
            raise ValueError(
                f"the model's 'regions' head gives {', '.join(found)}, not {self._head!r}; choose "
                "another head, or add it to the model's region_outputs."
            )
        scores = found[self._head].astype(jnp.float32)
        rows = scores.shape[0]
        real = batch["region_mask"].reshape(rows, -1) & batch["valid"][:, None]
        counted = real
        if self.over == "asked":
            counted = real & batch["region_asked"].reshape(rows, -1)
        if self.form == "class":
            labels, confidence = (batch[word].reshape(rows, -1) for word in LABELS[self._head])
            counted &= labels >= 0
            values, right = scored(scores, jnp.maximum(labels, 0))
            values = values * confidence.astype(jnp.float32)
        else:
            word = "regions" if self.form == "feature" else "region_classes"
            wanted = batch[word].reshape(rows, -1, batch[word].shape[-1]).astype(jnp.float32)
            if wanted.shape != scores.shape:
                raise ValueError(
                    f"{word!r} is {wanted.shape} and the model's {self._head!r} scores are "
                    f"{scores.shape}; make the head as wide as the data."
                )
            if self.form == "kl":
                counted &= jnp.any(wanted > 0, axis=-1)
            values = VALUES[self.form](scores, wanted)
            right = jnp.argmax(scores, axis=-1) == jnp.argmax(wanted, axis=-1)
        number = _count(counted)
        count = number if self.share is None else self.share * _count(real)
        total = jnp.sum(jnp.where(counted, values, 0.0))
        metrics = {} if self.form == "feature" else {"accuracy": (_count(counted & right), number)}
        return Loss(total, count, metrics, state)


def smooth_distance(
    scores: Float[Array, "batch regions features"], wanted: Float[Array, "batch regions features"]
) -> Float[Array, "batch regions"]:
    """Mean over features of half the square up to 1, and the distance less a half beyond."""
    far = jnp.abs(scores - wanted)
    near = jnp.minimum(far, 1.0)
    return jnp.mean(near * (far - 0.5 * near), axis=-1)


def divergence(
    scores: Float[Array, "batch regions classes"], wanted: Float[Array, "batch regions classes"]
) -> Float[Array, "batch regions"]:
    """Σ wanted · (log wanted - log softmax), with 0 · log 0 = 0."""
    logs = jnp.log(jnp.where(wanted > 0, wanted, 1.0))
    return jnp.sum(wanted * (logs - jax.nn.log_softmax(scores, axis=-1)), axis=-1)


VALUES: dict[str, Callable[..., Array]] = {"feature": smooth_distance, "kl": divergence}


def _count(where: Bool[Array, "batch regions"]) -> Float[Array, ""]:
    return jnp.sum(where, dtype=jnp.float32)
