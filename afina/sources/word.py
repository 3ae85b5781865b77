"""The walk over the XML of a Word file: paragraphs, runs, lists, tables and notes become Markdown.

Names are those of WordprocessingML (ECMA-376 part 1, 17) without their prefix, so that files of the
transitional and of the strict form read alike. What is not known is walked through, so that no text
in it is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from afina.sources.blocks import (
    BREAK,
    Block,
    Marks,
    Piece,
    cell_text,
    compose,
    indent,
    list_lines,
    table_lines,
    to_blocks,
    wrap,
)
from afina.text.document import FileLedger

_TEXT_NAMES = frozenset({"t", "delText", "instrText", "delInstrText", "sym"})
_DROPPED = {
    "delText": "tracked deletion",
    "delInstrText": "tracked deletion",
    "instrText": "field code",
    "del": "tracked deletion",
    "moveFrom": "tracked move (its old place)",
    "oMath": "formula",
    "oMathPara": "formula",
    "sym": "symbol of a font",
}
_CODE_STYLES = frozenset({"code", "source code", "html preformatted", "preformatted text", "macro", "verbatim"})
_TOC = re.compile(r"toc \d")
_LIST_STYLE = re.compile(r"list (?:bullet|number) (\d)")
_HEADING = re.compile(r"heading (\d)")
_OFF = frozenset({"0", "false", "off", "none"})


def name_of(element: Any) -> str:
    """An element's name without its namespace; empty for comments."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def texts_of(element: Any) -> str:
    """All text in an element, deleted text and field codes too; a symbol of a font counts as one letter."""
    found = (node for node in element.iter() if name_of(node) in _TEXT_NAMES)
    return "".join("x" if name_of(node) == "sym" else node.text or "" for node in found)


@dataclass(frozen=True, slots=True)
class _Style:
    name: str = ""
    level: int | None = None
    """Of a heading, from 1."""
    number: tuple[str, int] | None = None
    """Numbering and level of a list."""


@dataclass(slots=True)
class _ListParagraph:
    """A paragraph of a list, before lists are put together."""

    number: str
    level: int
    start: int | None
    """Its number; None for a bullet."""
    block: Block


@dataclass(slots=True)
class _Flow:
    """Pieces of a paragraph, each with whether it is bold and italic."""

    pieces: list[tuple[str, Piece]] = field(default_factory=list)

    def put(self, piece: Piece, marks: str = "") -> None:
        last = self.pieces[-1] if self.pieces else None
        if isinstance(piece, str) and last and isinstance(last[1], str) and (last[0] == marks or not piece.strip()):
            self.pieces[-1] = (last[0], last[1] + piece)
        else:
            self.pieces.append((marks, piece))


