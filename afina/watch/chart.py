"""Curves as text: a line of Braille dots (stars where the terminal has none), measurements as letters on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from afina.report.labels import number

Point = tuple[float, float]
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a Braille character by row and column of its dots; U+2800 is the empty one."""
_LABEL = 9
"""Characters of a label at the left, with its mark."""


@dataclass(frozen=True)
class TextCurve:
    """What a text chart shows: a line, and single measurements."""

    line: Sequence[Point]
    letters: Sequence[Point] = ()
    """Drawn as ``o``."""
    key: str = ""
    """What is what, below the chart."""


def draw_chart(curve: TextCurve, width: int, height: int, *, ascii_only: bool = False) -> list[str]:
    """The lines of a chart of `height` lines and at most `width` characters, axis and key among them.

    >>> print(*draw_chart(TextCurve([(1, 0.0), (2, 4.0), (3, 2.0)]), 24, 5, ascii_only=True), sep="\\n")
           4 |      **
             |   ***  ****
             |  *         **
           0 |**
              1            3
    """
    rows, columns = max(2, height - 1), max(8, width - _LABEL - 1)
    ys = [y for _, y in (*curve.line, *curve.letters) if math.isfinite(y)]
    xs = [x for x, _ in (*curve.line, *curve.letters)]
    if not ys:
        return ["(nothing to draw yet)", *[""] * (height - 1)]
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(ys), max(ys)
    if y_low == y_high:
        y_low, y_high = y_low - (abs(y_low) or 1.0) / 10, y_high + (abs(y_high) or 1.0) / 10
    places = _Places(x_low, x_high, y_low, y_high)
    cells = [[" "] * columns for _ in range(rows)]
    _draw_line(curve.line, places, cells, 1 if ascii_only else 2, 1 if ascii_only else 4)
    for x, y in curve.letters:
        if math.isfinite(y):
            column, row = places.of(x, y, columns, rows)
            cells[row][column] = "o"
    labels = {0: y_high, rows - 1: y_low} | ({rows // 2: (y_low + y_high) / 2} if rows >= 6 else {})
    bar = "|" if ascii_only else "│"
    lines = [
        f"{number(labels[row]) if row in labels else '':>{_LABEL - 1}} {bar}{''.join(cells[row]).rstrip()}"
        for row in range(rows)
    ]
    first, last = number(x_low), number(x_high)
    room = columns - len(first) - len(last)
    key = f"  {curve.key}  " if len(curve.key) + 4 <= room else ""
    return [*lines, " " * (_LABEL + 1) + (f"{first}{key:^{max(0, room)}}{last}" if x_high > x_low else f"{first}{key}")]


@dataclass(frozen=True)
class _Places:
    """Where values stand on a grid."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def of(self, x: float, y: float, columns: int, rows: int) -> tuple[int, int]:
        """Column and row, from the top left."""
        across = (x - self.x_low) / (self.x_high - self.x_low) if self.x_high > self.x_low else 0.0
        down = (self.y_high - y) / (self.y_high - self.y_low)
        return round(across * (columns - 1)), round(min(1.0, max(0.0, down)) * (rows - 1))


def _draw_line(line: Sequence[Point], places: _Places, cells: list[list[str]], wide: int, high: int) -> None:
    """Dots of a line into the cells, each of `wide` times `high` dots; of points in one column the mean counts."""
    rows, columns = len(cells) * high, len(cells[0]) * wide
    heights: dict[int, list[float]] = {}
    for x, y in line:
        if math.isfinite(y):
            heights.setdefault(places.of(x, y, columns, rows)[0], []).append(y)
    before: tuple[int, int] | None = None
    for column, values in sorted(heights.items()):
        row = places.of(places.x_low, sum(values) / len(values), columns, rows)[1]
        at, down = before or (column, row)
        steps = max(abs(column - at), abs(row - down), 1)
        for part in range(steps + 1):
            _dot(cells, at + round((column - at) * part / steps), down + round((row - down) * part / steps), wide, high)
        before = column, row


def _dot(cells: list[list[str]], column: int, row: int, wide: int, high: int) -> None:
    """One dot; a cell of a single one is a star."""
    x, y = column // wide, row // high
    if wide == 1:
        cells[y][x] = "*"
        return
    held = ord(cells[y][x]) if cells[y][x] != " " else 0x2800
    cells[y][x] = chr(held | _DOTS[row % high][column % wide])
