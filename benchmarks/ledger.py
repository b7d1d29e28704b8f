"""Where the time of a run went, from what its processes said and when; for `goodput.py`.

What the kinds mean stands there.
"""

import dataclasses
import re
import statistics
from collections.abc import Sequence
from typing import Any

KINDS = ("steps", "redone", "startup", "saves", "evaluation", "rest")
Line = tuple[float, str]  # when it came, and what it says


@dataclasses.dataclass
class Life:
    """What is known of one process of the run once it is over.

    Attributes:
      begun, ended: by the clock of all lines.
      out, err: its lines.
      metrics: what it added to metrics.jsonl.
      kill: how it was ended, '' where it reached the run's end.
      hit: whether a checkpoint was unfinished at the kill.
    """

    begun: float
    ended: float
    out: list[Line]
    err: list[Line]
    metrics: list[dict[str, Any]]
    kill: str = ""
    hit: bool = False

    @property
    def resumed(self) -> int:
        """The step it went on from; 0 for a new run, also where it died before it was known."""
        return int(next((found[1] for _, found in self._said(r"going on from step (\d+)\.")), 0))

    @property
    def shown(self) -> dict[int, float]:
        """{step: when its line came}."""
        pattern = re.compile(r"step (\d+)/")
        matches = ((when, pattern.match(text)) for when, text in self.err)
        return {int(found[1]): when for when, found in matches if found}

    def when(self, pattern: str) -> float | None:
        """When standard output first said something."""
        return next((when for when, _ in self._said(pattern)), None)

    def compiling(self, until: float) -> list[tuple[float, float]]:
        """(from, to) of all that JAX traced, lowered and compiled, cut off at `until`."""
        found = []
        for when, text in self.err:
            match = re.search(r"Finished .* in ([\d.e+-]+) sec", text)
            if match and when - float(match[1]) < until:
                found.append((max(self.begun, when - float(match[1])), min(when, until)))
        return found

    def _said(self, pattern: str) -> list[tuple[float, Any]]:
        matches = ((when, re.match(pattern, text)) for when, text in self.out)
        return [(when, found) for when, found in matches if found]


def length(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds that lie in at least one of the spans."""
    total, reached = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total


def step_times(life: Life) -> dict[int, float]:
    """{step: seconds} of the steps after a life's first two.

    On one CPU a program runs in the thread that calls it, and the loop looks at a step when the
    next was called. So a line comes when the step after its own has ended. On an accelerator it
    comes when its own has; then each process's start-up is told a step too short.
    """
    shown = life.shown
    return {step + 1: shown[step] - shown[step - 1] for step in sorted(shown) if step - 1 in shown}


def windows(life: Life, every: int, last: int) -> list[tuple[set[int], float, bool]]:
    """(steps around evaluations and saves, seconds of the evaluations, whether it was a save)."""
    evaluated = {
        line["step"]: line["evaluation_seconds"]
        for line in life.metrics
        if line["kind"] == "evaluate" and line["step"] < last
    }
    saved = {
        line["saved_step"]: line["step"] for line in life.metrics if line.get("event") == "saved"
    }
    shown = life.shown
    begun = [step for step in shown if step % every == 0 and step < last]
    # A save that was not told of ran until the kill. After a save or an evaluation the loop has
    # looked at that step at once, so the two that follow share what was between.
    spans = [(at, range(at + 1, max(at + 2, saved.get(at, last) + 1) + 1), True) for at in begun]
    spans += [(at, range(at + 1, at + 3), False) for at in evaluated if at not in begun]
    found: list[tuple[set[int], float, bool]] = []
    for at, steps, save in sorted(spans):
        spent = evaluated.get(at, 0.0)
        if found and found[-1][0] & set(steps):
            before = found.pop()
            found.append((before[0] | set(steps), before[1] + spent, before[2] or save))
        else:
            found.append((set(steps), spent, save))
    return found


def account(lives: Sequence[Life], every: int, last: int) -> dict[str, Any]:
    """Where the time of a run went.

    Args:
      lives: its processes, in order.
      every: steps between two saves.
      last: the run's last step.
    """
    seconds, starts = dict.fromkeys(KINDS, 0.0), []
    made = [(life, step_times(life), windows(life, every, last)) for life in lives]
    settled = [
        value
        for _, times, around in made
        for step, value in times.items()
        if step <= last and not any(step in steps for steps, _, _ in around)
    ]
    if not settled:
        raise SystemExit("no step is free of saves and evaluations; raise --save-steps.")
    usual = statistics.median(settled)
    # From where a life's steps are made again; one that died before it had any loses none.
    kept = [life.resumed for life in lives[1:]] + [last]
    counted: list[int] = []
    for (life, times, around), until in zip(made, kept):
        shown = life.shown
        first = min(shown, default=None)
        begun = life.ended if first is None else shown[first] - 2 * usual
        starts.append(startup_of(life, begun))
        seconds["startup"] += begun - life.begun
        if first is None:
            continue
        lengths = {first: usual, first + 1: usual}
        lengths |= {step: value for step, value in times.items() if step <= last}
        for steps, evaluation, save in around:
            inside = [step for step in steps if step in lengths]
            added = sum(lengths[step] - usual for step in inside) - evaluation
            lengths |= dict.fromkeys(inside, usual)
            seconds["evaluation"] += evaluation
            seconds["saves" if save else "evaluation"] += added
        for step, value in lengths.items():
            seconds["steps" if step <= until else "redone"] += value
        counted += [step for step in lengths if step <= until]
        reached = shown[max(shown)]
        if life.kill:
            seconds["redone"] += life.ended - reached
            continue
        final = sum(
            line["evaluation_seconds"]
            for line in life.metrics
            if line["kind"] == "evaluate" and line["step"] == last
        )
        seconds["evaluation"] += final
        seconds["saves"] += (life.when(f"step {last}:") or reached + final) - reached - final
    if sorted(counted) != list(range(1, last + 1)):
        raise SystemExit(f"the lines of {len(counted)} steps were found where {last} count.")
    wall = lives[-1].ended - lives[0].begun
    seconds["rest"] = wall - sum(seconds.values())
    return {
        "wall_seconds": round(wall, 1),
        "goodput": round(seconds["steps"] / wall, 4),
        "seconds": {kind: round(value, 2) for kind, value in seconds.items()},
        "shares": {kind: round(value / wall, 4) for kind, value in seconds.items()},
        "step_seconds": round(usual, 4),
        "starts": [{part: round(value, 2) for part, value in start.items()} for start in starts],
    }


def startup_of(life: Life, begun: float) -> dict[str, float]:
    """The parts of a start-up that ended at `begun`, in seconds."""
    said = min(life.out[0][0] if life.out else begun, begun)
    spans = life.compiling(begun)
    going = min(life.when("going on from step") or said, begun)
    restoring = going - said - length([(a, min(b, going)) for a, b in spans if a < going])
    parts = {
        "import": said - life.begun,
        "compile": length(spans),
        "restore": max(0.0, restoring),
    }
    return parts | {"other": begun - life.begun - sum(parts.values())}