class Word:
    """One walk over a document. `styles`, `numbering`, `footnotes` and `endnotes` are its parts, if it has them."""

    def __init__(self, entry: FileLedger, *, styles: Any, numbering: Any, footnotes: Any, endnotes: Any) -> None:
        self.entry, self.marks = entry, Marks(entry)
        self.styles = _styles(styles)
        self.formats = _list_formats(numbering)
        self.notes = {"footnote": footnotes, "endnote": endnotes}
        self.referred: dict[tuple[str, str], int] = {}
        """Kind and id of a note -> its number in the text."""
        self.counters: dict[tuple[str, int], int] = {}
        self.in_table = 0

    def read(self, tree: Any) -> str:
        """The whole document as Markdown; empty where it holds no text."""
        lines = compose([*self._blocks(tree), *self._notes()], self.marks)
        return "\n".join(lines) + "\n" if lines else ""

    def _drop(self, reason: str, element: Any) -> None:
        if text := texts_of(element).strip():
            self.entry.drop(reason, text)

    # ---- blocks

    def _blocks(self, container: Any) -> list[Block]:
        """What stands in a container (a body, a cell, a text box, a note), lists put together."""
        out: list[Block] = []
        items: list[_ListParagraph] = []
        for part in self._parts(container):
            if isinstance(part, _ListParagraph):
                items.append(part)
                continue
            if items:
                out.append(self._list(items))
                items = []
            if part.kind == "fence" and out and out[-1].kind == "fence":
                out[-1].lines += part.lines
            else:
                out.append(part)
        return [*out, self._list(items)] if items else out

    def _parts(self, container: Any) -> Iterator[Block | _ListParagraph]:
        for child in container:
            name = name_of(child)
            if name == "p":
                yield from self._paragraph(child)
            elif name == "tbl":
                yield from self._table(child)
            elif name in _DROPPED:
                self._drop(_DROPPED[name], child)
            elif name == "AlternateContent":
                yield from self._parts(self._alternative(child))
            elif name == "t":  # outside of any paragraph: no program writes this
                yield from to_blocks([child.text or ""], self.marks)
            elif name:
                yield from self._parts(child)

    def _paragraph(self, paragraph: Any) -> Iterator[Block | _ListParagraph]:
        own = _child(paragraph, "pPr")
        style = self.styles.get(_value(own, "pStyle") or "", _Style())
        if _TOC.match(style.name):
            self._drop("table of contents", paragraph)
            return
        outline = _value(own, "outlineLvl")
        level = int(outline) + 1 if outline is not None and outline.isdigit() and int(outline) < 9 else style.level
        flow = _Flow()
        self._inline(paragraph, flow, "", plain=level is not None or style.name in _CODE_STYLES)
        if style.name in _CODE_STYLES:
            yield from self._code(flow)
            return
        pieces: list[Piece] = []
        for marks, piece in flow.pieces:
            pieces += wrap([piece], lambda text, marks=marks: self._emphasis(text, marks)) if marks else [piece]  # type: ignore[misc]
        blocks = to_blocks(pieces, self.marks, in_table=bool(self.in_table))
        if not blocks:
            return
        first = blocks[0]
        number = _numbering(own) or style.number
        if level is not None and first.kind == "paragraph":
            if not self.in_table:
                words = self.marks.put("heading", "#" * min(level, 6)) + " " + " ".join(first.lines)
                blocks[0] = Block("heading", [words])
        elif number and first.kind == "paragraph" and number in self.formats:
            deeper = _LIST_STYLE.fullmatch(style.name)  # Word's own styles have a list each, one level deep
            level = max(number[1], int(deeper[1]) - 1) if deeper else number[1]
            yield _ListParagraph(number[0], level, self._count(number), first)
            blocks = blocks[1:]
        yield from blocks

    def _code(self, flow: _Flow) -> Iterator[Block]:
        text = "".join(piece if isinstance(piece, str) else "\n" for _, piece in flow.pieces if piece is not None)
        if not any(isinstance(piece, Block) for _, piece in flow.pieces):
            yield Block("fence", text.split("\n"))
            return
        yield from to_blocks([piece for _, piece in flow.pieces], self.marks)

    def _emphasis(self, text: str, marks: str) -> str:
        return self.marks.put("emphasis", marks) + text + self.marks.put("emphasis", marks)

    # ---- inside a paragraph

    def _inline(self, element: Any, flow: _Flow, marks: str, *, plain: bool) -> None:
        for child in element:
            name = name_of(child)
            if name == "t":
                flow.put(child.text or "", marks)
            elif name == "r":
                self._run(child, flow, plain=plain)
            elif name in _DROPPED:
                self._drop(_DROPPED[name], child)
            elif name == "tab":
                flow.put("\t", marks)
            elif name == "cr" or (name == "br" and _attribute(child, "type") in (None, "textWrapping")):
                flow.put(BREAK)
            elif name == "noBreakHyphen":
                flow.put(self.marks.put("no-break hyphen", "-"), marks)
            elif name in ("footnoteReference", "endnoteReference"):
                key = (name.removesuffix("Reference"), _attribute(child, "id") or "")
                number = self.referred.setdefault(key, len(self.referred) + 1)
                flow.put(self.marks.put("note", f"[^{number}]"))
            elif name == "AlternateContent":
                self._inline(self._alternative(child), flow, marks, plain=plain)
            elif name == "txbxContent":
                for block in self._blocks(child):
                    flow.put(block)
            elif name not in ("", "pPr", "rPr"):
                self._inline(child, flow, marks, plain=plain)

    def _run(self, run: Any, flow: _Flow, *, plain: bool) -> None:
        looks = _child(run, "rPr")
        if _on(looks, "vanish"):
            self._drop("hidden text", run)
            return
        marks = "" if plain else "*" * (2 * _on(looks, "b") + _on(looks, "i"))
        self._inline(run, flow, marks, plain=plain)

    def _alternative(self, element: Any) -> Any:
        """The first choice; the others say the same again for older versions of Word."""
        choices = [child for child in element if name_of(child) in ("Choice", "Fallback")]
        for other in choices[1:]:
            self._drop("the same again for older versions", other)
        return choices[0] if choices else ()

    # ---- lists, tables, notes

    def _count(self, number: tuple[str, int]) -> int | None:
        """The number of the next item of a list, None for a bullet; deeper levels begin anew."""
        for other in [key for key in self.counters if key[0] == number[0] and key[1] > number[1]]:
            del self.counters[other]
        start = self.formats[number]
        if start is None:
            return None
        self.counters[number] = self.counters.get(number, start - 1) + 1
        return self.counters[number]

    def _list(self, items: list[_ListParagraph]) -> Block:
        """Items one after the other; deeper ones stand below the one before."""
        lines: list[str] = []
        at = 0
        while at < len(items):
            head = items[at]
            blocks: list[Block] = []
            while at < len(items):
                item = items[at]
                if item.level > head.level:
                    deeper = at
                    while deeper < len(items) and items[deeper].level > head.level:
                        deeper += 1
                    blocks.append(self._list(items[at:deeper]))
                    at = deeper
                elif item.number == head.number and item.level == head.level:
                    blocks.append(Block("item", item.block.lines))
                    at += 1
                else:
                    break
            lines += ([""] if lines else []) + list_lines(blocks, self.marks, head.start)
        return Block("list", lines)

    def _table(self, table: Any) -> list[Block]:
        cells = [node for node in table.iter() if name_of(node) == "tc"]
        if len(cells) == 1:  # a frame around text
            return self._blocks(cells[0])
        self.in_table += 1
        look = _child(_child(table, "tblPr"), "tblLook")
        flags = _attribute(look, "val") if look is not None else None
        headed = look is not None and (
            _attribute(look, "firstRow") in ("1", "true")
            or (flags is not None and bool(int(flags, 16) & 0x20 if re.fullmatch(r"[0-9A-Fa-f]+", flags) else 0))
        )
        rows = list(self._rows(table))
        _join_rows(rows)
        self.in_table -= 1
        if rows and headed and len(rows) > 1:
            rows[0].heads = True
        if self.in_table:
            return rows
        lines = table_lines(rows, self.marks) if rows else []
        return [Block("lines", lines)] if lines else []

    def _rows(self, container: Any) -> Iterator[Block]:
        for child in container:
            name = name_of(child)
            if name == "tr":
                about = _child(child, "trPr")
                if _child(about, "del") is not None:
                    self._drop("tracked deletion", child)
                    continue
                cells = list(self._cells(child))
                yield Block("row", cells=cells, heads=_on(about, "tblHeader"))
            elif name in _DROPPED:
                self._drop(_DROPPED[name], child)
            elif name:
                yield from self._rows(child)

    def _cells(self, container: Any) -> Iterator[Block]:
        for child in container:
            name = name_of(child)
            if name == "tc":
                text = cell_text(self._blocks(child), self.marks)
                about = _child(child, "tcPr")
                span = _value(about, "gridSpan") or "1"
                columns = min(int(span), 100) if span.isdigit() else 1
                merged = _child(about, "vMerge")
                goes_on = merged is not None and _attribute(merged, "val") != "restart"
                yield Block("cell", [text] if text else [], columns=max(1, columns), rows=0 if goes_on else 1)
            elif name in _DROPPED:
                self._drop(_DROPPED[name], child)
            elif name not in ("", "trPr"):
                yield from self._cells(child)

    def _notes(self) -> list[Block]:
        """The notes that the text refers to, in its order."""
        found: dict[int, list[str]] = {}
        for kind, tree in self.notes.items():
            for note in tree if tree is not None else ():
                number = self.referred.get((kind, _attribute(note, "id") or ""))
                if number is None:
                    self._drop("note that nothing refers to", note)
                    continue
                lines = compose(self._blocks(note), self.marks)
                if lines:
                    found[number] = indent(lines, self.marks.put("note", f"[^{number}]:") + " ", "    ")
        return [Block("lines", found[number]) for number in sorted(found)]


