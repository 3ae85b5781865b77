"""Charts as inline SVG whose places are percentages: they stretch to the page, their letters do not.

Lines live in an inner picture of 1000 x 1000 units that is stretched; dots, ticks and words stand
outside it, at percentages, so that they keep their shape on a phone and on paper.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from afina.report.markup import Child, Html, h, join, number, percent
from afina.units import show_share

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
) -> Html:
    """Lines over a common x axis.

    Args:
        label: what the picture shows, for those who hear the page.
        x_name, y_name: axes with their units.
        marks: x positions with a word, drawn as upright dashed lines (a resume).
        ceiling: a y value with a word, drawn as a level dashed line (a limit).
        tips: x positions with the text that appears over the stretch around them.
        from_zero: whether the y axis begins at 0.
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

    parts: list[Child] = []
    for y in nice_ticks(y_low, y_high, 5 if height > 200 else 3):
        parts.append(h("line", x1="0", x2="100%", y1=f"{py(y)}%", y2=f"{py(y)}%", class_="grid"))
        parts.append(h("text", _tick(y), x="0", y=f"{py(y)}%", dx="-8", dy="4", class_="tick end"))
    for x in _whole(nice_ticks(x_low, x_high, 6 if height > 200 else 3)):
        parts.append(
            h("line", x1=f"{px(x)}%", x2=f"{px(x)}%", y1="100%", y2="100%", class_="axis", transform="translate(0 5)")
        )
        parts.append(h("text", _tick(x), x=f"{px(x)}%", y="100%", dy="17", class_="tick mid"))
    parts.append(h("line", x1="0", x2="100%", y1="100%", y2="100%", class_="axis"))
    for x, word in marks:
        side = "end" if px(x) > 70 else "start"
        parts.append(h("line", x1=f"{px(x)}%", x2=f"{px(x)}%", y1="0", y2="100%", class_="mark"))
        parts.append(h("text", word, x=f"{px(x)}%", y="12", dx="-5" if side == "end" else "5", class_=f"tick {side}"))
    if shown_ceiling:
        y = py(shown_ceiling[0])
        parts.append(h("line", x1="0", x2="100%", y1=f"{y}%", y2=f"{y}%", class_="mark"))
        parts.append(h("text", shown_ceiling[1], x="100%", y=f"{y}%", dy="-5", class_="tick end"))
    paths = [
        h(
            "polyline",
            points=" ".join(f"{px(x) * 10:.5g},{py(y) * 10:.5g}" for x, y in line.points),
            class_=f"line {line.class_}",
        )
        for line in lines
        if len(line.points) > 1
    ]
    parts.append(h("svg", *paths, viewBox="0 0 1000 1000", preserveAspectRatio="none", width="100%", height="100%"))
    parts += _hover(tips, px)
    for line in lines:
        if line.dots or len(line.points) == 1:
            parts += [
                h(
                    "circle",
                    h("title", f"{line.name}: {number(y)} at {number(x)}"),
                    cx=f"{px(x)}%",
                    cy=f"{py(y)}%",
                    r="4",
                    class_=f"dot {line.class_}",
                )
                for x, y in line.points
            ]
    key = [
        h("span", h("i", class_=f"swatch {line.class_}" + (" round" if line.dots else "")), line.name) for line in lines
    ]
    return h(
        "figure",
        h(
            "div",
            h("span", y_name, class_="axis-name"),
            h("span", *key, class_="key") if len(lines) > 1 else None,
            class_="chart-head",
        ),
        h("svg", h("title", label), *parts, class_="plot", width="100%", height=height, role="img"),
        h("div", x_name, class_="axis-name x"),
        class_="chart",
    )


def _hover(tips: Sequence[tuple[float, str]], px: object) -> list[Child]:
    """Invisible upright strips that carry the tooltips."""
    assert callable(px)
    edges = [px(x) for x, _ in tips]
    strips: list[Child] = []
    for position, (_, text) in enumerate(tips):
        left = (edges[position - 1] + edges[position]) / 2 if position else 0.0
        right = (edges[position] + edges[position + 1]) / 2 if position + 1 < len(edges) else 100.0
        strips.append(
            h(
                "rect",
                h("title", text),
                x=f"{left:.2f}%",
                y="0",
                width=f"{max(0.0, right - left):.2f}%",
                height="100%",
                class_="hover",
            )
        )
    return strips


