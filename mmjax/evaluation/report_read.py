"""What the report knows: a workdir's files, read so that a crashed run still gives a report.

Nothing here raises on a missing, torn or damaged file; it leaves a note for the reader instead.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

RESULTS = ".results.json"  # end of the name of a file for others, which the report leaves alone
NOT_FINITE = ("nan", "inf", "-inf")  # how the log writes them, since JSON has no word for them
ENDED = "ended"  # the event of a run that ended before its last step; its message says why
Series = dict[str, list[tuple[int, float]]]


@dataclasses.dataclass
class Run:
    """Everything the report draws.

    Attributes:
      name: the workdir's own name.
      config, environment: as saved, {} where missing.
      train, evaluate: {metric: [(step, value), ...]} by ascending step, finite values alone.
      events: rows of kind 'event', in order.
      artifacts: {evaluator: its newest artifact}.
      notes: what is missing or damaged, for people.
      ended: why the run ended before its last step, '' where it did not or has gone on since.
    """

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    train: Series
    evaluate: Series
    events: list[dict[str, Any]]
    artifacts: dict[str, dict[str, Any]]
    notes: list[str]
    ended: str = ""

    def last_step(self) -> int:
        """The newest step that anything was logged for; 0 where nothing was."""
        series = [*self.train.values(), *self.evaluate.values()]
        return max((points[-1][0] for points in series if points), default=0)


def read_run(workdir: pathlib.Path) -> Run:
    """Reads config.json, environment.json, metrics.jsonl and evaluations/ of a workdir."""
    notes: list[str] = []
    config = _object(workdir / "config.json", notes)
    environment = _object(workdir / "environment.json", notes)
    rows, events, ended = _metrics(workdir, notes)
    return Run(
        name=workdir.resolve().name,
        config=config,
        environment=environment,
        train=_series(rows["train"], notes),
        evaluate=_series(rows["evaluate"], notes),
        events=events,
        artifacts=_artifacts(workdir / "evaluations", notes),
        notes=notes,
        ended=ended,
    )


def number(value: Any) -> bool:
    """Whether a JSON value is a number that can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _object(path: pathlib.Path, notes: list[str]) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        notes.append(f"{path.name} is missing.")
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name} could not be read: {type(error).__name__}.")
    else:
        if isinstance(value, dict):
            return value
        notes.append(f"{path.name} holds no JSON object.")
    return {}


def _metrics(
    workdir: pathlib.Path, notes: list[str]
) -> tuple[dict[str, dict[int, dict[str, Any]]], list[dict[str, Any]], str]:
    """{kind: {step: row}}, the events, and `Run.ended`.

    A step that was run again after a crash counts last.
    """
    rows: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "evaluate": {}}
    events: list[dict[str, Any]] = []
    damaged = []
    torn, ended = False, ""
    try:
        for count, line in enumerate(_lines(workdir), start=1):
            torn = False
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                step, kind = row["step"], row["kind"]
                if not number(step) or not isinstance(kind, str):
                    raise ValueError("step is a number and kind a word")
            except (ValueError, KeyError, TypeError, RecursionError):
                torn = not line.endswith("\n")
                damaged.append(count)
                continue
            if kind == "event":
                events.append(row)
                if row.get("event") == ENDED:
                    ended = str(row.get("message", ""))
            elif kind in rows:
                ended = ""
                rows[kind].setdefault(int(step), {}).update(row)
    except FileNotFoundError:
        notes.append("metrics.jsonl is missing, so there are no curves.")
        return rows, events, ended
    except OSError as error:
        notes.append(f"metrics.jsonl could not be read to its end: {type(error).__name__}.")
    if torn:
        damaged.pop()
        notes.append("The last line of metrics.jsonl is torn: the run was cut off while writing.")
    if damaged:
        notes.append(
            f"metrics.jsonl has {len(damaged)} damaged line(s), the first is line {damaged[0]}."
        )
    if not rows["train"] and not rows["evaluate"]:
        notes.append("metrics.jsonl holds no numbers yet.")
    return rows, events, ended


def _lines(workdir: pathlib.Path) -> Iterator[str]:
    """Those of the numbered parts that a copy from a store may hold, then of metrics.jsonl."""
    parts = sorted(workdir.glob("metrics-[0-9]*.jsonl"), key=lambda part: (len(part.name), part))
    last = workdir / "metrics.jsonl"
    for path in [*parts, last] if last.exists() or not parts else parts:
        with path.open(encoding="utf-8", errors="replace") as lines:
            yield from lines


def _series(rows: dict[int, dict[str, Any]], notes: list[str]) -> Series:
    series: Series = {}
    not_finite: dict[str, int] = {}
    for step in sorted(rows):
        for name, value in rows[step].items():
            if name in ("step", "kind"):
                continue
            if number(value):
                series.setdefault(name, []).append((step, float(value)))
            elif isinstance(value, float) or value in NOT_FINITE:
                not_finite[name] = not_finite.get(name, 0) + 1
    for name, count in not_finite.items():
        notes.append(f"{name}: {count} value(s) were not finite and are not drawn.")
    return series


def _artifacts(folder: pathlib.Path, notes: list[str]) -> dict[str, dict[str, Any]]:
    """The newest artifact of each evaluator; that of the moving average wins over the raw one."""
    newest: dict[str, dict[str, Any]] = {}
    try:
        steps = [entry for entry in folder.iterdir() if entry.is_dir() and entry.name.isdecimal()]
    except OSError:
        steps = []
    for step in sorted(steps, key=lambda entry: int(entry.name)):
        for path in sorted(step.rglob("*.json")):
            if path.name.endswith(RESULTS):
                continue
            artifact = _object(path, notes)
            if artifact:
                name = path.relative_to(step).with_suffix("").as_posix()
                newest[name] = {**artifact, "name": name, "step": int(step.name)}
    if not newest:
        notes.append("evaluations/ holds nothing yet, so there are no pictures.")
    chosen: dict[str, dict[str, Any]] = {}
    for name, artifact in newest.items():
        plain = name.removeprefix("ema/")
        old = chosen.get(plain)
        if old is None or (artifact["step"], name != plain) >= (old["step"], old["name"] != plain):
            chosen[plain] = artifact
    return chosen
