"""The objectives' own losses on held-out data."""

import dataclasses

from mmjax.evaluation.base import Context, Evaluator, Result, real


@dataclasses.dataclass(frozen=True)
class Objectives(Evaluator):
    """Every objective's loss and metrics, as sums and counts merged over all held-out batches.

    A contrastive loss depends on how many negatives a batch holds: compare runs of equal
    evaluation batch size only. Names that counted nothing are left out. So are goals of which the
    held-out data lack a word: a run of several streams evaluates on data like those of one.

    Args:
      goals: names of those that are told, each of which the held-out data score; () tells all.
    """

    goals: tuple[str, ...] = ()

    def __call__(self, context: Context) -> Result:
        """Sums first, divides once.

        Returns:
          {name: total ÷ count} by the names that `Context.loss` gives, and 'samples'.
        """
        sums: dict[str, list[float]] = {}
        samples = 0
        for batch in context.batches():
            samples += int(real(batch).sum())
            for name, (total, count) in context.loss(batch).items():
                merged = sums.setdefault(name, [0.0, 0.0])
                merged[0] += float(total)
                merged[1] += float(count)
        metrics = {
            name: total / count
            for name, (total, count) in sums.items()
            if count and (not self.goals or name.split("/")[0] in self.goals)
        }
        return Result({**metrics, "samples": float(samples)}, {"kind": "objectives"})
