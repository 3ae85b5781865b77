"""The cells of AsciiDoc's tables, and what stands before their bars: `2+|` over two columns, `.2+|` over two rows,
`3*|` written three times, `a|` or `^.>s|` how they look."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from afina.sources.rewriting import Numbered
from afina.text.document import visible

MOST_COLUMNS, MOST_ROWS = 100, 1000
"""Of one cell, as of HTML's: a number that is larger is a slip of the pen."""


@dataclass(slots=True)
class AsciiDocCell:
    """A cell as it is written: the line it begins at, its text, what it covers, and how often it stands there."""

    line: int
    text: str
    columns: int = 1
    rows: int = 1
    times: int = 1


def read_cells(lines: Sequence[Numbered], bar: str) -> tuple[list[AsciiDocCell], int, str]:
    """The cells between bars, how many columns the first line has, and the marks that are no text.

    >>> [(cell.text, cell.columns, cell.rows) for cell in read_cells([(1, ".2+|a |b 2+|c")], "|")[0]]
    [('a ', 1, 2), ('b ', 1, 1), ('c', 2, 1)]
    """
    mark = _mark(bar)
    cells: list[AsciiDocCell] = []
    left_out: list[str] = []
    wide = 0
    for number, text in lines:
        begun, at = len(cells), 0
        opened: AsciiDocCell | None = None
        for hit in mark.finditer(text):
            _put(cells, opened, number, text[at : hit.start()])
            opened = _specified(hit, number)
            left_out.append(hit[0])
            at = hit.end()
        _put(cells, opened, number, text[at:])
        wide = wide or sum(cell.columns * cell.times for cell in cells[begun:])
    for cell in cells:
        left_out.append("\\" * cell.text.count(f"\\{bar}"))
        cell.text = cell.text.replace(f"\\{bar}", bar)
    return cells, wide, "".join(left_out)


def _mark(bar: str) -> re.Pattern[str]:
    """A bar that is not escaped, and what is said of its cell: at the start of the line, or behind a space."""
    size = r"(?:(?P<columns>\d+)?(?:\.(?P<rows>\d+))?\+|(?P<times>\d+)\*)?"
    look = r"(?:[<^>](?:\.[<^>])?|\.[<^>])?[adehlmsv]?"
    return re.compile(rf"(?:(?:^|(?<=\s)){size}{look}|(?<!\\)){re.escape(bar)}")


def _specified(hit: re.Match[str], number: int) -> AsciiDocCell:
    columns, rows, times = (int(each[:9]) if each else 1 for each in hit.group("columns", "rows", "times"))
    columns, rows, times = min(columns, MOST_COLUMNS), min(rows, MOST_ROWS), min(times, MOST_COLUMNS)
    return AsciiDocCell(number, "", max(columns, 1), max(rows, 1), max(times, 1))


def _put(cells: list[AsciiDocCell], opened: AsciiDocCell | None, number: int, text: str) -> None:
    """A piece of a line: the text of the cell that a bar opened, or more of the one before."""
    if opened:
        opened.text = text
        cells.append(opened)
    elif text.strip():
        if cells:
            cells[-1].text += f" {text.strip()}"
        else:
            cells.append(AsciiDocCell(number, text))


def rows_of(cells: Sequence[AsciiDocCell], wide: int) -> Iterator[list[AsciiDocCell]]:
    """Cells in rows of `wide` columns, less those that cells of rows above take; a row may have none of its own.

    >>> a, b, c = AsciiDocCell(1, "a", rows=2), AsciiDocCell(1, "b"), AsciiDocCell(2, "c")
    >>> [[cell.text for cell in row] for row in rows_of([a, b, c], 2)]
    [['a', 'b'], ['c']]
    """
    row: list[AsciiDocCell] = []
    taken = [0]
    """Columns that are taken in this row and in those below it."""
    for cell in (each for given in cells for each in [given] * given.times):
        row.append(cell)
        taken += [0] * (cell.rows - len(taken))
        taken[: cell.rows] = [columns + cell.columns for columns in taken[: cell.rows]]
        while taken[0] >= wide:
            yield row
            row, taken = [], taken[1:] or [0]
    if row:
        yield row


def read_separated(lines: Sequence[Numbered], separator: str) -> tuple[list[list[AsciiDocCell]], str]:
    """The rows of a table whose lines are values with commas or colons between them, and the marks that are no text.

    >>> [[cell.text for cell in row] for row in read_separated([(1, 'Faro,"3,2"')], ",")[0]]
    [['Faro', '3,2']]
    """
    value = re.compile(rf'\s*(?:"((?:[^"]|"")*)"\s*|([^{separator}]*))({separator}|$)')
    rows: list[list[AsciiDocCell]] = []
    marks = 0
    for number, text in lines:
        if not text.strip():
            continue
        row: list[AsciiDocCell] = []
        hit = value.match(text)
        while hit:
            row.append(AsciiDocCell(number, hit[2] if hit[1] is None else hit[1].replace('""', '"')))
            hit = value.match(text, hit.end()) if hit[3] else None
        marks += visible(text) - sum(visible(cell.text) for cell in row)
        rows.append(row)
    return rows, separator * marks
