"""Classes of pictures: one of them, or any number."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.objectives.answering import binary
from mmjax.objectives.base import Additive, Forward, Loss
from mmjax.objectives.rows import over_rows
from mmjax.typing import Batch, PyTree, View

FORMS = ("softmax", "multi_label")
CLASSIFY = View("classify", ("image",))


@dataclasses.dataclass(frozen=True)
class Classification(Additive):
    """Which class a row is of ('label'), or which of all classes suit ('labels').

    Args:
      view: (method, words) of the model that gives one score a class.
      form: 'softmax' for one class a row, 'multi_label' for any number.
      smoothing: part of the target that is spread over all classes alike, 0 to below 1; for
        'softmax' alone.

    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7, for smoothing.
    """

    view: tuple[str, tuple[str, ...]] = CLASSIFY
    form: str = "softmax"
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form={self.form!r} is none of {', '.join(FORMS)}.")
        if not 0 <= self.smoothing < 1 or (self.smoothing and self.form != "softmax"):
            raise ValueError(
                f"smoothing={self.smoothing}: give 0 to below 1, and 0 unless form='softmax'."
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """The words of the model's view, and 'label' or 'labels'."""
        return (*View(*self.view).words, "label" if self.form == "softmax" else "labels")

    def __call__(self, forward: Forward, batch: Batch, state: PyTree) -> Loss:
        """The mean over rows, and the share of rows (of all classes, for several) told rightly.

        A label outside of the classes makes the row not-a-number, which the step does not take.
        """
        logits = forward.view(View(*self.view), batch).astype(jnp.float32)
        if self.form == "multi_label":
            labels = batch["labels"].astype(jnp.float32)
            right = jnp.mean((logits > 0) == (labels > 0.5), axis=1, dtype=jnp.float32)
            return over_rows(batch, binary(logits, labels), state, {"accuracy": right})
        label, classes = batch["label"], logits.shape[1]
        logs = jax.nn.log_softmax(logits, axis=1)
        known = (label >= 0) & (label < classes)
        own = jnp.take_along_axis(logs, jnp.clip(label, 0, classes - 1)[:, None], axis=1)[:, 0]
        values = -(1 - self.smoothing) * own - self.smoothing * jnp.mean(logs, axis=1)
        values = jnp.where(known, values, jnp.nan)
        others = jnp.where(jax.nn.one_hot(label, classes, dtype=bool), -jnp.inf, logits)
        score = jnp.take_along_axis(logits, jnp.clip(label, 0, classes - 1)[:, None], axis=1)[:, 0]
        return over_rows(
            batch, values, state, {"accuracy": (score > others.max(axis=1)).astype(jnp.float32)}
        )
