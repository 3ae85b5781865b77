"""A text in another light markup becomes Markdown line by line, with every character counted that is not kept.

A line is given as pieces ``(old, new)``: what stood in the file and what stands in the document. Equal ones are kept,
of others the old is counted as dropped and the new as added. So the sum comes out whatever a reader makes of its lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from afina.sources.blocks import Block, Marks, table_lines
from afina.sources.code import fence
from afina.sources.files import FileText, SourceReading
from afina.text.document import Document, visible

Piece = tuple[str, str]
"""What stood in the file, and what stands in the document."""
Numbered = tuple[int, str]
"""A line of a file, from 1, and its text."""
Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], list[Piece]]]
"""What a mark inside a line looks like, and what becomes of it."""


OTHERWISE = "marks that Markdown writes otherwise"
"""The reason under which a markup's own characters are counted."""


def kept(text: str) -> Piece:
    """A piece that stays as it is."""
    return text, text


def pieces_of(text: str, rules: Sequence[Rule]) -> list[Piece]:
    """A line's text as pieces: the first rule that fits at the leftmost place, again and again.

    >>> pieces_of("so *it* is", [(re.compile(r"\\*(.+?)\\*"), lambda m: [("*", "**"), kept(m[1]), ("*", "**")])])
    [('so ', 'so '), ('*', '**'), ('it', 'it'), ('*', '**'), (' is', ' is')]
    """
    found: list[Piece] = []
    at = 0
    while at < len(text):
        hits = [(hit.start(), place, hit) for place, (mark, _) in enumerate(rules) if (hit := mark.search(text, at))]
        if not hits:
            break
        start, place, hit = min(hits, key=lambda each: each[:2])
        found += [kept(text[at:start])] if start > at else []
        found += rules[place][1](hit)
        at = hit.end()
    return [*found, kept(text[at:])] if at < len(text) else found


@dataclass(slots=True)
class MarkdownWriter:
    """Takes the lines of one file, as Markdown."""

    opened: FileText
    rules: Sequence[Rule] = ()
    """Marks inside lines of prose."""
    title: str = ""
    marks: Marks = field(init=False)
    _lines: list[str] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.opened.entry.chars_in += visible(self.opened.text)
        self.marks = Marks(self.opened.entry)

    def rewritten(self, pieces: Sequence[Piece]) -> str:
        """What the pieces become; what is left out and what is new is counted."""
        for old, new in pieces:
            if old != new:
                self.drop(OTHERWISE, old)
                if visible(new):
                    self.opened.entry.add("Markdown marks", new)
        return "".join(new for _, new in pieces).rstrip()

    def pieces(self, pieces: Sequence[Piece], number: int) -> None:
        """Write one line that stood at this line of the file."""
        self._write(self.rewritten(pieces), number)

    def _write(self, line: str, number: int) -> None:
        self._numbers[str(len(self._lines) + 1)] = number
        self._lines.append(line)

    def prose(self, line: Numbered, before: Sequence[Piece] = (), after: Sequence[Piece] = ()) -> None:
        """Write one line of prose, its marks rewritten."""
        pieces = [*before, *pieces_of(line[1], self.rules), *after]
        empty = not any(new.strip() for _, new in pieces)
        if empty:
            for old, _ in pieces:
                self.drop(OTHERWISE, old)
            self.blank(line[0])
        else:
            self.pieces(pieces, line[0])

    def heading(self, line: Numbered, level: int, dropped: str = "") -> None:
        """Write a heading; the first one is the title."""
        self.blank(line[0])
        shown = pieces_of(line[1].strip(), self.rules)
        self.title = self.title or "".join(new for _, new in shown).strip("*`_ ")
        self.pieces([(dropped, "#" * min(level, 6) + " "), *shown], line[0])
        self.blank(line[0])

    def code(self, lines: Sequence[Numbered], language: str, number: int) -> None:
        """Write a block of code, its common indentation taken away."""
        body = dedented(lines)
        while body and not body[-1][1].strip():
            body.pop()
        while body and not body[0][1].strip():
            body.pop(0)
        opening, closing = fence("\n".join(text for _, text in body), language)
        self.blank(number)
        self.pieces([("", opening)], number)
        for at, text in body:
            self.pieces([kept(text)], at)
        self.pieces([("", closing)], body[-1][0] if body else number)
        self.blank(number)

    def cell(self, text: str, columns: int = 1, rows: int = 1) -> Block:
        """A cell of a table, its marks rewritten, and over how many columns and rows it goes."""
        said = self.rewritten(pieces_of(text.strip(), self.rules))
        return Block("cell", [said] if said else [], columns=columns, rows=rows)

    def table(self, rows: Sequence[tuple[int, Sequence[Block]]]) -> None:
        """Write rows of cells, each with the line it stood at; the first with text is the head."""
        lines = table_lines([Block("row", cells=list(cells), heads=True) for _, cells in rows], self.marks)
        numbers = [number for number, cells in rows if any(cell.lines for cell in cells)]
        for line, number in zip(lines, [*numbers[:1], *numbers], strict=True):  # below the head is a line of dashes
            self._write(line, number)

    def blank(self, number: int) -> None:
        """Write an empty line, unless there is one."""
        if self._lines and self._lines[-1]:
            self.pieces([], number)

    def drop(self, reason: str, text: str) -> None:
        """Count what is left out."""
        if visible(text):
            self.opened.entry.drop(reason, text)

    def document(self, reading: SourceReading) -> Iterator[Document]:
        """The document; none where nothing is left."""
        while self._lines and not self._lines[-1]:
            self._lines.pop()
        text = "\n".join(self._lines) + "\n"
        if not text.strip():
            return
        entry = self.opened.entry
        entry.chars_out += visible(text)
        entry.documents += 1
        yield Document(
            self.opened.path,
            self.opened.sha256,
            kind="markdown",
            title=self.title,
            text=text,
            meta={"lines": json.dumps(self._numbers)},
            source=reading.position,
        )


def numbered(text: str) -> list[Numbered]:
    """The lines of a text with their numbers."""
    return list(enumerate(text.split("\n"), 1))


def indent_of(text: str) -> int:
    """How far a line is indented; tabs count as eight at most.

    >>> indent_of("   a"), indent_of("\\ta")
    (3, 8)
    """
    line = text.expandtabs(8)
    return len(line) - len(line.lstrip())


def dedented(lines: Sequence[Numbered]) -> list[Numbered]:
    """Lines without the indentation that all of them share."""
    expanded = [(number, text.expandtabs(8) if text[:1] in " \t" else text) for number, text in lines]
    least = min((indent_of(text) for _, text in expanded if text.strip()), default=0)
    return [(number, text[least:] if text.strip() else "") for number, text in expanded]


def indented_below(lines: Sequence[Numbered], start: int, more_than: int = 0) -> int:
    """Where a block ends that begins at `start`: before the next line with text that is not indented further."""
    end = last = start
    while end < len(lines) and (not lines[end][1].strip() or indent_of(lines[end][1]) > more_than):
        end += 1
        if lines[end - 1][1].strip():
            last = end
    return last


def block_until(lines: Sequence[Numbered], start: int, ends: Callable[[str], bool]) -> int:
    """The place of the first line from `start` on that ends a block; the number of lines where none does."""
    return next((place for place in range(start, len(lines)) if ends(lines[place][1])), len(lines))
