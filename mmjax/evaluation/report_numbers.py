"""The report's parts that are made from metrics.jsonl: headline, table, curves, bad samples."""

from collections.abc import Callable, Sequence

from mmjax.evaluation.report_html import is_rate, section, shown, text
from mmjax.evaluation.report_read import Run, Series
from mmjax.evaluation.report_svg import Line, chart

EMA = "ema/"
SECONDS = "evaluation_seconds"  # what the evaluation itself took
HEADLINES = ("top1", "text_to_image/R@1", "image_to_text/R@1", "text_to_image/R@10")
SHARES = ("accuracy", "consistency", "mean_average_precision")
ONE_KIND = "accuracy@"  # then the kind of samples that it is of
MOST_LINES = 6
WORDS = {
    "top1": "zero-shot accuracy",
    "top5": "zero-shot top-5",
    "text_to_image": "text → picture",
    "image_to_text": "picture → text",
    "mean_per_class": "mean accuracy per class",
    "median_rank": "median rank",
    "mean_rank": "mean rank",
    "mean_average_precision": "mean average precision",
    "answer_type": "answer type:",
    "question_type": "question type:",
    "accuracy_best": "accuracy, best of this vocabulary",
}


def headline(run: Run) -> str:
    """The few numbers to see first, with chance beside."""
    chosen = []
    for end in HEADLINES:
        names = [
            name for name in run.evaluate if name.endswith(f"/{end}") and not name.startswith(EMA)
        ]
        names += [
            name.removeprefix(EMA)
            for name in run.evaluate
            if name.startswith(EMA) and name.endswith(f"/{end}")
        ]
        chosen += list(dict.fromkeys(names))[:1]
    for end in SHARES:  # one of each evaluator that says what chance gives
        names = [name for name in run.evaluate if not name.startswith(EMA)]
        chosen += [
            name
            for name in names
            if name.partition("/")[2] == end and f"{name}_chance" in run.evaluate
        ]
    cards = "".join(_card(run.evaluate, name, _classified(run)) for name in chosen)
    if "loss" in run.train:
        points = run.train["loss"]
        cards += _box("training loss", shown(points[-1][1]), f"{shown(points[0][1])} at the start")
    return f'<div class="cards">{cards}</div>' if cards else ""


def numbers(run: Run) -> str:
    """Every number of the newest evaluation, for both sets of parameters."""
    if not run.evaluate:
        return section(
            "Evaluation", "", "No evaluation was logged, so there are no numbers to show here."
        )
    by_evaluator: dict[str, list[str]] = {}
    for name in run.evaluate:
        plain = name.removeprefix(EMA)
        if plain.endswith("_chance") or name == SECONDS:
            continue
        evaluator, _, rest = plain.partition("/")
        known = by_evaluator.setdefault(evaluator if rest else "", [])
        if plain not in known:
            known.append(plain)
    both = any(name.startswith(EMA) for name in run.evaluate)
    columns = ("moving average", "raw", "chance") if both else ("value", "chance")
    rows = []
    for evaluator, names in by_evaluator.items():
        if evaluator:
            rows.append(
                f'<tr class="head"><td colspan="{len(columns) + 1}">{text(evaluator)}</td></tr>'
            )
        classified = evaluator in _classified(run)
        rows += [_row(run.evaluate, name, evaluator, both, classified) for name in names]
    steps = {points[-1][0] for points in run.evaluate.values()}
    took = run.evaluate.get(SECONDS)
    head = "".join(f"<th>{column}</th>" for column in columns)
    return section(
        "Evaluation",
        f'<div class="scroll"><table><thead><tr><th>step {max(steps):,}</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>",
        "On held-out data. Chance is what a random order gives for the same right answers, and for "
        "answers and statements what the most frequent one gives; ties count against the model."
        + (" Numbers of an earlier step stand with their step." if len(steps) > 1 else "")
        + (f" The evaluation took {took[-1][1]:,.1f} s." if took else ""),
    )


def curves(run: Run) -> str:
    """Curves of training, then of evaluation; what has no chart of its own is folded away."""
    left = {name: points for name, points in run.train.items() if name != "stop"}
    charts = [
        chart("Loss", _take(left, lambda name: name == "loss" or name.startswith("loss/"))),
        chart("In-batch accuracy", _take(left, lambda name: "accuracy" in name), "accuracy"),
        chart("Learning rate", _take(left, lambda name: name in ("rate", "learning_rate"))),
        chart("Scale", _take(left, lambda name: name == "scale")),
        chart("Bias", _take(left, lambda name: name == "bias")),
        chart("Gradient norm", _take(left, lambda name: name.startswith("grad"))),
        chart("Update norm", _take(left, lambda name: name.startswith("update_norm"))),
        chart("Images per second", _take(left, lambda name: "images_per_second" in name)),
    ]
    rest = {
        name: points for name, points in left.items() if len({value for _, value in points}) > 1
    }
    folded = [chart(name, [Line(name.rsplit("/", 1)[-1], rest[name])], name) for name in rest]
    body = f'<div class="grid">{"".join(charts)}</div>' if any(charts) else ""
    if folded:
        body += (
            f"<details><summary>{len(folded)} more curves</summary>"
            f'<div class="grid">{"".join(folded)}</div></details>'
        )
    measured = evaluation_charts(run.evaluate)
    if measured:
        body += f'<h3>On held-out data</h3><div class="grid">{"".join(measured)}</div>'
    return section("Curves", body or '<p class="lead">No curve was logged.</p>')


