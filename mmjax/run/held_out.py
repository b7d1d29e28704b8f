"""All held-out sets of a run to numbers, and how the numbers are told."""

import json
import pathlib
from collections.abc import Callable, Mapping

from jax.sharding import Mesh

from mmjax.data.pipeline import Reading
from mmjax.evaluation.report import write_report
from mmjax.run.assembly import Parts
from mmjax.run.console import say
from mmjax.run.evaluating import Evaluation
from mmjax.training.home import Home
from mmjax.training.state import State

__all__ = ["Evaluations", "print_numbers", "say_report", "to_line"]


class Evaluations:
    """All held-out sets of a run; see `Evaluation`."""

    def __init__(
        self,
        parts: Parts,
        mesh: Mesh,
        reading: Reading,
        stopping: Callable[[], bool] = lambda: False,
    ):
        self._each = [Evaluation(parts, mesh, reading, stopping, name) for name in parts.eval_data]

    def __call__(self, state: State, step: int, workdir: pathlib.Path | None) -> dict[str, float]:
        """The numbers of all sets; those of several begin with the set's name."""
        numbers: dict[str, float] = {}
        for evaluation in self._each:
            numbers |= evaluation(state, step, workdir)
        return numbers


def say_report(home: Home) -> None:
    """Writes the report and says where it is; a disk that refuses undoes nothing that was done."""
    try:
        say(f"report: {home.child(write_report(home.folder).name)}")
    except OSError as error:
        say(f"report: not written ({error}); eval.py makes it again.")


def print_numbers(numbers: Mapping[str, float]) -> str:
    """A table for people, one metric a line, the number that chance gives beside it."""
    lines = []
    for name, value in sorted(numbers.items()):
        if name.endswith("_chance"):
            continue
        chance = numbers.get(f"{name}_chance")
        lines.append(
            f"  {name:<44} {value:>10.4f}" + (f"  (chance {chance:.4f})" if chance else "")
        )
    return "\n".join(lines)


def to_line(step: int, numbers: Mapping[str, float]) -> str:
    """One JSON line, for scripts."""
    return json.dumps({"step": step, **numbers})