def _tick(value: float) -> str:
    """A number on an axis; small rates as powers of ten.

    >>> _tick(2e-4), _tick(600.0), _tick(0.5), _tick(0.0)
    ('2e-4', '600', '0.5', '0')
    """
    if value and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return number(value)


def _whole(ticks: Sequence[float]) -> list[float]:
    """Steps are whole numbers, their ticks too."""
    return [tick for tick in ticks if tick == int(tick)]


def share_bars(rows: Sequence[tuple[str, float, float | None, float | None]]) -> Html:
    """Level bars of shares between 0 and 1, each (name, share, low, high); the name is its CSS class too."""
    parts: list[Child] = []
    for quarter in (0, 25, 50, 75, 100):
        parts.append(h("line", x1=f"{quarter}%", x2=f"{quarter}%", y1="0", y2="100%", class_="grid"))
    for position, (name, share, low, high) in enumerate(rows):
        y = 4 + 18 * position
        between = f", interval {percent(low)} to {percent(high)}" if low is not None and high is not None else ""
        title = h("title", f"{name}: {percent(share)}{between}")
        parts.append(h("rect", title, x="0", y=y, width=f"{100 * share:.2f}%", height="12", class_=f"bar {name}"))
        if low is not None and high is not None:
            parts.append(
                h("line", x1=f"{100 * low:.2f}%", x2=f"{100 * high:.2f}%", y1=y + 6, y2=y + 6, class_="whisker")
            )
            parts += [
                h("line", x1=f"{100 * end:.2f}%", x2=f"{100 * end:.2f}%", y1=y + 2, y2=y + 10, class_="whisker")
                for end in (low, high)
            ]
    words = "; ".join(f"{name} {percent(share)}" for name, share, _, _ in rows)
    return h("svg", h("title", words), *parts, class_="bars", width="100%", height=2 + 18 * len(rows), role="img")


def range_bar(
    point: float | None, low: float | None, high: float | None, measured: float | None, limit: float | None = None
) -> Html:
    """A predicted interval as a band, its point as a tick, the measured value as a dot, a near limit dashed."""
    values = [value for value in (point, low, high, measured) if value is not None]
    # A limit far beyond would squeeze everything else into a corner.
    if limit is not None and values and limit <= 2.5 * max(values):
        values.append(limit)
    else:
        limit = None
    top = 1.08 * max(values) if values and max(values) > 0 else 1.0

    def px(value: float) -> str:
        return f"{100 * value / top:.2f}%"

    parts: list[Child] = [h("line", x1="0", x2="100%", y1="11", y2="11", class_="grid")]
    if low is not None and high is not None:
        parts.append(h("rect", x=px(low), y="6", width=f"{100 * (high - low) / top:.2f}%", height="10", class_="band"))
    if point is not None:
        parts.append(h("line", x1=px(point), x2=px(point), y1="3", y2="19", class_="whisker"))
    if limit is not None:
        parts.append(h("line", x1=px(limit), x2=px(limit), y1="0", y2="22", class_="mark"))
    if measured is not None:
        parts.append(h("circle", cx=px(measured), cy="11", r="4.5", class_="dot after"))
    return h(
        "svg",
        h("title", "predicted interval, point and measured value"),
        *parts,
        class_="bars",
        width="100%",
        height="22",
        role="img",
    )


def stacked(parts: Sequence[tuple[str, float]]) -> Html:
    """Shares of a whole as one bar; the names stand in the table beside it."""
    total = sum(size for _, size in parts) or 1.0
    left, out = 0.0, []
    for position, (name, size) in enumerate(parts):
        width = 100 * size / total
        out.append(
            h(
                "rect",
                h("title", f"{name}: {show_share(size / total)}"),
                x=f"{left:.2f}%",
                y="0",
                width=f"{width:.2f}%",
                height="14",
                class_=f"part p{position % 6}",
            )
        )
        left += width
    return h("svg", h("title", "parts of the whole"), join(out), class_="bars", width="100%", height="14", role="img")
