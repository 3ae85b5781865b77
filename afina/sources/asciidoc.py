"""AsciiDoc as Markdown: headings, listings, notes, lists, tables, links. Attributes are left out, counted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from afina.sources.asciidoc_table import AsciiDocCell, read_cells, read_separated, rows_of
from afina.sources.blocks import Block
from afina.sources.files import FileText, SourceReading
from afina.sources.rewriting import (
    OTHERWISE,
    MarkdownWriter,
    Numbered,
    Piece,
    Rule,
    block_until,
    kept,
    numbered,
    pieces_of,
)
from afina.text.document import Document

_HEADING = re.compile(r"(={1,6}|#{1,6})[ \t]+(\S.*)")
_ATTRIBUTE = re.compile(r":(!?[\w-]+!?):(?:[ \t]+(.*))?")
_AUTHOR = re.compile(r"[^\W\d_][^:=<>|]*<[^<>\s]+@[^<>\s]+>.*|v?\d+(\.\d+)+.*")
_BLOCK_ATTRIBUTE = re.compile(r"\[.*\]\s*")
_TITLE = re.compile(r"\.([^\s.].*)")
_NOTE = re.compile(r"(NOTE|TIP|IMPORTANT|WARNING|CAUTION):[ \t]+(.*)")
_LIST = re.compile(r"\s*(\*{1,5}|-|\.{1,5})[ \t]+(.*)")
_MACRO = re.compile(r"(include|image|video|audio|toc|ifdef|ifndef|ifeval|endif)::.*|(toc::\[\]|<<<|'''|\+)\s*")
_VERBATIM = re.compile(r"-{4,}\s*|\.{4,}\s*|\+{4,}\s*|`{3,}.*")
_FRAME = re.compile(r"={4,}\s*|\*{4,}\s*|_{4,}\s*|--\s*")


def _linked(hit: re.Match[str]) -> list[Piece]:
    address, said = hit[1], hit[2]
    before = "link:" if hit[0].startswith("link:") else ""
    if not said.strip():
        return [(before, ""), kept(address), (hit[0][len(before) + len(address) :], "")]
    # The text comes first in Markdown and last here: it is counted as written anew.
    return [(hit[0], f"[{said}]({address})")]


def _rules(attributes: Mapping[str, str]) -> list[Rule]:
    """The marks inside lines; in bold and emphasised text they count again."""
    rules: list[Rule] = []

    def nested(mark: str) -> Callable[[re.Match[str]], list[Piece]]:
        return lambda hit: _around(hit, mark, pieces_of(hit[1], rules))

    def filled(hit: re.Match[str]) -> list[Piece]:
        return [(hit[0], attributes[hit[1]])] if hit[1] in attributes else [kept(hit[0])]

    rules += [
        (re.compile(r"`\+?([^`]+?)\+?`"), lambda hit: _around(hit, "`", [kept(hit[1])])),
        (re.compile(r"(?:link:)?((?:https?|ftp|mailto):[^\s\[\]]+)\[([^\]]*)\]"), _linked),
        (re.compile(r"link:([^\s\[\]]+)\[([^\]]*)\]"), _linked),
        (re.compile(r"<<([^,>]+),\s*([^>]+)>>"), lambda hit: [(f"<<{hit[1]},", ""), kept(hit[2]), (">>", "")]),
        (re.compile(r"xref:[^\s\[]+\[([^\]]+)\]"), lambda hit: _inside(hit)),
        (re.compile(r"footnote:[^\s\[]*\[([^\]]+)\]"), lambda hit: _inside(hit, " (", ")")),
        (re.compile(r"(?:kbd|btn|menu):[^\s\[]*\[([^\]]+)\]"), lambda hit: _inside(hit, "`", "`")),
        (re.compile(r"image:[^\s\[:]+\[([^\]]*)\]"), lambda hit: [(hit[0], "")]),
        (re.compile(r"(?<!\w)\*\*?(?=\S)([^*]+?)(?<=\S)\*\*?(?!\w)"), nested("**")),
        (re.compile(r"(?<!\w)__?(?=\S)([^_]+?)(?<=\S)__?(?!\w)"), nested("*")),
        (re.compile(r"\{([\w-]+)\}"), filled),
    ]
    return rules


def _around(hit: re.Match[str], mark: str, said: list[Piece]) -> list[Piece]:
    at = hit.start(1) - hit.start()
    return [(hit[0][:at], mark), *said, (hit[0][at + len(hit[1]) :], mark)]


def _inside(hit: re.Match[str], before: str = "", after: str = "") -> list[Piece]:
    at = hit.start(1) - hit.start()
    return [(hit[0][:at], before), kept(hit[1]), ("]", after)]


def read_asciidoc(opened: FileText, reading: SourceReading) -> Iterator[Document]:
    """The file as one Markdown document."""
    lines = numbered(opened.text)
    attributes = {hit[1]: hit[2] or "" for _, text in lines if (hit := _ATTRIBUTE.fullmatch(text))}

    writer = MarkdownWriter(opened, _rules(attributes))
    _AsciiDoc(writer).block(lines)
    yield from writer.document(reading)


class _AsciiDoc:
    def __init__(self, writer: MarkdownWriter) -> None:
        self.writer = writer
        self.attribute = ""
        self.in_header = False

    def block(self, lines: Sequence[Numbered]) -> None:
        at = 0
        while at < len(lines):
            at = self.step(lines, at)

    def step(self, lines: Sequence[Numbered], at: int) -> int:
        number, text = lines[at]
        if text.startswith("////"):
            end = block_until(lines, at + 1, lambda line: line.startswith("////")) + 1
            self.writer.drop("comments", "\n".join(line for _, line in lines[at:end]))
            return end
        if text.startswith("//"):
            self.writer.drop("comments", text)
        elif _VERBATIM.fullmatch(text):
            return self.verbatim(lines, at)
        elif text.startswith(("|===", ",===", ":===", "!===")):
            return self.table(lines, at)
        elif _ATTRIBUTE.fullmatch(text) or (self.in_header and _AUTHOR.fullmatch(text)):
            self.writer.drop("attributes of the document, and its author", text)
        elif _BLOCK_ATTRIBUTE.fullmatch(text):
            self.attribute = text.strip()[1:-1]
            self.writer.drop("attributes of blocks", text)
        elif _FRAME.fullmatch(text) or _MACRO.fullmatch(text):
            self.writer.drop("frames, includes and pictures", text)
            self.writer.blank(number)
        else:
            self.prose(number, text)
        return at + 1

    def prose(self, number: int, text: str) -> None:
        writer = self.writer
        if heading := _HEADING.fullmatch(text):
            self.in_header = not writer.title
            writer.heading((number, heading[2]), len(heading[1]), heading[1])
            return
        if not text.strip():
            self.in_header, self.attribute = False, ""
            writer.blank(number)
        elif note := _NOTE.fullmatch(text):
            writer.prose((number, note[2]), [(f"{note[1]}:", f"**{note[1].capitalize()}:** ")])
        elif item := _LIST.fullmatch(text):
            deep = "  " * (len(item[1]) - 1)
            mark = f"{deep}{'1.' if item[1][0] == '.' else '-'} "
            writer.prose((number, item[2]), [(item[1], mark)] if item[1] != "-" else [kept("-"), ("", " ")])
        elif title := _TITLE.fullmatch(text):
            writer.prose((number, title[1]), [(".", "**")], [("", "**")])
            writer.blank(number)
        else:
            if self.attribute.upper() in ("NOTE", "TIP", "IMPORTANT", "WARNING", "CAUTION"):
                writer.prose((number, text), [("", f"**{self.attribute.capitalize()}:** ")])
            else:
                writer.prose((number, text))
            self.attribute = ""

    def verbatim(self, lines: Sequence[Numbered], at: int) -> int:
        mark = lines[at][1].rstrip()
        closing = mark if not mark.startswith("`") else "```"
        end = block_until(lines, at + 1, lambda line: line.rstrip() == closing)
        named = [part.strip() for part in self.attribute.split(",")]
        language = named[1] if len(named) > 1 and named[0] in ("source", "", "listing") else mark.strip("`-.+ ")
        self.writer.drop(OTHERWISE, mark + (lines[end][1] if end < len(lines) else ""))
        self.writer.code(lines[at + 1 : end], language, lines[at][0])
        self.attribute = ""
        return end + 1

    def table(self, lines: Sequence[Numbered], at: int) -> int:
        """Cells behind bars; a row is as many columns as `cols` or the first line has. With commas or colons between
        its values, a line is a row."""
        writer, mark = self.writer, lines[at][1].strip()
        end = block_until(lines, at + 1, lambda line: line.strip() == mark)
        writer.drop(OTHERWISE, mark + (lines[end][1] if end < len(lines) else ""))
        separator = _separator_of(mark, self.attribute)
        if separator in "|!":
            cells, wide, marks = read_cells(lines[at + 1 : end], separator)
            rows = list(rows_of(cells, _columns_of(self.attribute) or wide or 1))
        else:
            rows, marks = read_separated(lines[at + 1 : end], separator)
        writer.drop(OTHERWISE, marks)
        written: dict[int, Block] = {}
        self.writer.table([(row[0].line if row else 0, [self.cell(cell, written) for cell in row]) for row in rows])
        self.attribute = ""
        return end + 1

    def cell(self, cell: AsciiDocCell, written: dict[int, Block]) -> Block:
        """One that stands there several times is the file's the first time, and added then."""
        if block := written.get(id(cell)):
            self.writer.marks.put("cell written several times", "".join(block.lines))
            return block
        return written.setdefault(id(cell), self.writer.cell(cell.text, cell.columns, cell.rows))


def _separator_of(mark: str, attribute: str) -> str:
    """
    >>> _separator_of("|===", "%header,format=csv"), _separator_of(":===", ""), _separator_of("!===", "")
    (',', ':', '!')
    """
    written = re.search(r"format=\"?(csv|dsv)\b", attribute)
    return {"csv": ",", "dsv": ":"}[written[1]] if written else mark[0]


def _columns_of(attribute: str) -> int:
    """
    >>> _columns_of('cols="1,2a"'), _columns_of("cols=3*"), _columns_of("%header")
    (2, 3, 0)
    """
    found = re.search(r"cols=(?:\"([^\"]*)\"|([^,\s]+))", attribute)
    if not found:
        return 0
    total = 0
    for column in re.split(r"[,;]", found[1] or found[2]):
        times = re.match(r"\s*(\d+)\*", column)
        total += int(times[1]) if times else 1
    return total
