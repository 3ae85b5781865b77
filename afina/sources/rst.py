"""reStructuredText as Markdown: headings, code, notes, tables, roles. What a build fills in is left out, counted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from afina.sources.blocks import Block
from afina.sources.files import FileText, SourceReading
from afina.sources.rewriting import (
    OTHERWISE,
    MarkdownWriter,
    Numbered,
    Piece,
    block_until,
    dedented,
    indent_of,
    indented_below,
    kept,
    numbered,
)
from afina.text.document import Document

_UNDERLINE = re.compile(r"([!-/:-@\[-`{-~])\1{2,}\s*")
_DIRECTIVE = re.compile(r"\.\.\s+(?:\|[^|]+\|\s+)?([\w:+.-]+?)::(?:\s+(.*))?")
_TARGET = re.compile(r"(\.\.\s+_[^:]*(?:`[^`]*`)?:.*|__ .*)")
_FOOTNOTE = re.compile(r"\.\.\s+(\[[^\]]+\]) +(.*)")
_SUBSTITUTION = re.compile(r"\.\.\s+\|[^|]+\|")
_OPTION = re.compile(r"\s*:[\w-]+:(\s.*)?")
_FIELD = re.compile(r":[\w ]+:(\s|$)")
_SIMPLE_TABLE = re.compile(r"=+( +=+)+\s*")
_GRID = re.compile(r"\+([-=]+\+)+\s*")
_CODE = frozenset({"code", "code-block", "sourcecode", "parsed-literal", "prompt", "ipython", "doctest"})
_NOTES = frozenset(
    {"note", "warning", "tip", "important", "caution", "danger", "hint", "seealso", "attention", "error", "todo"}
    | {"admonition", "versionadded", "versionchanged", "deprecated", "topic", "rubric", "sidebar"}
)
_SHOWS_NOTHING = frozenset(
    {"toctree", "contents", "index", "currentmodule", "module", "highlight", "meta", "sectnum", "default-role", "role"}
    | {
        "image",
        "raw",
        "literalinclude",
        "include",
        "automodule",
        "autoclass",
        "autofunction",
        "automethod",
        "autosummary",
        "default-domain",
    }
    | {"tabularcolumns", "py:module", "py:currentmodule", "graphviz", "inheritance-diagram"}
)
_IN_WORDS = frozenset(
    {"ref", "doc", "term", "numref", "any", "abbr", "pep", "rfc", "emphasis", "strong", "title", "guilabel"}
)


def _role(hit: re.Match[str]) -> list[Piece]:
    """``:func:`text <target>``` as its text; code where the role names code."""
    name, said, target = hit[1].strip(":").split(":")[-1], hit[2], hit[3] or ""
    mark = "" if name in _IN_WORDS else "`"
    short = re.match(r"[~!]", said)
    return [
        (f"{hit[1]}`{short[0] if short else ''}", mark),
        kept(said[1 if short else 0 :].rstrip()),
        (f"{target}`", mark),
    ]


_RULES = (
    (re.compile(r"``(.+?)``"), lambda hit: [("``", "`"), kept(hit[1]), ("``", "`")]),
    (re.compile(r"(:[\w:+.-]+:)`([^`<]+?)(\s*<[^`>]*>)?`"), _role),
    (
        re.compile(r"`([^`<]+?)\s*<([^`>]+)>`__?"),
        lambda hit: [("`", "["), kept(hit[1]), ("<", "]("), kept(hit[2]), (hit[0][hit[0].rindex(">") :], ")")],
    ),
    (re.compile(r"`([^`]+)`__?"), lambda hit: [("`", ""), kept(hit[1]), (hit[0][len(hit[1]) + 1 :], "")]),
)


def read_rst(opened: FileText, reading: SourceReading) -> Iterator[Document]:
    """The file as one Markdown document."""
    writer = MarkdownWriter(opened, _RULES)
    lines = numbered(opened.text)
    while lines and _FIELD.match(lines[0][1]):
        writer.drop("fields of the document", lines.pop(0)[1])
    _Rst(writer).block(lines)
    yield from writer.document(reading)


class _Rst:
    def __init__(self, writer: MarkdownWriter) -> None:
        self.writer = writer
        self.levels: list[tuple[str, bool]] = []

    def block(self, lines: Sequence[Numbered]) -> None:
        """Write lines of one indentation, and all that is below them."""
        at = 0
        while at < len(lines):
            at = self.step(lines, at)

    def step(self, lines: Sequence[Numbered], at: int) -> int:
        number, text = lines[at]
        if not text.strip():
            self.writer.blank(number)
            return at + 1
        if (after := self.section(lines, at)) or (after := self.table(lines, at)):
            return after
        if text.startswith((".. ", "__ ")) or text.rstrip() == "..":
            return self.explicit(lines, at)
        if text.startswith(">>> "):
            end = block_until(lines, at, lambda line: not line.strip())
            self.writer.code(lines[at:end], "python", number)
            return end
        return self.paragraph(lines, at)

    def section(self, lines: Sequence[Numbered], at: int) -> int:
        """A title under, or between, lines of marks; 0 where there is none."""
        texts = [lines[place][1] if place < len(lines) else "" for place in range(at, at + 3)]
        over = bool(_UNDERLINE.fullmatch(texts[0]) and texts[1].strip() and texts[2].rstrip() == texts[0].rstrip())
        title, under = (texts[1], texts[2]) if over else (texts[0], texts[1])
        fits = (
            _UNDERLINE.fullmatch(under)
            and len(under.rstrip()) >= len(title.rstrip())
            and not _UNDERLINE.fullmatch(title)
        )
        if not fits or (title[:1].isspace() and not over):
            return 0
        kind = under[0], over
        if kind not in self.levels:
            self.levels.append(kind)
        marks = texts[0] + under if over else under
        self.writer.heading((lines[at + over][0], title), self.levels.index(kind) + 1)
        self.writer.drop(OTHERWISE, marks)
        return at + 2 + over

    def table(self, lines: Sequence[Numbered], at: int) -> int:
        """A simple table becomes one of Markdown's; a grid stays as it is drawn. 0 where there is none."""
        text = lines[at][1]
        if _GRID.fullmatch(text):
            end = block_until(lines, at, lambda line: not line.startswith(("+", "|")))
            self.writer.code(lines[at:end], "text", lines[at][0])
            return end
        if not _SIMPLE_TABLE.fullmatch(text):
            return 0
        starts = [hit.start() for hit in re.finditer(r"=+", text)]
        cuts = [slice(start, end) for start, end in zip(starts, [*starts[1:], None], strict=True)]
        rows: list[tuple[int, list[Block]]] = []
        borders = 0
        while at < len(lines) and borders < 3:
            number, text = lines[at]
            if _SIMPLE_TABLE.fullmatch(text) or re.fullmatch(r"[-\s]*-[-\s]*", text):
                self.writer.drop(OTHERWISE, text)
                borders += text.startswith("=")
            elif text.strip():
                rows.append((number, [self.writer.cell(text[cut]) for cut in cuts]))
            at += 1
            if borders == 2 and (at == len(lines) or not lines[at][1].strip()):
                break  # a table without a head
        self.writer.table(rows)
        return at

    def explicit(self, lines: Sequence[Numbered], at: int) -> int:
        """What begins with two dots: a directive, a target, a footnote, or a comment."""
        number, text = lines[at]
        end = indented_below(lines, at + 1)
        whole = "\n".join(line for _, line in lines[at:end])
        if _SUBSTITUTION.match(text) or _TARGET.fullmatch(text):
            self.writer.drop("targets of links, and substitutions", whole)
        elif note := _FOOTNOTE.fullmatch(text):
            self.writer.prose((number, note[2]), [("..", ""), kept(f"{note[1]} ")])
            self.block(dedented(lines[at + 1 : end]))
        elif directive := _DIRECTIVE.fullmatch(text):
            self.directive(directive, number, lines[at + 1 : end])
        else:
            self.writer.drop("comments", whole)
        return end

    def directive(self, found: re.Match[str], number: int, below: Sequence[Numbered]) -> None:
        name, said, writer = found[1], (found[2] or "").strip(), self.writer
        if name in _SHOWS_NOTHING:
            writer.drop(f"directive `{name}`", "\n".join([found[0], *(text for _, text in below)]))
            return
        options = 0
        while options < len(below) and _OPTION.fullmatch(below[options][1]):
            writer.drop("options of directives", below[options][1])
            options += 1
        body = dedented(below[options:])
        mark = found[0][: found[0].index("::") + 2]
        if name in _CODE:
            writer.drop(OTHERWISE, found[0])
            writer.code(body, said if name in ("code", "code-block", "sourcecode") else "", number)
        elif name == "math":
            writer.code([*([(number, said)] if said else []), *body], "math", number)
            writer.drop(OTHERWISE, mark)
        elif name in _NOTES:
            label = "" if name in ("admonition", "topic", "rubric", "sidebar") else f"**{name.capitalize()}:** "
            writer.blank(number)
            if said or label:
                writer.prose((number, said), [(mark, label)])
            else:
                writer.drop(OTHERWISE, mark)
            writer.blank(number)
            self.block(body)
        else:  # a signature, a table with a title, a figure with its caption
            writer.blank(number)
            shown = [(mark, ""), ("", "`"), kept(said), ("", "`")] if said and name not in ("figure", "table") else []
            if shown:
                writer.pieces(shown, number)
            else:
                writer.drop(OTHERWISE, found[0])
            writer.blank(number)
            self.block(body)
        writer.blank(number)

    def paragraph(self, lines: Sequence[Numbered], at: int) -> int:
        """Lines up to a blank one; two colons at their end announce code."""
        end = block_until(lines, at, lambda line: not line.strip())
        announced = lines[end - 1][1].rstrip().endswith("::") and (
            end < len(lines) and indented_below(lines, end, indent_of(lines[end - 1][1])) > end
        )
        for number, text in lines[at : end - 1] if announced else lines[at:end]:
            self.writer.prose((number, text))
        if not announced:
            return end
        number, text = lines[end - 1]
        bare = text.rstrip()[:-2]
        if bare.strip():
            self.writer.prose((number, bare.rstrip()), after=[("::", ":")])
        else:
            self.writer.drop(OTHERWISE, text)
        after = indented_below(lines, end, indent_of(text))
        self.writer.code(lines[end:after], "", number)
        return after
