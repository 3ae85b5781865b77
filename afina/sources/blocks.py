"""Blocks of a page and the Markdown that they become.

Every visible character that is not the page's own (a ``#``, a bullet, a fence) goes through
:meth:`Marks.put`, so that the ledger can tell it from the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from afina.sources.code import fence
from afina.text.document import FileLedger

BREAK = object()
"""A forced line break among inline pieces."""

REPEATED_CHARS = 200
"""A cell of several rows that is no longer is written again in each of them."""

_SPACES = re.compile(r"[ \t\n\r\f]+")
# What would change the structure of everything after it, were it left at the start of a line.
_STRUCTURE = re.compile(r"(?=#{1,6}(?:[ \t]|$)|`{3}|~{3}|<[!?/a-zA-Z])")
_UNDERLINE = re.compile(r"(?=(?:=+|-+)$)")

BlockKind = Literal[
    "paragraph", "fence", "lines", "list", "item", "term", "definition", "row", "cell", "caption", "heading"
]


@dataclass(slots=True)
class Block:
    """A piece of a page that stands on lines of its own. `lines` of a fence are the code alone."""

    kind: BlockKind
    lines: list[str] = field(default_factory=list)
    language: str = ""
    cells: list[Block] = field(default_factory=list)
    heads: bool = False
    columns: int = 1
    rows: int = 1


Piece = str | Block | object


class Marks:
    """Writes Markdown's own characters and counts them."""

    def __init__(self, entry: FileLedger) -> None:
        self.entry = entry

    def put(self, reason: str, mark: str) -> str:
        if mark:
            self.entry.add(f"Markdown: {reason}", mark)
        return mark


def wrap(pieces: Sequence[Piece], marked: Callable[[str], str]) -> list[Piece]:
    """Put marks around each run of text; white space at its edges stays outside."""
    out: list[Piece] = []
    for piece in merge(pieces):
        if isinstance(piece, str) and piece.strip():
            core = piece.strip()
            start = piece.index(core)
            out += [piece[:start] + marked(core) + piece[start + len(core) :]]
        else:
            out.append(piece)
    return out


def merge(pieces: Sequence[Piece]) -> list[Piece]:
    """Neighbouring strings become one."""
    out: list[Piece] = []
    run: list[str] = []
    for piece in pieces:
        if isinstance(piece, str):
            run.append(piece)
            continue
        if run:
            out.append("".join(run))
            run = []
        out.append(piece)
    if run:
        out.append("".join(run))
    return out