def evaluation_charts(series: Series) -> list[str]:
    """One chart for each family of evaluation numbers, such as the R@k of one direction."""
    families: dict[tuple[str, str], list[str]] = {}
    for name in series:
        plain = name.removeprefix(EMA)
        if (
            plain.endswith(("_chance", "/mean_rank"))
            or name == SECONDS
            or len({value for _, value in series[name]}) < 2
        ):
            continue
        parent, _, last = plain.rpartition("/")
        kind = last.split("@")[0] if is_rate(plain) else last
        kind = "top" if kind.startswith("top") else kind
        families.setdefault((parent, kind), []).append(name)
    charts = []
    for (parent, _), names in families.items():
        # With a moving average, the raw curve would double every line: it is in the table.
        averaged = [name for name in names if name.startswith(EMA)]
        lines = [
            Line(
                name.rsplit("/", 1)[-1].removeprefix(ONE_KIND),
                series[name],
                series.get(f"{name}_chance", []),
            )
            for name in (averaged or names)[:MOST_LINES]
        ]
        label = " · ".join(filter(None, (*_named(parent), *_single(names))))
        charts.append(chart(label, lines, names[0]))
    return charts


def bad_samples(run: Run) -> str:
    """How many samples were thrown away, by cause."""
    marker = "bad_samples"
    counts = {
        name.split(marker, 1)[1].strip("/_.") or "all": points[-1][1]
        for name, points in run.train.items()
        if marker in name
    }
    if len(counts) > 1:
        counts.pop("all", None)  # the sum of the others
    if not counts:
        return section("Bad samples", "", "No counts of bad samples were logged.")
    samples = next(
        (run.train[name][-1][1] for name in ("counters/samples", "samples") if name in run.train),
        0.0,
    )
    seen = f" Samples seen: {shown(samples)}." if samples else ""
    bad = {cause: count for cause, count in counts.items() if count}
    if not bad:
        return section("Bad samples", "", f"None so far.{seen}")
    most = max(bad.values())
    rows = "".join(
        f"<tr><td>{text(cause)}</td><td>{shown(count)}</td>"
        f'<td style="width:45%"><span class="bar" style="width:{100 * count / most:.1f}%"></span>'
        "</td></tr>"
        for cause, count in sorted(bad.items(), key=lambda entry: -entry[1])
    )
    return section(
        "Bad samples",
        f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>',
        f"Samples that could not be used and were replaced, by cause.{seen}",
    )


def _take(left: Series, wanted: Callable[[str], bool]) -> list[Line]:
    """The wanted series as lines, taken out of what is left over."""
    names = [name for name in left if wanted(name)]
    together = len(names) > 1
    return [
        Line(name.rsplit("/", 1)[-1] if "/" in name else ("all" if together else name), points)
        for name, points in ((name, left.pop(name)) for name in names)
    ]


def _named(parent: str) -> tuple[str, ...]:
    return tuple(WORDS.get(part, part.replace("_", "-")) for part in parent.split("/"))


def _single(names: list[str]) -> tuple[str, ...]:
    """The metric's own name, where a chart shows only one."""
    lasts = {name.rsplit("/", 1)[-1] for name in names}
    return tuple(WORDS.get(last, last) for last in lasts) if len(lasts) == 1 else ()


def _last(series: Series, name: str) -> float | None:
    return series[name][-1][1] if name in series else None


def _classified(run: Run) -> set[str]:
    """Names of the evaluators whose classes were trained and are no zero-shot ones."""
    return {name for name, one in run.artifacts.items() if one.get("kind") == "classifying"}


def _said(parts: Sequence[str], classified: bool) -> str:
    """A metric's name in words."""
    more = {"top1": "top-1 accuracy", "top5": "top-5 accuracy"} if classified else {}
    return " ".join(more.get(p) or WORDS.get(p, p.removeprefix(ONE_KIND)) for p in parts)


def _card(series: Series, name: str, classified: set[str]) -> str:
    best = EMA + name if EMA + name in series else name
    value = series[best][-1][1]
    chance = _last(series, f"{best}_chance")
    parts = name.split("/")[1:]
    if parts[-1] in SHARES:
        parts = name.split("/")
    label = _said(parts, name.partition("/")[0] in classified)
    below = ""
    meter = f'<i style="width:{100 * min(1.0, max(0.0, value)):.1f}%"></i>'
    if chance is not None:
        below = f"chance {shown(chance, name)}"
        if chance > 0:
            below += f" · {value / chance:.3g}×"
        meter += f'<b style="left:{100 * min(1.0, max(0.0, chance)):.1f}%"></b>'
    return _box(label, shown(value, name), below, f'<div class="meter">{meter}</div>')


def _box(label: str, value: str, below: str, meter: str = "") -> str:
    return (
        f'<div class="card"><div class="label">{text(label)}</div><div class="big">{text(value)}'
        f'</div>{meter}<div class="small">{text(below)}</div></div>'
    )


def _row(series: Series, name: str, evaluator: str, both: bool, classified: bool) -> str:
    newest = max(points[-1][0] for points in series.values())
    label = _said(name.removeprefix(f"{evaluator}/").split("/"), classified)
    cells = []
    for full in (EMA + name, name) if both else (name,):
        value = _last(series, full)
        cell = "–" if value is None else shown(value, name)
        if value is not None and series[full][-1][0] != newest:
            cell += f" (step {series[full][-1][0]:,})"
        cells.append(cell)
    chances = [_last(series, f"{full}_chance") for full in (EMA + name, name)]
    chance = next((value for value in chances if value is not None), None)
    cells.append("" if chance is None else shown(chance, name))
    return f"<tr><td>{text(label)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