def _join_rows(rows: Sequence[Block]) -> None:
    """Make one cell of those that Word keeps in each row that they span: they come without text, marked by no rows."""
    above: dict[int, Block] = {}
    for row in rows:
        column, own = 0, []
        for cell in row.cells:
            first = above.get(column)
            if cell.rows == 0 and not cell.lines and first is not None and first.columns == cell.columns:
                first.rows += 1
            else:
                cell.rows, above[column] = 1, cell
                own.append(cell)
            column += cell.columns
        row.cells = own


def _child(element: Any, name: str) -> Any:
    return next((child for child in element if name_of(child) == name), None) if element is not None else None


def _attribute(element: Any, name: str) -> str | None:
    """An attribute by its name without namespace."""
    return next((str(value) for key, value in element.attrib.items() if key.rpartition("}")[2] == name), None)


def _value(element: Any, name: str) -> str | None:
    """The `val` of a child."""
    child = _child(element, name)
    return _attribute(child, "val") if child is not None else None


def _on(element: Any, name: str) -> bool:
    """Whether a switch is set: there, and not set to false."""
    child = _child(element, name)
    return child is not None and (_attribute(child, "val") or "1") not in _OFF


def _numbering(properties: Any) -> tuple[str, int] | None:
    numbers = _child(properties, "numPr")
    number = _value(numbers, "numId")
    level = _value(numbers, "ilvl") or "0"
    return (number, int(level)) if number and level.isdigit() else None


