"""Whether statements about pictures are told true from false: accuracy and consistency."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.evaluation import errors
from mmjax.evaluation.base import Context, Evaluator, Result
from mmjax.evaluation.judging import Judged, judge
from mmjax.evaluation.metrics import nlvr2
from mmjax.typing import View

__all__ = ["Reasoning"]

NAMES = ("false", "true")


@dataclasses.dataclass(frozen=True)
class Reasoning(Evaluator):
    """Accuracy over statements, and the share of groups in which every statement is told rightly.

    A statement is told rightly where its own side scores higher; a tie and a score that is no
    number are wrong. Beside the accuracy stands that of saying always what is more frequent, beside
    the consistency that of a coin.

    Attributes:
      method, words: how the model looks at statement and pictures together.
      head: its method that scores 'false' and 'true'.
      identifier: the fact that holds the statements' identifiers, 'split-set-pair-sentence', by
        which they belong together; '' does without consistency.
      kinds: facts by which errors are told apart, where the data has them.
      examples: statements that the report shows, those with the highest loss.

    Source: Suhr et al. 2019, "A Corpus for Reasoning About Natural Language Grounded in
    Photographs", section 5.
    """

    method: str = "fuse"
    words: tuple[str, ...] = ("token_ids", "text_mask", "image")
    head: str = "reasoning_logits"
    identifier: str = "identifier"
    kinds: tuple[str, ...] = ()
    examples: int = 12

    def check(self, facts: Mapping[str, Any], answers: Sequence[str]) -> None:
        """Refuses data that does not say what is true, or what belongs together."""
        del answers
        if "truth" not in facts:
            raise ValueError(
                "eval_data does not say which statements are true; set its Fields(truth_from=...)."
            )
        if self.identifier and self.identifier not in facts:
            raise ValueError(
                f"eval_data has no fact {self.identifier!r}, by which consistency is counted; name "
                f"it in Fields(facts_from=('json:{self.identifier}',)), or set identifier=''."
            )
        if self.identifier:
            nlvr2.group(facts[self.identifier])

    def __call__(self, context: Context) -> Result:
        """Judges every held-out statement.

        Returns:
          'accuracy' and, with identifiers, 'consistency', each with its chance; the numbers of
          'statements' and 'groups'.

        Raises:
          ValueError: as `check`, for any of the statements; a head that gives other than two
            scores; or an identifier that two statements have.
        """
        view = View(self.method, self.words)
        samples, names, truths = [], [], []
        for judged in judge(context, view, self.head):
            facts = context.facts(judged.position)
            self.check(facts, ())
            truth = int(facts["truth"])
            samples.append(self._sample(judged, facts, truth))
            truths.append(truth)
            names.append(facts[self.identifier] if self.identifier else str(judged.position))
        name, times = collections.Counter(names).most_common(1)[0]
        if times > 1:
            raise ValueError(f"{times} statements have the identifier {name!r}; give each its own.")
        labels = {name: bool(truth) for name, truth in zip(names, truths)}
        told = {
            name: label if sample.hit else not label
            for (name, label), sample in zip(labels.items(), samples)
        }
        share = float(np.mean(truths))
        numbers = {
            "accuracy": nlvr2.accuracy(told, labels),
            "accuracy_chance": max(share, 1 - share),
            "statements": float(len(samples)),
        }
        note = "Chance of the accuracy is that of saying always what is more frequent."
        if self.identifier:
            sizes = collections.Counter(map(nlvr2.group, names))
            numbers["consistency"] = nlvr2.consistency(told, labels)
            numbers["consistency_chance"] = float(np.mean([0.5**n for n in sizes.values()]))
            numbers["groups"] = float(len(sizes))
        made = errors.analysis(context, "reasoning", view, samples, self.examples, note)
        return Result(numbers, made)

    def _sample(self, judged: Judged, facts: dict[str, Any], truth: int) -> errors.Sample:
        if judged.scores.shape != (2,):
            raise ValueError(
                f"the head {self.head!r} gives scores of shape {judged.scores.shape} and not two, "
                "of 'false' and 'true'."
            )
        lead = float(judged.scores[truth]) - float(judged.scores[1 - truth])
        right = np.isfinite(lead) and lead > 0
        text = next(iter(facts["captions"]), "")
        kinds = {"statement": NAMES[truth], **errors.told_kinds(facts, self.kinds, text)}
        loss = float(np.logaddexp(0.0, -lead)) if np.isfinite(lead) else float("inf")
        told = NAMES[truth if right else 1 - truth] if np.isfinite(lead) else "no number"
        if lead == 0:
            told = "undecided"
        return errors.Sample(judged.position, loss, float(right), text, told, NAMES[truth], kinds)