def code_span(text: str, marks: Marks) -> str:
    """Inline code; the backticks are longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = marks.put("inline code", "`" * (longest + 1))
    marks.put("inline code", ticks)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def to_blocks(pieces: Sequence[Piece], marks: Marks, *, in_table: bool = False) -> list[Block]:
    """Runs of inline text become paragraphs; blocks stay as they are, in order."""
    blocks: list[Block] = []
    lines: list[str] = []
    open_line = ""

    def close_line() -> None:
        nonlocal open_line
        line = _SPACES.sub(" ", open_line).strip(" ")
        open_line = ""
        if line.strip():
            shape = _STRUCTURE.match(line) or (lines and _UNDERLINE.match(line))
            lines.append(marks.put("escape", "\\") + line if shape and not in_table else line)

    def close_paragraph() -> None:
        close_line()
        if lines:
            blocks.append(Block("paragraph", list(lines)))
            lines.clear()

    for piece in pieces:
        if isinstance(piece, str):
            open_line += piece
        elif isinstance(piece, Block):
            close_paragraph()
            blocks.append(piece)
        else:
            close_line()
    close_paragraph()
    return blocks


def compose(blocks: Sequence[Block], marks: Marks, *, tight: bool = False) -> list[str]:
    """The lines of blocks one after the other, a blank line between; `tight`: none before a list."""
    out: list[str] = []
    before: BlockKind = "paragraph"
    waiting = list(reversed(blocks))
    while waiting:
        block = waiting.pop()
        kind = block.kind
        if kind == "item":  # an item outside of any list
            run = [block]
            while waiting and waiting[-1].kind == "item":
                run.append(waiting.pop())
            lines, kind = list_lines(run, marks, None), "list"
        elif kind == "row":
            waiting.extend(reversed(block.cells))
            continue
        else:
            lines = _lines(block, marks)
        if not lines:
            continue
        captioned = before == "caption" and kind == "fence"
        if out and not captioned and not (tight and kind == "list"):
            out.append("")
        out += lines
        before = kind
    return out


def _lines(block: Block, marks: Marks) -> list[str]:
    if block.kind != "fence":
        return block.lines
    opening, closing = fence("\n".join(block.lines), block.language)
    marks.put("code fence", opening + closing)
    return [opening, *block.lines, closing]


def indent(lines: Sequence[str], first: str, rest: str) -> list[str]:
    """`first` before the first line, `rest` before the others that are not empty."""
    return [(first if at == 0 else rest if line else "") + line for at, line in enumerate(lines)]


def list_lines(blocks: Sequence[Block], marks: Marks, start: int | None) -> list[str]:
    """A list of items, numbered from `start` or bulleted; what is no item goes on the one before."""
    items: list[list[str]] = []
    for block in blocks:
        if block.kind == "item":
            if any(line.strip() for line in block.lines):
                items.append(list(block.lines))
        elif lines := compose([block], marks):
            if items:
                items[-1] += lines if block.kind == "list" else ["", *lines]
            else:
                items.append(lines)
    loose = any("" in item for item in items)
    out: list[str] = []
    for at, item in enumerate(items):
        bullet = marks.put("list", "-" if start is None else f"{start + at}.") + " "
        if out and loose:
            out.append("")
        out += indent(item, bullet, " " * len(bullet))
    return out


def quote_lines(lines: Sequence[str], marks: Marks) -> list[str]:
    """Lines of a quotation."""
    return [(marks.put("quote", ">") + " " + line).rstrip(" ") for line in lines]


def definition_blocks(blocks: Sequence[Block], marks: Marks) -> list[Block]:
    """Terms and definitions as items ``**term**: definition``; anything else as an item of its own."""
    out: list[Block] = []
    after_term = False
    for block in blocks:
        if block.kind == "term":
            lines = list(block.lines)
            if len(lines) == 1:
                lines[0] = marks.put("term", "**") + lines[0] + marks.put("term", "**")
            out.append(Block("item", lines))
            after_term = True
        elif block.kind == "definition":
            if after_term and len(out[-1].lines) == 1:
                head = out[-1].lines[0] + marks.put("term", ":")
                prose = block.cells and block.cells[0].kind == "paragraph"
                out[-1].lines = [f"{head} {block.lines[0]}", *block.lines[1:]] if prose else [head, *block.lines]
            elif out:
                out[-1].lines += ["", *block.lines]
            else:
                out.append(Block("item", block.lines))
            after_term = False
        else:
            out.append(Block("item", compose([block], marks)))
    return out


def cell_text(blocks: Sequence[Block], marks: Marks) -> str:
    """All that stands in a cell, on one line: ``<br>`` between its lines, code as inline code."""
    parts: list[str] = []
    waiting = list(reversed(blocks))
    while waiting:
        block = waiting.pop()
        if block.kind == "fence":
            parts += [code_span(line, marks) for line in block.lines if line.strip()]
        elif block.kind == "row":
            words = [" ".join(cell.lines) for cell in block.cells]
            parts.append(" ".join(word for word in words if word))
        else:
            parts += [line.strip() for line in block.lines]
    parts = [part for part in parts if part.strip()]
    for _ in parts[1:]:
        marks.put("line break in a table", "<br>")
    return "<br>".join(parts)


def table_lines(rows: Sequence[Block], marks: Marks) -> list[str]:
    """Rows of cells as a Markdown table. Rows without text go; without a row of heads the header is empty.

    Markdown has no cell of several rows: it is written again in each of them, or a ditto mark where it is long.
    """
    grid: list[list[str]] = []
    headed = next((row.heads for row in rows if any(cell.lines for cell in row.cells)), False)
    below: dict[int, tuple[int, str]] = {}
    """Column -> how many more rows its cell spans, and what stands in them."""
    for row in rows:
        line: list[str] = []
        repeated: list[str] = []

        def fill(line: list[str] = line, repeated: list[str] = repeated) -> None:
            while (spanned := below.pop(len(line), None)) is not None:
                more, text = spanned
                if more > 1:
                    below[len(line)] = more - 1, text
                line.append(text)
                repeated.append(text)

        for cell in row.cells:
            fill()
            text = " ".join(cell.lines)
            again = text if len(text) <= REPEATED_CHARS else "\N{DITTO MARK}"
            for column in range(cell.columns):
                if cell.rows > 1:
                    below[len(line)] = cell.rows - 1, "" if column else again
                line.append("" if column else text)
        fill()
        if any(cell.lines for cell in row.cells):
            marks.put("cell of several rows", "".join(repeated))
            grid.append(line)
    if not grid:
        return []
    width = max(len(line) for line in grid)
    shown = grid if headed else [[""] * width, *grid]
    out = []
    for at, line in enumerate(shown):
        cells = []
        for text in [*line, *[""] * (width - len(line))]:
            marks.put("escape", "\\" * text.count("|"))
            cells.append(text.replace("|", "\\|"))
        marks.put("table", "|" * (width + 1))
        out.append("| " + " | ".join(cells) + " |")
        if at == 0:
            out.append(marks.put("table", "|" + "---|" * width))
    return out
