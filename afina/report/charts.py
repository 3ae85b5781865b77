"""Charts as inline SVG whose places are percentages: they stretch to the page, their letters do not.

Lines live in an inner picture of 1000 x 1000 units that is stretched; dots, ticks and words stand
outside it, at percentages, so that they keep their shape on a phone and on paper.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from afina.report.labels import number, percent, show_share
from afina.report.language import figure, tr
from afina.report.language import label as in_words
from afina.report.render import macro

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of a chart: points (x, y) by growing x, a CSS class for its colour, and its name in the key."""

    name: str
    class_: str
    points: Sequence[Point]
    dots: bool = False
    """Draw each point too, with its value as a tooltip."""


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values that lie between `low` and `high`, about `count` of them.

    >>> nice_ticks(0, 600)
    [0.0, 100.0, 200.0, 300.0, 400.0, 500.0, 600.0]
    >>> nice_ticks(0.4, 2.3)
    [0.5, 1.0, 1.5, 2.0]
    >>> nice_ticks(3, 3)
    [3.0]
    """
    if not high > low:
        return [float(low)]
    rough = (high - low) / count
    scale = 10.0 ** math.floor(math.log10(rough))
    step = scale * min((1, 2, 5, 10), key=lambda factor: abs(math.log(factor * scale / rough)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(position * step, 12) for position in range(first, last + 1)]


def smooth(values: Sequence[float], half: int) -> list[float]:
    """Mean of each value and its neighbours, up to `half` on both sides: it does not lag behind a falling curve.

    >>> smooth([0.0, 3.0, 6.0, 0.0], half=1)
    [1.5, 3.0, 3.0, 3.0]
    """
    sums = [0.0, *itertools.accumulate(values)]
    out = []
    for position in range(len(values)):
        start, end = max(0, position - half), min(len(values), position + half + 1)
        out.append((sums[end] - sums[start]) / (end - start))
    return out


def thin(points: Sequence[Point], limit: int = 1200) -> list[Point]:
    """At most about `limit` points; of each stretch the lowest and the highest stay, so no spike is lost.

    >>> thin([(x, float(x == 5)) for x in range(10)], limit=4)
    [(0, 0.0), (4, 0.0), (5, 1.0), (6, 0.0)]
    """
    if len(points) <= limit:
        return list(points)
    size = math.ceil(len(points) / (limit / 2))
    kept: list[Point] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        lowest, highest = min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])
        if lowest[1] == highest[1]:
            highest = part[-1]
        kept += sorted({lowest, highest})
    return kept


def line_chart(
    lines: Sequence[Line],
    *,
    label: str,
    x_name: str,
    y_name: str,
    height: int = 280,
    marks: Sequence[tuple[float, str]] = (),
    ceiling: tuple[float, str] | None = None,
    tips: Sequence[tuple[float, str]] = (),
    from_zero: bool = False,
    always_key: bool = False,
) -> Markup:
    """Lines over a common x axis.

    Args:
        label: what the picture shows, for those who hear the page.
        x_name, y_name: axes with their units.
        marks: x positions with a word, drawn as upright dashed lines (a resume).
        ceiling: a y value with a word, drawn as a level dashed line (a limit).
        tips: x positions with the text that appears over the stretch around them.
        from_zero: whether the y axis begins at 0.
        always_key: name the lines where there is one, too.
    """
    everything = [point for line in lines for point in line.points]
    xs = [x for x, _ in everything] + [x for x, _ in marks]
    ys = [y for _, y in everything]
    # The limit is drawn only where the data comes near it; a far one would flatten everything else.
    shown_ceiling = ceiling if ceiling and ys and ceiling[0] <= 1.6 * max(ys) else None
    ys += [shown_ceiling[0]] if shown_ceiling else []
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = (0.0 if from_zero else min(ys)), max(ys)
    room = 0.06 * (y_high - y_low) or abs(y_high) * 0.1 or 1.0
    y_low, y_high = (0.0 if from_zero else y_low - room), y_high + room

    def px(x: float) -> float:
        return 50.0 if x_high == x_low else round(100 * (x - x_low) / (x_high - x_low), 2)

    def py(y: float) -> float:
        return round(100 * (y_high - y) / (y_high - y_low), 2)

    drawn = _Chart(
        label=label,
        x_name=x_name,
        y_name=y_name,
        height=height,
        key=[(line.name, line.class_ + (" round" if line.dots else "")) for line in lines]
        if len(lines) > 1 or always_key
        else [],
        y_ticks=[(py(y), _tick(y)) for y in nice_ticks(y_low, y_high, 5 if height > 200 else 3)],
        x_ticks=[(px(x), _tick(x)) for x in _whole(nice_ticks(x_low, x_high, 6 if height > 200 else 3))],
        marks=[(px(x), word) for x, word in marks],
        ceiling=(py(shown_ceiling[0]), shown_ceiling[1]) if shown_ceiling else None,
        paths=[
            (line.class_, " ".join(f"{px(x) * 10:.5g},{py(y) * 10:.5g}" for x, y in line.points))
            for line in lines
            if len(line.points) > 1
        ],
        strips=_strips([px(x) for x, _ in tips], [text for _, text in tips]),
        dots=[
            (px(x), py(y), line.class_, tr("{name}: {y} at {x}", name=line.name, y=number(y), x=number(x)))
            for line in lines
            if line.dots or len(line.points) == 1
            for x, y in line.points
        ],
    )
    return macro("charts.html", "line_chart", drawn)


class NamedPoint(NamedTuple):
    """A point of a :func:`point_chart`, with its name beside it."""

    name: str
    class_: str
    """CSS class of its colour."""
    x: float
    y: float
    before: float | None = None
    """Where it came from: a small hollow dot above or below it, and a line between the two."""
    interval: tuple[float, float] | None = None


_LABEL_PIXELS = 16
"""Least distance of two labels."""
_WORD_SHARE = 0.14
"""Of an axis, what a number below it takes on a phone."""


def point_chart(
    points: Sequence[NamedPoint],
    *,
    label: str,
    x_name: str,
    y_name: str,
    key: Sequence[tuple[str, str]],
    height: int = 340,
) -> Markup:
    """Named points over a logarithmic x axis.

    Args:
        points: at least one; every x above 0.
        label: what the picture shows, for those who hear the page.
        x_name, y_name: axes with their units.
        key: names and CSS classes of the colours.
    """
    x_low, x_high = (math.log10(end(point.x for point in points)) for end in (min, max))
    room = 0.06 * (x_high - x_low) or 0.3
    # Labels stand at the right of their dots, and need more room there.
    x_low, x_high = x_low - room, x_high + 3 * room
    ys = [y for point in points for y in (point.y, point.before, *(point.interval or ())) if y is not None]
    y_room = 0.08 * (max(ys) - min(ys)) or abs(max(ys)) * 0.1 or 1.0
    y_low, y_high = min(ys) - y_room, max(ys) + y_room
    y_low = max(y_low, 0.0) if min(ys) >= 0 else y_low  # no share and no loss is below

    def px(x: float) -> float:
        return round(100 * (math.log10(x) - x_low) / (x_high - x_low), 2)

    def py(y: float) -> float:
        return round(100 * (y_high - y) / (y_high - y_low), 2)

    labels = spread([py(point.y) * height / 100 for point in points], _LABEL_PIXELS, height)
    drawn = [
        {
            "x": px(point.x),
            "y": py(point.y),
            "kind": point.class_,
            "name": point.name,
            "before": None if point.before is None else py(point.before),
            "interval": [py(end) for end in point.interval] if point.interval else None,
            "down": round(at - py(point.y) * height / 100, 1),
            "left": px(point.x) > 72,
            "tip": tr("{name}: {y} at {x}", name=point.name, y=number(point.y), x=number(point.x)),
        }
        for point, at in zip(points, labels, strict=True)
    ]
    y_ticks = [(py(y), _tick(y)) for y in nice_ticks(y_low, y_high)]
    x_ticks = [(px(x), _tick(x)) for x in log_ticks(10**x_low, 10**x_high)]
    return macro("charts.html", "point_chart", (label, x_name, y_name, height, key), x_ticks, y_ticks, drawn)


def spread(wanted: Sequence[float], least: float, end: float) -> list[float]:
    """Each position moved so far that all are at least `least` apart, between 0 and `end` where there is room.

    >>> spread([50, 10, 12], 5, 100)
    [50, 10, 15]
    >>> spread([98, 99], 5, 100)
    [95, 100]
    """
    out = list(wanted)
    order = sorted(range(len(out)), key=lambda n: out[n])
    for before, after in itertools.pairwise(order):
        out[after] = max(out[after], out[before] + least)
    limit = end
    for position in reversed(order):
        out[position] = min(out[position], limit)
        limit = out[position] - least
    return out


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two positive numbers; the powers alone where these are many, and round
    values where they are few.

    >>> log_ticks(0.08, 3)
    [0.1, 0.2, 0.5, 1.0, 2.0]
    >>> log_ticks(0.5, 20000)
    [1.0, 10.0, 100.0, 1000.0, 10000.0]
    >>> log_ticks(8, 11)
    [8.0, 8.5, 9.0, 9.5, 10.0, 10.5, 11.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 3 else (1,)
    found = [float(f"{step}e{power}") for power in powers for step in steps]
    within = [tick for tick in found if low <= tick <= high]
    return within if len(within) > 2 else _apart(nice_ticks(low, high), math.log10(high / low))


def _apart(ticks: Sequence[float], decades: float) -> list[float]:
    """Round values on a logarithmic axis that are so far apart that their words fit beside each other on a phone.

    >>> _apart([0.01, 0.012, 0.014, 0.016, 0.018], math.log10(0.02 / 0.005))
    [0.01, 0.014, 0.018]
    """
    kept: list[float] = []
    for tick in ticks:
        if not kept or math.log10(tick / kept[-1]) >= _WORD_SHARE * decades:
            kept.append(tick)
    return kept


@dataclass(frozen=True)
class _Chart:
    """A chart as ``charts.html`` draws it; places in percent."""

    label: str
    x_name: str
    y_name: str
    height: int
    key: list[tuple[str, str]]
    y_ticks: list[tuple[float, str]]
    x_ticks: list[tuple[float, str]]
    marks: list[tuple[float, str]]
    ceiling: tuple[float, str] | None
    paths: list[tuple[str, str]]
    strips: list[tuple[str, str, str]]
    dots: list[tuple[float, float, str, str]]


def _strips(edges: Sequence[float], texts: Sequence[str]) -> list[tuple[str, str, str]]:
    """Invisible upright strips that carry the tooltips: left end, width, text."""
    strips = []
    for position, text in enumerate(texts):
        left = (edges[position - 1] + edges[position]) / 2 if position else 0.0
        right = (edges[position] + edges[position + 1]) / 2 if position + 1 < len(edges) else 100.0
        strips.append((f"{left:.2f}", f"{max(0.0, right - left):.2f}", text))
    return strips


def _tick(value: float) -> str:
    """A number on an axis; small rates as powers of ten.

    >>> _tick(2e-4), _tick(600.0), _tick(0.5), _tick(0.0)
    ('2e-4', '600', '0.5', '0')
    """
    if value and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return figure(f"{mantissa.removesuffix('.0')}e{int(exponent)}")
    return number(value)


def _whole(ticks: Sequence[float]) -> list[float]:
    """Steps are whole numbers, their ticks too."""
    return [tick for tick in ticks if tick == int(tick)]


def share_bars(rows: Sequence[tuple[str, float, float | None, float | None]]) -> Markup:
    """Level bars of shares between 0 and 1, each (name, share, low, high); the name is its CSS class too."""
    drawn = []
    for name, share, low, high in rows:
        between, ends = "", None
        if low is not None and high is not None:
            between = tr(", interval {low} to {high}", low=percent(low), high=percent(high))
            ends = [f"{100 * end:.2f}" for end in (low, high)]
        drawn.append((name, f"{in_words(name)}: {percent(share)}{between}", f"{100 * share:.2f}", ends))
    said = "; ".join(f"{in_words(name)} {percent(share)}" for name, share, _, _ in rows)
    return macro("charts.html", "share_bars", drawn, said)


def range_bar(
    point: float | None, low: float | None, high: float | None, measured: float | None, limit: float | None = None
) -> Markup:
    """A predicted interval as a band, its point as a tick, the measured value as a dot, a near limit dashed."""
    values = [value for value in (point, low, high, measured) if value is not None]
    # A limit far beyond would squeeze everything else into a corner.
    if limit is not None and values and limit <= 2.5 * max(values):
        values.append(limit)
    else:
        limit = None
    top = 1.08 * max(values) if values and max(values) > 0 else 1.0

    def px(value: float | None) -> str | None:
        return None if value is None else f"{100 * value / top:.2f}"

    band = (px(low), px(high - low)) if low is not None and high is not None else None
    return macro("charts.html", "range_bar", px(point), band, px(limit), px(measured))


def stacked(parts: Sequence[tuple[str, float]]) -> Markup:
    """Shares of a whole as one bar; the names stand in the table beside it."""
    total = sum(size for _, size in parts) or 1.0
    left, drawn = 0.0, []
    for name, size in parts:
        width = 100 * size / total
        drawn.append((f"{left:.2f}", f"{width:.2f}", f"{name}: {show_share(size / total)}"))
        left += width
    return macro("charts.html", "stacked", drawn)
