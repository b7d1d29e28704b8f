"""The report's parts that are made from the evaluators' artifacts."""

from typing import Any

from mmjax.evaluation.report_html import caption, mark, picture, section, shown, text
from mmjax.evaluation.report_svg import matrix

Artifact = dict[str, Any]
WIDEST_CELL = 70  # pixels, so that few classes do not make a wall


def retrieval(artifact: Artifact) -> str:
    """Similarity heat map and the first answers of some queries, hits and misses marked."""
    thumbnails = artifact["thumbnails"]
    by_text = "".join(_by_text(one, thumbnails) for one in artifact["text_to_image"])
    by_image = "".join(_by_image(one, thumbnails) for one in artifact["image_to_text"])
    return section(
        title("Retrieval", artifact),
        _heat(artifact["heat"], thumbnails)
        + f'<h3>Pictures found by a caption</h3><div class="two">{by_text}</div>'
        + f'<h3>Captions found by a picture</h3><div class="two">{by_image}</div>',
        f"{parameters(artifact)} Queries are spread evenly over the data, not chosen. "
        f"{mark(True)}right, {mark(False)}wrong; the number is the cosine similarity.",
    )


def zero_shot(artifact: Artifact) -> str:
    """Confusion of classes, each class's own accuracy, and some samples."""
    names, thumbnails = artifact["classes"], artifact["thumbnails"]
    totals, right = artifact["totals"], artifact["right"]
    body = ""
    if artifact["matrix"] is not None:
        body += class_matrix(artifact["matrix"], names, totals)
    body += most_confused(artifact["confused"], names)
    samples = "".join(_sample(one, names, thumbnails) for one in artifact["examples"])
    body += f'<h3>Some samples</h3><div class="samples">{samples}</div>'
    accuracy = "".join(
        f"<tr><td>{number + 1}. {caption(name)}</td><td>{total:,}</td>"
        f"<td>{shown(hit / total, 'accuracy') if total else '–'}</td>"
        f'<td style="width:24%"><span class="bar" style="width:{100 * hit / max(total, 1):.0f}%">'
        "</span></td></tr>"
        for number, (name, total, hit) in enumerate(zip(names, totals, right))
    )
    body += (
        f'<details><summary>Accuracy of each of {len(names)} classes</summary><div class="scroll">'
        "<table><thead><tr><th>class</th><th>samples</th><th>right</th><th></th></tr></thead>"
        f"<tbody>{accuracy}</tbody></table></div></details>"
    )
    sentences = "".join(f"<li>{caption(template)}</li>" for template in artifact["templates"])
    body += f'<details><summary>Templates</summary><ul class="plain">{sentences}</ul></details>'
    return section(title("Zero-shot classification", artifact), body, parameters(artifact))


def title(what: str, artifact: Artifact) -> str:
    """What it is, and the evaluator's own name where that is another one."""
    name = artifact["name"].removeprefix("ema/")
    return what if name == artifact["kind"] else f"{what}: {name}"


def parameters(artifact: Artifact) -> str:
    """Of which step and of which parameters it tells."""
    which = "moving average" if artifact["name"].startswith("ema/") else "raw"
    return f"Step {text(artifact['step'])}, {which} parameters."


def _heat(heat: Artifact, thumbnails: dict[str, Any]) -> str:
    values = heat["values"]
    flat = [value for row in values for value in row if value is not None]
    if not flat:
        return '<p class="lead">No similarity is a number.</p>'
    low, high = min(flat), max(flat)
    found = sum(
        row[number] is not None
        and all(
            value is None or value < row[number] for at, value in enumerate(row) if at != number
        )
        for number, row in enumerate(values)
    )
    rows = [thumbnails.get(str(position)) for position in heat["pictures"]]
    drawn = matrix(
        values,
        lambda row, column, value: f"picture {row + 1}, caption {column + 1}: {value:.3f}",
        low,
        high,
        rows if any(rows) else None,
    )
    captions = "".join(f"<li>{caption(words)}</li>" for words in heat["captions"])
    return (
        "<h3>Similarity of pictures (rows) and captions (columns)</h3>"
        f'<div class="heat"><div>{drawn}<div class="scale">{low:.2f}<i></i>{high:.2f}<span>'
        f"own caption highest in {found} of {len(values)} rows</span></div></div>"
        f"<ol>{captions}</ol></div>"
    )


def _by_text(one: Artifact, thumbnails: dict[str, Any]) -> str:
    cells = "".join(
        f'<div class="{"is-hit" if answer["hit"] else "is-miss"}">'
        f"{picture(thumbnails, answer['position'])}{mark(answer['hit'])}"
        f"{_similarity(answer['similarity'])}</div>"
        for answer in one["answers"]
    )
    if not any(answer["hit"] for answer in one["answers"]):
        cells += f'<div class="truth">{picture(thumbnails, one["position"])}wanted</div>'
    return (
        f'<div class="card"><div class="query">{caption(one["caption"])}'
        f'<div class="rank">right picture at rank {one["rank"]:,}</div></div>'
        f'<div class="strip">{cells}</div></div>'
    )


def _by_image(one: Artifact, thumbnails: dict[str, Any]) -> str:
    answers = "".join(
        f"<li>{mark(answer['hit'])}{caption(answer['caption'])}"
        f'<span class="value">{_similarity(answer["similarity"])}</span></li>'
        for answer in one["answers"]
    )
    return (
        f'<div class="card asked"><div>{picture(thumbnails, one["position"])}'
        f'<div class="rank">rank {one["rank"]:,}</div></div>'
        f'<ol class="answers">{answers}</ol></div>'
    )


def _similarity(value: Any) -> str:
    return "no number" if value is None else f"{value:.2f}"


def class_matrix(counts: list[Any], names: list[Any], totals: list[Any]) -> str:
    """Who is taken for whom, as parts of each class."""
    shares = [
        [count / total if count else None for count in row] for row, total in zip(counts, totals)
    ]
    drawn = matrix(
        shares,
        lambda row, column, share: (
            f"{counts[row][column]} of {totals[row]} samples of {names[row]!r} were taken for "
            f"{names[column]!r}"
        ),
        0.0,
        1.0,
    )
    classes = "".join(f"<li>{caption(name)}</li>" for name in names)
    many = ' style="columns:2;column-gap:34px"' if len(names) > 20 else ""
    return (
        "<h3>Confusion: the class (rows) and what it was taken for (columns)</h3>"
        f'<div class="heat"><div style="max-width:{60 + WIDEST_CELL * len(names)}px">{drawn}'
        '<div class="scale">0 %<i></i>100 %<span>of the row</span></div></div>'
        f"<ol{many}>{classes}</ol></div>"
    )


def most_confused(pairs: list[Any], names: list[Any]) -> str:
    """The pairs of classes that are confused most often."""
    if not pairs:
        return ""
    rows = "".join(
        f'<tr><td>{caption(names[right])}</td><td class="left">{caption(names[taken])}</td>'
        f"<td>{count:,}</td></tr>"
        for right, taken, count in pairs[:8]
    )
    return (
        '<h3>Most confused</h3><div class="scroll"><table><thead><tr><th>class</th>'
        '<th style="text-align:left">taken for</th><th>times</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _sample(one: Artifact, names: list[Any], thumbnails: dict[str, Any]) -> str:
    taken, similarity = one["likeliest"][0]
    body = f"{mark(one['right'])}{caption(names[taken])}"
    if not one["right"]:
        body += f'<div class="rank">is {caption(names[one["label"]])}</div>'
    return (
        f'<div title="{text(_similarity(similarity))}">{picture(thumbnails, one["position"])}'
        f"{body}</div>"
    )
