"""The rows that an audit names: from a place, ``file:line``, back to the example that stands there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from afina.errors import RecipeError
from afina.text.example import Example
from afina.text.formats import compression_of, has_own_lines, is_packed

LONGEST_LINE = 100_000
"""Characters shown of a line that is no row."""


class Place(NamedTuple):
    """A line of a file, as :attr:`~afina.text.example.Example.path` and ``line`` say it."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def read_place(text: str) -> Place:
    """
    >>> read_place("docs/a.md:12")
    Place(path='docs/a.md', line=12)

    Raises:
        RecipeError: it names no line.
    """
    path, _, line = text.rpartition(":")
    if not path or not line.isdecimal():
        raise RecipeError(f"{text!r} names no line", "write FILE:LINE, as an audit names places", "--at")
    return Place(path, int(line))


def examples_at(examples: Iterable[Example], places: Sequence[Place]) -> dict[Place, list[Example]]:
    """What stands at each place: of a text with lines of its own the section around the line, of rows and converted
    pages those that begin there (a long row is several sections); nothing where a row could not be read.

    >>> sections = [Example("One.", path="a.md", line=1), Example("Two.\\nThree.", path="a.md", line=5)]
    >>> [example.text for example in examples_at(sections, [Place("a.md", 6)])[Place("a.md", 6)]]
    ['Two.\\nThree.']
    >>> examples_at([Example("One.", path="a.jsonl", line=1)], [Place("a.jsonl", 2)])
    {Place(path='a.jsonl', line=2): []}
    """
    found: dict[Place, list[Example]] = {place: [] for place in places}
    for example in examples:
        for place, own in found.items():
            if place.path != example.path or place.line < example.line:
                continue
            if has_own_lines(example.path):
                own[:] = [example]  # the nearest above, so far
            elif place.line == example.line:
                own.append(example)
    return found


def raw_line(place: Place) -> str | None:
    """The line of the file itself, for what could not be read as a row; None where its lines are not text."""
    file = Path(place.path)
    if not file.is_file() or is_packed(place.path) or compression_of(place.path):
        return None
    with file.open(encoding="utf-8", errors="replace") as lines:
        return next(
            (line.rstrip("\r\n")[:LONGEST_LINE] for number, line in enumerate(lines, 1) if number == place.line), None
        )
