"""`report.html`: one self-contained file, made from a workdir's files alone.

It can be made at any time and again, also from what a crashed run left behind: a part that is
missing or damaged leaves a note. The file holds no script and loads nothing.
"""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

from mmjax.evaluation import report_errors, report_numbers, report_pictures
from mmjax.evaluation.report_html import page, section, text
from mmjax.evaluation.report_read import Run, read_run

DRAWN = {
    "retrieval": report_pictures.retrieval,
    "zero_shot": report_pictures.zero_shot,
    **dict.fromkeys(report_errors.TITLES, report_errors.errors),
}
DAMAGED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


def write_report(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Writes `report.html` into a workdir, from the files in it.

    Args:
      workdir: a run's folder; needs none of its files to be there or whole.

    Returns:
      The report's path.

    Raises:
      FileNotFoundError: the workdir itself does not exist.
      OSError: the report cannot be written; an older one stays.
    """
    folder = pathlib.Path(workdir)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no workdir {folder}. Give the folder of a run.")
    content = page(f"mmjax report: {folder.resolve().name}", _body(read_run(folder)))
    path = folder / "report.html"
    partial = folder / "report.html.partial"
    try:
        partial.write_bytes(content.encode("utf-8", "replace"))
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # what refused the one may refuse the other
            partial.unlink()
        raise
    return path


def _body(run: Run) -> str:
    header = _guarded(run, "the header", lambda: _header(run))
    parts = [
        _guarded(run, "the headline", lambda: report_numbers.headline(run)),
        _guarded(run, "the table", lambda: report_numbers.numbers(run)),
        _guarded(run, "the curves", lambda: report_numbers.curves(run)),
    ]
    for name, artifact in run.artifacts.items():
        draw = DRAWN.get(str(artifact.get("kind")))
        if draw is not None:
            parts.append(_guarded(run, name, lambda draw=draw, artifact=artifact: draw(artifact)))
    parts += [
        _guarded(run, "bad samples", lambda: report_numbers.bad_samples(run)),
        _guarded(run, "the events", lambda: _events(run)),
        _guarded(run, "the set-up", lambda: _setup(run)),
    ]
    made = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    return (
        f"{header}{_notice('Ended', [run.ended])}{_notice('Notes', run.notes)}{''.join(parts)}"
        f"<footer>Made by mmjax from the files of this run, {text(made)}.</footer>"
    )


def _guarded(run: Run, what: str, draw: Callable[[], str]) -> str:
    """A part of the page, or a note where its file is not as an evaluator writes it."""
    try:
        return draw()
    except DAMAGED as error:
        run.notes.append(f"{what} could not be drawn: {type(error).__name__} in its data.")
        return ""


def _header(run: Run) -> str:
    wanted = run.config.get("steps")
    facts = [f"step {run.last_step():,}"]
    if isinstance(wanted, int) and wanted > 0:
        facts = [f"step {run.last_step():,} of {wanted:,}"]
    samples = run.train.get("counters/samples") or run.train.get("samples")
    if samples:
        facts.append(f"{samples[-1][1]:,.0f} samples seen")
    speed = run.train.get("images_per_second")
    if speed:
        middle = sorted(value for _, value in speed)[len(speed) // 2]
        facts.append(f"{middle:,.0f} images/s")
    devices = run.environment.get("devices")
    if isinstance(devices, str | int):
        facts.append(f"devices: {devices}")
    return f'<h1>{text(run.name)}</h1><p class="lead">{text(" · ".join(facts))}</p>'


def _notice(title: str, lines: list[str]) -> str:
    if not any(lines):
        return ""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f'<div class="warn">{title}<ul>{items}</ul></div>'


def _events(run: Run) -> str:
    if not run.events:
        return ""
    rows = "".join(
        f"<tr><td class='step'>{text(event['step'])}</td>"
        f"<td class='left'>{text(_event(event))}</td></tr>"
        for event in run.events[-50:]
    )
    return section(
        "Events",
        '<div class="scroll"><table><thead><tr><th class="step">step</th>'
        f'<th style="text-align:left">what</th></tr></thead><tbody>{rows}</tbody></table></div>',
        f"The last 50 of {len(run.events)}." if len(run.events) > 50 else "",
    )


def _event(event: dict[str, Any]) -> str:
    rest = {name: value for name, value in event.items() if name not in ("step", "kind")}
    message = rest.pop("message", None) or rest.pop("event", "")
    extra = ", ".join(f"{name}: {value}" for name, value in rest.items())
    return " · ".join(part for part in (str(message), extra) if part)


def _setup(run: Run) -> str:
    command = run.environment.get("command")
    if isinstance(command, list):
        command = " ".join(str(word) for word in command)
    body = (
        f'<pre class="wrap">{text(command)}</pre>'
        if command
        else '<p class="note">environment.json names no command.</p>'
    )
    for title, content in (("Config", run.config), ("Environment", run.environment)):
        if content:
            listing = json.dumps(content, indent=2, ensure_ascii=False)
            body += f"<details><summary>{title}</summary><pre>{text(listing)}</pre></details>"
    return section("Command and config", body)
