"""The report's part on answers, statements, matching and classes: what went wrong, and where.

Each of the worst samples stands with its picture, and with the same picture under the attention of
its text, where the model could tell.
"""

from typing import Any

from mmjax.evaluation.report_html import caption, mark, section, shown, source, text
from mmjax.evaluation.report_pictures import class_matrix, most_confused, parameters, title

Artifact = dict[str, Any]

TITLES = {
    "answering": "Questions",
    "reasoning": "Statements",
    "matching": "Text and picture",
    "classifying": "Classification",
}
SAYS = {  # what stands before what the model told and what is right
    "answering": ("said", "right"),
    "reasoning": ("said", "is"),
    "matching": ("other picture", "own picture"),
    "classifying": ("taken for", "is"),
}
STRONGEST = 0.78  # how much of the picture the highest attention covers
NARROWEST, WIDEST = 1 / 3, 4.0  # of a picture's width to its height, as it is drawn


def errors(artifact: Artifact) -> str:
    """Rates by kind, confusions where there are classes, and the worst samples."""
    kind = artifact["kind"]
    body = _tables(artifact["tables"])
    if "confused" in artifact:
        names = artifact["classes"]
        if artifact["matrix"] is not None:
            body += class_matrix(artifact["matrix"], names, artifact["totals"])
        body += most_confused(artifact["confused"], names)
    cards = "".join(_wrong(one, artifact) for one in artifact["worst"])
    if cards:
        looked = any(one.get("look") for one in artifact["worst"])
        body += (
            f"<h3>The {len(artifact['worst'])} worst by their loss</h3>"
            f'<p class="note">{_legend(looked)}</p><div class="two">{cards}</div>'
        )
    else:
        body += '<p class="lead">Nothing is wrong.</p>'
    if artifact.get("predictions"):
        body += _predictions(artifact["predictions"])
    note = f"{parameters(artifact)} {artifact['samples']:,} samples. {text(artifact['note'])}"
    return section(title(TITLES[kind], artifact), body, note)


def _legend(looked: bool) -> str:
    if not looked:
        return "The model tells of no attention of the text to the picture."
    return (
        "The second picture of each shows where the text looks: the mean attention of its words "
        "in the last layers, from the least of this picture, clear, to the most, red. The number "
        "below says how many times the mean the most is; near 1 it looks everywhere alike."
    )


def _tables(tables: dict[str, Any]) -> str:
    drawn = "".join(_table(name, rows) for name, rows in tables.items() if len(rows) > 1)
    return f'<div class="tables">{drawn}</div>' if drawn else ""


def _table(name: str, rows: list[Any]) -> str:
    body = "".join(
        f"<tr><td>{caption(kind)}</td><td>{count:,}</td><td>{shown(rate, 'accuracy')}</td>"
        f'<td style="width:24%"><span class="bar" style="width:{100 * rate:.0f}%"></span></td></tr>'
        for kind, count, rate in rows
    )
    return (
        f'<div class="scroll"><h3>By {text(name.replace("_", " "))}</h3><table><thead><tr>'
        f"<th></th><th>samples</th><th>right</th><th></th></tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _wrong(one: Artifact, artifact: Artifact) -> str:
    told, right = SAYS[artifact["kind"]]
    position, look, other = one["position"], one.get("look"), one["other"]
    views = f"<div>{_view(position, artifact)}{'picture' if other is None else 'its own'}</div>"
    if look:
        views += f"<div>{_view(position, artifact, look)}most {look['most']:.2g}×</div>"
    if other is not None:
        views += f"<div>{_view(other, artifact)}the other</div>"
    words = f"<div>{caption(one['text'])}</div>" if one["text"] else ""
    facts = " · ".join(text(kind) for kind in one["kinds"])
    loss = "no number" if one["loss"] is None else f"{one['loss']:.2f}"
    return (
        f'<div class="card wrong"><div class="views">{views}</div>{words}<dl class="told">'
        f"<dt>{text(told)}</dt><dd>{mark(False) if one['hit'] < 0.5 else ''}"
        f"{caption(one['told'])}</dd><dt>{text(right)}</dt><dd>{caption(one['right'])}</dd></dl>"
        f'<div class="rank">loss {loss} · #{text(position)}{" · " if facts else ""}{facts}</div>'
        "</div>"
    )


def _view(position: Any, artifact: Artifact, look: Artifact | None = None) -> str:
    """A picture in its own shape, with what the text looks at laid over it."""
    width, height = artifact["sides"].get(str(position), (1, 1))
    tall = 100 / min(WIDEST, max(NARROWEST, width / height))
    uri = source(artifact["thumbnails"].get(str(position)))
    inside = (
        f'<image width="100" height="{tall:.1f}" preserveAspectRatio="none" href="{uri}"/>'
        if uri
        else f'<rect width="100" height="{tall:.1f}" fill="var(--grid)"/>'
        f'<text x="50" y="{tall / 2:.1f}" text-anchor="middle">#{text(position)}</text>'
    )
    if look:
        inside += "".join(_place(place, look["form"], tall) for place in look["places"])
    name = f"sample {position}" + (", where its text looks" if look else "")
    return (
        f'<svg class="seen" viewBox="0 0 100 {tall:.1f}" preserveAspectRatio="xMinYMid" '
        f'role="img" aria-label="{text(name)}">{inside}</svg>'
    )


def _place(place: list[float], form: str, tall: float) -> str:
    left, top, right, bottom, share = (float(number) for number in place)
    where = (
        f'x="{100 * left:.2f}" y="{tall * top:.2f}" width="{100 * (right - left):.2f}" '
        f'height="{tall * (bottom - top):.2f}"'
    )
    if form == "cells":
        return f'<rect class="look" {where} fill-opacity="{STRONGEST * share:.2f}"/>'
    how = f'fill-opacity="{0.3 * share:.2f}" stroke-opacity="{0.15 + 0.85 * share:.2f}"'
    return f'<rect class="place" {where} {how}/>'


def _predictions(rows: list[Any]) -> str:
    body = "".join(
        f'<tr><td class="left">{caption(asked)}</td><td class="left">{caption(told)}</td>'
        f'<td class="left">{caption(right)}</td><td>{hit:.2f}</td></tr>'
        for _, asked, told, right, hit in rows[:200]
    )
    return (
        f"<details><summary>The first {min(len(rows), 200)} answers</summary>"
        '<div class="scroll"><table><thead><tr><th>question</th>'
        '<th style="text-align:left">said</th><th style="text-align:left">right</th>'
        f"<th>worth</th></tr></thead><tbody>{body}</tbody></table></div></details>"
    )
