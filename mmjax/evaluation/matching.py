"""Whether a text's own picture suits it better than another one."""

import dataclasses
from typing import Any

import numpy as np

from mmjax.evaluation import errors
from mmjax.evaluation.base import Context, Evaluator, Result
from mmjax.evaluation.judging import Judged, judge
from mmjax.typing import View

__all__ = ["Matching", "draw_others"]

PICTURE_WORDS = ("image", "image_mask", "patches", "patch_mask", "patch_grid", "image_features")
PICTURE_WORDS += ("regions", "region_mask", "region_types", "boxes")
TRIES = 64


@dataclasses.dataclass(frozen=True)
class Matching(Evaluator):
    """The share of held-out texts whose own picture scores higher than one fixed wrong picture.

    The wrong picture of each text is drawn once by the seed among the other held-out pictures, of
    another group where the data has groups; chance is one half. A tie and a score that is no number
    count against the model.

    Attributes:
      method, words: how the model looks at text and picture together.
      head: its method that gives the logarithm of the odds that they belong together.
      picture_words: those of `words` that are the picture; empty takes all that are known to be.
      seed: of the draw.
      kinds: facts by which errors are told apart, where the data has them.
      examples: texts that the report shows, those with the highest loss.
    """

    method: str = "fuse"
    words: tuple[str, ...] = ("token_ids", "text_mask", "image")
    head: str = "matching_logits"
    picture_words: tuple[str, ...] = ()
    seed: int = 0
    kinds: tuple[str, ...] = ()
    examples: int = 12

    def __post_init__(self) -> None:
        if not self._pictures or not set(self._pictures) < set(self.words):
            raise ValueError(
                f"picture_words={self._pictures} are to be some of words={self.words}, and not all:"
                " the text stays, and the picture is another one."
            )

    @property
    def _pictures(self) -> tuple[str, ...]:
        found = tuple(word for word in self.words if word in PICTURE_WORDS)
        return self.picture_words or found

    def __call__(self, context: Context) -> Result:
        """Scores every held-out text with its own picture and with another one.

        Returns:
          'accuracy' with its chance, and the number of 'pairs'.

        Raises:
          ValueError: no other picture to draw, or a head that gives other than one score.
        """
        view = View(self.method, self.words)
        own = list(judge(context, view, self.head))
        others = draw_others(own, self.seed)
        positions = [one.position for one in own]
        batches = context.chosen(positions, others, self._pictures)
        wrong = {one.position: one.scores for one in judge(context, view, self.head, batches)}
        samples = [
            # Of a picture that could not be read this time there is no score: it counts as missed.
            self._sample(context, one, wrong.get(one.position, np.float32("nan")), other)
            for one, other in zip(own, others)
        ]
        numbers = {
            "accuracy": float(np.mean([sample.hit for sample in samples])),
            "accuracy_chance": 0.5,
            "pairs": float(len(samples)),
        }
        note = "Each text with its own picture and with one drawn among the others."
        made = errors.analysis(context, "matching", view, samples, self.examples, note)
        return Result(numbers, made)

    def _sample(self, context: Context, own: Judged, wrong: Any, other: int) -> errors.Sample:
        if np.shape(own.scores):
            raise ValueError(
                f"the head {self.head!r} gives scores of shape {np.shape(own.scores)} a row and "
                "not one number; matching_logits does."
            )
        lead = float(own.scores) - float(wrong)
        facts = context.facts(own.position)
        text = next(iter(facts.get("captions", ())), "")
        loss = float(np.logaddexp(0.0, -lead)) if np.isfinite(lead) else float("inf")
        told, right = f"{float(wrong):.3g}", f"{float(own.scores):.3g}"
        kinds = errors.told_kinds(facts, self.kinds, text)
        hit = float(np.isfinite(lead) and lead > 0)
        return errors.Sample(own.position, loss, hit, text, told, right, kinds, other)


def draw_others(own: list[Judged], seed: int) -> list[int]:
    """For each sample the position of another one, of another group where there are groups.

    Args:
      own: the samples; what is drawn for each depends on seed and positions alone.
      seed: of the draw.

    Raises:
      ValueError: all samples are of one group, or there is one alone.
    """
    groups = np.asarray([one.position if one.group is None else one.group for one in own])
    if len(set(groups.tolist())) < 2:
        raise ValueError(
            f"{len(own)} held-out samples of one group: no other picture can be drawn for a text. "
            "Give more, or another group_from."
        )
    rng = np.random.default_rng(seed)
    drawn = np.empty(len(own), np.int64)
    left = np.arange(len(own))
    for _ in range(TRIES):
        drawn[left] = rng.integers(len(own), size=len(left))
        left = left[groups[drawn[left]] == groups[left]]
    for place in left.tolist():  # one group is nearly all: choose among the few others
        drawn[place] = rng.choice(np.flatnonzero(groups != groups[place]))
    return [own[place].position for place in drawn.tolist()]
