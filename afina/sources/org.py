"""Org as Markdown: headings, blocks, lists, tables, links. Settings, drawers and planning are left out, counted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from afina.sources.files import FileText, SourceReading
from afina.sources.rewriting import OTHERWISE, MarkdownWriter, Numbered, Piece, Rule, block_until, kept, numbered
from afina.text.document import Document

_HEADING = re.compile(
    r"(\*+)[ \t]+((?:TODO|DONE|NEXT|WAITING|CANCELLED)[ \t]+)?((?:\[#\w\][ \t]+)?)(.*?)([ \t]+:[\w@:]+:)?[ \t]*"
)
_BEGIN = re.compile(r"\s*#\+begin_(\w+)(?:[ \t]+(\S+))?.*", re.I)
_SETTING = re.compile(r"\s*#\+\w[\w-]*(\[.*?\])?:.*")
_TITLE = re.compile(r"#\+title:[ \t]*(.*)", re.I)
_DRAWER = re.compile(r"\s*:(PROPERTIES|LOGBOOK|CLOCK|RESULTS):\s*", re.I)
_PLANNING = re.compile(r"\s*(SCHEDULED|DEADLINE|CLOSED):.*")


def _mark(old: str, new: str) -> Rule:
    around = re.compile(rf"(?<![\w{old}])\{old}(?=\S)([^{old}\n]+?)(?<=\S)\{old}(?![\w{old}])")
    return around, lambda hit: [(old, new), kept(hit[1]), (old, new)]


_RULES: tuple[Rule, ...] = (
    _mark("=", "`"),
    _mark("~", "`"),
    (re.compile(r"\[\[([^\[\]]+)\]\[([^\[\]]+)\]\]"), lambda hit: [(hit[0], f"[{hit[2]}]({hit[1]})")]),
    (re.compile(r"\[\[([^\[\]]+)\]\]"), lambda hit: [("[[", ""), kept(hit[1]), ("]]", "")]),
    (re.compile(r"https?://\S+"), lambda hit: [kept(hit[0])]),
    _mark("*", "**"),
    _mark("/", "*"),
)


def read_org(opened: FileText, reading: SourceReading) -> Iterator[Document]:
    """The file as one Markdown document."""
    writer = MarkdownWriter(opened, _RULES)
    lines, at = numbered(opened.text), 0
    while at < len(lines):
        at = _step(writer, lines, at)
    yield from writer.document(reading)


def _step(writer: MarkdownWriter, lines: Sequence[Numbered], at: int) -> int:
    number, text = lines[at]
    if begin := _BEGIN.fullmatch(text):
        return _block(writer, lines, at, begin)
    if _DRAWER.fullmatch(text):
        end = block_until(lines, at + 1, lambda line: line.strip().upper() == ":END:") + 1
        writer.drop("drawers", "\n".join(line for _, line in lines[at:end]))
        return end
    if text.lstrip().startswith(": "):
        end = block_until(lines, at, lambda line: not line.lstrip().startswith(":"))
        writer.drop(OTHERWISE, ":" * (end - at))
        writer.code([(each, line.lstrip()[2:]) for each, line in lines[at:end]], "", number)
        return end
    if title := _TITLE.fullmatch(text):
        writer.heading((number, title[1]), 1, text[: text.index(":") + 1])
    elif _SETTING.fullmatch(text) or _PLANNING.fullmatch(text):
        writer.drop("settings and planning", text)
    elif re.match(r"\s*#(\s|$)", text):
        writer.drop("comments", text)
    elif heading := _HEADING.fullmatch(text):
        beside = "".join(part or "" for part in (heading[2], heading[3], heading[5]))
        writer.heading((number, heading[4]), len(heading[1]), heading[1] + beside)
    elif re.fullmatch(r"\s*\|[-+]+\|?\s*", text):
        writer.pieces([(text, re.sub(r"\+", "|", text))], number)
    elif text.strip():
        writer.prose((number, text))
    else:
        writer.blank(number)
    return at + 1


def _block(writer: MarkdownWriter, lines: Sequence[Numbered], at: int, begin: re.Match[str]) -> int:
    name = begin[1].lower()
    end = block_until(lines, at + 1, lambda line: line.strip().lower() == f"#+end_{name}")
    writer.drop(OTHERWISE, begin[0] + (lines[end][1] if end < len(lines) else ""))
    body = lines[at + 1 : end]
    if name in ("src", "example", "export"):
        writer.code(body, (begin[2] or "") if name != "example" else "", lines[at][0])
    elif name == "comment":
        writer.drop("comments", "\n".join(text for _, text in body))
    else:
        quoted: list[Piece] = [("", "> ")] if name in ("quote", "verse") else []
        writer.blank(lines[at][0])
        for line in body:
            writer.prose(line, quoted)
        writer.blank(lines[at][0])
    return end + 1
