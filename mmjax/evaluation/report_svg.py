"""Curves and matrices as inline SVG, drawn for a width of 360 so that a phone shows them 1:1."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from mmjax.evaluation.report_html import shown, source, text

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 22
COLOURS = 6
MOST_POINTS = 200
MOST_DOTS = 40
HEAD = 16

Merged = list[tuple[int, float, float, float]]  # (step, mean, lowest, highest)
Place = Callable[[int, float], str]  # (step, value) -> "x,y"


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
      label: its name in the legend.
      points: (step, value) by ascending step.
      level: what to compare with, such as chance; dashed, in the same colour, by the same steps.
    """

    label: str
    points: list[tuple[int, float]]
    level: list[tuple[int, float]] = dataclasses.field(default_factory=list)


def chart(title: str, lines: list[Line], rate_name: str = "") -> str:
    """A figure with a legend that gives each curve's last value.

    More points than fit are merged into means over equal numbers of steps; the band behind shows
    the lowest and highest of each.

    Args:
      title: above the chart.
      lines: at most a few; empty ones are left out.
      rate_name: a metric's name, by which values are shown in per cent or plain.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    drawn_lines = [(number % COLOURS, _merge(line.points)) for number, line in enumerate(lines)]
    levels = [
        (number % COLOURS, _merge(line.level)) for number, line in enumerate(lines) if line.level
    ]
    merged = [points for _, points in drawn_lines + levels]
    first = min(line.points[0][0] for line in lines)
    last = max(points[-1][0] for points in merged)
    ticks = _ticks(
        min(low for points in merged for _, _, low, _ in points),
        max(high for points in merged for _, _, _, high in points),
    )
    bottom, top = ticks[0], ticks[-1]

    def place(step: int, value: float) -> str:
        across = (step - first) / (last - first) if last > first else 0.5
        up = (value - bottom) / (top - bottom)
        x = LEFT + across * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    drawn = [_grid(ticks, place, first, rate_name), _steps(first, last)]
    drawn += [
        _path(points, colour, place, " stroke-dasharray='4 4' opacity='.75'")
        for colour, points in levels
    ]
    for (colour, points), line in zip(drawn_lines, lines):
        drawn += [_band(points, colour, place), _path(points, colour, place)]
        if len(points) <= MOST_DOTS:
            drawn.append(_dots(points, colour, place, line.label, rate_name))
    legend = "".join(
        _entry(line, colour, rate_name) for (colour, _), line in zip(drawn_lines, lines)
    )
    return (
        f'<figure><figcaption>{text(title)}</figcaption><div class="legend">{legend}</div>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(title)}">'
        f"{''.join(drawn)}</svg></figure>"
    )


def _entry(line: Line, colour: int, rate_name: str) -> str:
    level = f" (chance {shown(line.level[-1][1], rate_name)})" if line.level else ""
    return (
        f'<span><i style="background:var(--s{colour})"></i>'
        f"{text(line.label)} {shown(line.points[-1][1], rate_name)}{level}</span>"
    )


def _path(points: Merged, colour: int, place: Place, style: str = "") -> str:
    path = " ".join(place(step, mean) for step, mean, _, _ in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="var(--s{colour})" stroke-width="1.8" '
        f'stroke-linejoin="round"{style}/>'
    )


def _band(points: Merged, colour: int, place: Place) -> str:
    if not any(low < high for _, _, low, high in points):
        return ""
    there = [place(step, high) for step, _, _, high in points]
    back = [place(step, low) for step, _, low, _ in reversed(points)]
    return f'<polygon points="{" ".join(there + back)}" fill="var(--s{colour})" opacity=".16"/>'


def _dots(points: Merged, colour: int, place: Place, label: str, rate_name: str) -> str:
    dots = ""
    for step, mean, _, _ in points:
        x, y = place(step, mean).split(",")
        dots += (
            f'<circle cx="{x}" cy="{y}" r="2.4" fill="var(--s{colour})"><title>{text(label)} '
            f"{shown(mean, rate_name)} at step {step:,}</title></circle>"
        )
    return dots


def _grid(ticks: list[float], place: Place, first: int, rate_name: str) -> str:
    parts = []
    for tick in ticks:
        y = float(place(first, tick).split(",")[1])
        label = f"{100 * tick:g} %" if shown(1.0, rate_name).endswith("%") else _short(tick)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            'stroke="var(--grid)"/>'
            f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>'
        )
    return "".join(parts)


def _steps(first: int, last: int) -> str:
    y = HEIGHT - 6
    if last == first:
        middle = (LEFT + WIDTH - RIGHT) / 2
        return f'<text x="{middle}" y="{y}" text-anchor="middle">step {last:,}</text>'
    return (
        f'<text x="{LEFT}" y="{y}">{first:,}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{y}" text-anchor="end">step {last:,}</text>'
    )


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    if 0 < abs(value) < 1e-3:
        digits, power = f"{value:e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.10g}"


def _ticks(low: float, high: float) -> list[float]:
    """3 to 6 round numbers that reach from at most `low` to at least `high`."""
    if high - low < 1e-12 * max(abs(high), 1e-30):
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if high else (0.0, 1.0)
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    start, stop = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.10g}") for number in range(start, stop + 1)]


def _merge(points: list[tuple[int, float]]) -> Merged:
    """(step, mean, lowest, highest) of at most MOST_POINTS runs of neighbouring points."""
    size = math.ceil(len(points) / MOST_POINTS)
    merged = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        values = [value for _, value in part]
        merged.append((part[-1][0], math.fsum(values) / len(values), min(values), max(values)))
    return merged


def matrix(
    values: list[Any],
    title: Callable[[int, int, float], str],
    low: float,
    high: float,
    rows: list[Any] | None = None,
) -> str:
    """A square heat map whose diagonal is outlined; rows and columns are numbered from 1.

    Args:
      values: rows of numbers; None cells stay empty.
      title: (row, column, value) -> what a cell says when pointed at.
      low: the value without colour.
      high: the value with full colour.
      rows: a thumbnail (base64 JPEG) for each row, or none.
    """
    size = len(values)
    margin = 18 + (WIDTH / (size + 2) if rows else 0)  # numbers, then thumbnails
    cell = (WIDTH - margin - 1) / size
    every = max(1, math.ceil(size / 20))
    parts = []
    for row, cells in enumerate(values):
        y = HEAD + row * cell
        uri = source(rows[row]) if rows else None
        if uri:
            parts.append(
                f'<image x="{margin - cell - 3:.1f}" y="{y + 0.5:.1f}" width="{cell - 1:.1f}" '
                f'height="{cell - 1:.1f}" preserveAspectRatio="xMidYMid slice" href="{uri}"/>'
            )
        if row % every == 0:
            x = margin - 5 - (cell + 2 if rows else 0)
            middle = y + cell / 2 + 3
            across = margin + row * cell + cell / 2
            parts.append(
                f'<text x="{x:.1f}" y="{middle:.1f}" text-anchor="end">{row + 1}</text>'
                f'<text x="{across:.1f}" y="{HEAD - 5:.1f}" text-anchor="middle">'
                f"{row + 1}</text>"
            )
        for column, value in enumerate(cells):
            if value is None:
                continue
            share = (value - low) / (high - low) if high > low else 0.0
            parts.append(
                f'<rect class="cell" x="{margin + column * cell:.1f}" y="{y:.1f}" '
                f'width="{cell - 0.8:.1f}" height="{cell - 0.8:.1f}" rx="1" '
                f'fill-opacity="{0.04 + 0.96 * min(1.0, max(0.0, share)):.3f}">'
                f"<title>{text(title(row, column, value))}</title></rect>"
            )
        parts.append(
            f'<rect class="own" x="{margin + row * cell:.1f}" y="{y:.1f}" '
            f'width="{cell - 0.8:.1f}" height="{cell - 0.8:.1f}" rx="1"/>'
        )
    height = HEAD + size * cell + 2
    return (
        f'<svg class="matrix" viewBox="0 0 {WIDTH} {height:.0f}" role="img">{"".join(parts)}</svg>'
    )