def _styles(tree: Any) -> dict[str, _Style]:
    """Id -> style of a paragraph; what a style does not say is that of the one that it is based on."""
    raw = {
        _attribute(node, "styleId") or "": node
        for node in (tree if tree is not None else ())
        if name_of(node) == "style"
    }
    found: dict[str, _Style] = {}

    def resolve(key: str, above: tuple[str, ...] = ()) -> _Style:
        if key in found or key in above or key not in raw:
            return found.get(key, _Style())
        node = raw[key]
        properties = _child(node, "pPr")
        name = (_value(node, "name") or "").lower()
        base = resolve(_value(node, "basedOn") or "", (*above, key))
        heading, outline = _HEADING.fullmatch(name), _value(properties, "outlineLvl")
        level = base.level
        if heading:
            level = int(heading[1])
        elif name == "title":
            level = 1
        elif outline is not None and outline.isdigit():
            level = int(outline) + 1 if int(outline) < 9 else None
        found[key] = _Style(name, level, _numbering(properties) or base.number)
        return found[key]

    for key in raw:
        resolve(key)
    return found


def _list_formats(tree: Any) -> dict[tuple[str, int], int | None]:
    """Numbering and level -> the first number, None for bullets; what shows no mark is left out."""
    shapes: dict[str, dict[int, int | None]] = {}
    formats: dict[tuple[str, int], int | None] = {}
    for node in tree if tree is not None else ():
        if name_of(node) == "abstractNum":
            levels = shapes.setdefault(_attribute(node, "abstractNumId") or "", {})
            for level in node:
                kind, depth = _value(level, "numFmt"), _attribute(level, "ilvl") or "0"
                if name_of(level) == "lvl" and kind != "none" and depth.isdigit():
                    start = _value(level, "start") or "1"
                    levels[int(depth)] = None if kind == "bullet" else int(start) if start.isdigit() else 1
        elif name_of(node) == "num":
            for at, first in shapes.get(_value(node, "abstractNumId") or "", {}).items():
                formats[_attribute(node, "numId") or "", at] = first
    return formats
