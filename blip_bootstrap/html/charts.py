"""Charts without a library: tables with bars in HTML, curves and histograms in inline SVG, in the page's colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 360, 200, 44, 36, 12, 10

MAX_POINTS = 240
"""A curve of more is thinned to so many."""

XY = tuple[float, float]
"""A place in a chart: of the data, or of the drawing in px."""


@dataclass(frozen=True)
class Segment:
    """A piece of a stacked bar: its name, its number and its tone (a CSS class: kept, dropped, web, ...)."""

    name: str
    number: float
    tone: str


def stack(name: str, segments: Sequence[Segment], full: float) -> str:
    """One stacked bar with its numbers below it as a legend; a bar of `full` is as wide as the page."""
    segments = [one for one in segments if one.number]
    total = sum(one.number for one in segments)
    spans = "".join(f'<span class="{one.tone}" style="flex:{one.number:.6g}"></span>' for one in segments)
    legend = "".join(
        f'<span class="{one.tone}"><i></i>{escape(one.name)} {one.number:,.0f} ({_percent(one.number / total)})</span>'
        for one in segments
    )
    width = f"{100 * total / full:.2f}%" if full else "0%"
    return (
        f'<li><span class="name">{escape(name)}: {total:,.0f}</span>'
        f'<div class="stack" style="--share:{width}" aria-hidden="true">{spans}</div>'
        f'<div class="legend">{legend}</div></li>'
    )


def bars(rows: Sequence[tuple[str, float, str, str]], caption: str) -> str:
    """A table of bars; each row is (label, length of the bar >= 0, value in words, tone)."""
    longest = max((length for _, length, _, _ in rows), default=0) or 1
    lines = [
        f'<tr><th scope="row">{escape(label)}</th><td class="track" aria-hidden="true">'
        f'<span class="bar {tone}" style="--share:{100 * length / longest:.2f}%"></span></td>'
        f'<td class="num">{escape(text)}</td></tr>'
        for label, length, text, tone in rows
    ]
    return f'<table class="bars"><caption class="note">{escape(caption)}</caption>{"".join(lines)}</table>'


def ranges(rows: Sequence[tuple[str, float, float, float, str]], caption: str) -> str:
    """A table of shares 0..1 with their intervals; each row is (label, share, low, high, tone)."""
    lines = [
        f'<tr><th scope="row">{escape(label)}</th><td class="track" aria-hidden="true"><span class="range {tone}" '
        f'style="--at:{100 * share:.2f}%;--low:{100 * low:.2f}%;--high:{100 * high:.2f}%"><i></i><b></b></span></td>'
        f'<td class="num">{_percent(share)} <span class="note">({_percent(low)} to {_percent(high)})</span></td></tr>'
        for label, share, low, high, tone in rows
    ]
    return f'<table class="bars"><caption class="note">{escape(caption)}</caption>{"".join(lines)}</table>'


def lines(
    title: str, series: Mapping[str, Sequence[XY]], tones: Sequence[str], x_name: str = "step", marked: bool = False
) -> str:
    """A chart of one or several curves over the same axes; `marked` puts a dot on each of their points."""
    thinned = {name: _thin(points) for name, points in series.items() if points}
    points = [point for each in thinned.values() for point in each]
    if not points:
        return ""
    x_ticks, y_ticks = _ticks([x for x, _ in points], 1 if marked else 0), _ticks([y for _, y in points])
    place = _scale(x_ticks, y_ticks)
    curves, names = [], []
    tone_of = dict(zip(series, tones, strict=False))
    for name, each in thinned.items():
        tone = tone_of[name]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(point) for point in each))
        curves.append(f'<polyline class="curve {tone}" points="{path}"/>')
        if marked:
            dots = (f'<circle class="filled {tone}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in map(place, each))
            curves += dots
        names.append(f'<span class="{tone}"><i></i>{escape(name)}</span>')
    last = "; ".join(f"{name} ends at {_short(each[-1][1])}" for name, each in thinned.items())
    legend = f'<div class="legend">{"".join(names)}</div>' if len(names) > 1 else ""
    return _figure(title, last, _axes(x_ticks, y_ticks, place, x_name) + "".join(curves), legend)


@dataclass(frozen=True)
class Dots:
    """A row of `dots`: its name, its values, their mean, the interval of that where there is one, and its tone."""

    name: str
    values: Sequence[float]
    mean: float
    low: float | None
    high: float | None
    tone: str


def dots(title: str, rows: Sequence[Dots], with_zero: bool = False) -> str:
    """A chart of one row for each name: a dot for each value, a bar at the mean, a band over the interval.

    `with_zero` draws the line at zero, for differences.
    """
    if not rows:
        return ""
    ends = [end for row in rows for end in (*row.values, row.low, row.high, 0.0 if with_zero else None)]
    ticks = _ticks([end for end in ends if end is not None])
    left, step = 14 + 6.4 * max(len(row.name) for row in rows), 20
    per_x, bottom = (WIDTH - left - RIGHT) / (ticks[-1] - ticks[0]), TOP + step * len(rows)

    def at(value: float) -> float:
        return left + (value - ticks[0]) * per_x

    drawn = []
    for number, tick in enumerate(ticks):
        kind, anchor = "mark" if with_zero and abs(tick) < 1e-12 else "axis", _anchor(number, len(ticks))
        drawn.append(f'<line class="{kind}" x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="{TOP}" y2="{bottom}"/>')
        drawn.append(f'<text x="{at(tick):.1f}" y="{bottom + 14}" text-anchor="{anchor}">{_short(tick)}</text>')
    for number, row in enumerate(rows):
        drawn.append(_dots_row(row, TOP + step * (number + 0.5), left, at))
    said = "; ".join(f"{row.name} {row.mean:.3g}" for row in rows)
    return _figure(title, said, "".join(drawn), height=bottom + 20)


def _dots_row(row: Dots, y: float, left: float, at: Callable[[float], float]) -> str:
    band = ""
    if row.low is not None and row.high is not None:
        wide = max(1.0, at(row.high) - at(row.low))
        place = f'x="{at(row.low):.1f}" y="{y - 5:.1f}" width="{wide:.1f}" height="10"'
        band = f'<rect class="filled {row.tone}" opacity=".3" {place}/>'
    mean = f'<rect class="filled {row.tone}" x="{at(row.mean) - 1.5:.1f}" y="{y - 7:.1f}" width="3" height="14"/>'
    points = "".join(
        f'<circle class="filled {row.tone}" opacity=".7" cx="{at(one):.1f}" cy="{y:.1f}" r="2.5"/>'
        for one in row.values
    )
    name = f'<text x="{left - 6:.1f}" y="{y + 3.5:.1f}" text-anchor="end">{escape(row.name)}</text>'
    return name + band + points + mean


def _anchor(number: int, num: int) -> str:
    return "end" if number == num - 1 else "middle"


def histogram(title: str, counts: Sequence[float], threshold: float | None) -> str:
    """A histogram: numbers of texts in equal bins of a score 0..1; bins below the threshold have the tone `dropped`."""
    if not any(counts):
        return ""
    x_ticks, y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0], _ticks([0.0, *counts])
    place, num = _scale(x_ticks, y_ticks), len(counts)
    bins = []
    for at, count in enumerate(counts):
        (left, top), (right, bottom) = place((at / num, count)), place(((at + 1) / num, 0.0))
        tone = "dropped" if threshold is not None and (at + 0.5) / num < threshold else "kept"
        bins.append(
            f'<rect class="filled {tone}" x="{left + 0.5:.1f}" y="{top:.1f}" width="{right - left - 1:.1f}" '
            f'height="{bottom - top:.1f}"><title>{at / num:.2f} to {(at + 1) / num:.2f}: {count:,.0f}</title></rect>'
        )
    mark, below = "", ""
    if threshold is not None:
        x, _ = place((threshold, 0.0))
        anchor = "end" if threshold > 0.7 else "start"
        mark = f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>' + (
            f'<text class="mark-text" x="{x + (-4 if anchor == "end" else 4):.1f}" y="{TOP + 8}" '
            f'text-anchor="{anchor}">threshold {threshold:.3g}</text>'
        )
        under = sum(count for at, count in enumerate(counts) if (at + 0.5) / num < threshold)
        below = f"; {_percent(under / sum(counts))} below the threshold of {threshold:.3g}"
    label = f"{sum(counts):,.0f} scored texts{below}"
    return _figure(title, label, _axes(x_ticks, y_ticks, place, "ITM score") + "".join(bins) + mark)


def _figure(title: str, label: str, drawing: str, legend: str = "", height: float = HEIGHT) -> str:
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'aria-label="{escape(title)}: {escape(label)}">{drawing}</svg>{legend}</figure>'
    )


def _ticks(values: Sequence[float], least_step: float = 0) -> list[float]:
    """Two to six round numbers (1, 2 or 5 times a power of ten apart) that span the values."""
    low, high = min(values), max(values)
    if high - low < 1e-12:
        low, high = min(low, 0.0), max(high, 0.0) or 1.0
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = max(least_step, next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [at * step for at in range(first, last + 1)]


class _scale:  # noqa: N801 - used as a function
    """Maps a point of the data to the drawing."""

    def __init__(self, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> None:
        self.x0, self.y0 = x_ticks[0], y_ticks[0]
        self.per_x = (WIDTH - LEFT - RIGHT) / (x_ticks[-1] - x_ticks[0])
        self.per_y = (HEIGHT - BOTTOM - TOP) / (y_ticks[-1] - y_ticks[0])

    def __call__(self, point: XY) -> XY:
        return LEFT + (point[0] - self.x0) * self.per_x, HEIGHT - BOTTOM - (point[1] - self.y0) * self.per_y


def _axes(x_ticks: Sequence[float], y_ticks: Sequence[float], place: _scale, x_name: str) -> str:
    drawn = []
    for tick in y_ticks:
        _, y = place((x_ticks[0], tick))
        drawn.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{_short(tick)}</text>')
    for at, tick in enumerate(x_ticks):
        x, _ = place((tick, y_ticks[0]))
        anchor = _anchor(at, len(x_ticks))
        drawn.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="{anchor}">{_short(tick)}</text>')
    drawn.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 5}" text-anchor="middle">{x_name}</text>')
    return "".join(drawn)


def _thin(points: Sequence[XY]) -> list[XY]:
    """At most MAX_POINTS points, each the mean of its neighbours."""
    size = max(1, math.ceil(len(points) / MAX_POINTS))
    chunks = [points[at : at + size] for at in range(0, len(points), size)]
    return [(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks]


def _short(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value / 1000:g}k" if abs(value) < 1e6 else f"{value / 1e6:g}M"
    return f"{value:.3g}"


def _percent(share: float) -> str:
    return "under 0.1%" if 0 < share < 0.0005 else f"{share:.1%}"
