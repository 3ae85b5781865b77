"""The sentences and lists of a text: what prose says, without its Markdown.

Code between backticks keeps them; all other marks, pictures, emoji and HTML go. Code blocks with the name of their file
above, and tables, are no prose and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

PICTOGRAPH = re.compile(
    "[\U0001f000-\U0001faff\u2300-\u23ff\u25a0-\u27bf\u2b00-\u2bff\u200d\ufe0e\ufe0f\U000e0020-\U000e007f]+"
)
"""Runs of emoji and other small pictures."""
_SENTENCE_END = re.compile(r"[.!?…][\"'”’»)\]]*\s+(?=[^\sa-zà-öø-ÿ])")
_ABBREVIATED = re.compile(
    r"(?:^|[\s(«“\".])(?:[^\W\d_]|e\.g|i\.e|etc|vs|cf|resp|approx|no|fig|mr|mrs|ms|dr|dra|prof|st|sr|sra|eng|arq|"
    r"exmo|av|pág|pag|p|pp|vol|núm|séc|nasc|aprox|ex|cap)\.[\"'”’»)\]]*\s+$",
    re.I,
)
_CODE_SPAN = re.compile(r"`[^`]*`")
_HEADING = re.compile(r"^#{1,6} \S", re.M)
"""A plain text that has headings is written as Markdown, whatever its name."""
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n")


@dataclass(frozen=True, slots=True)
class Passage:
    """A paragraph, or one item of a list."""

    text: str
    """On one line."""
    line: int
    """Its first line in the text, counted from 1."""
    list_number: int = 0
    """Which list of the text it is an item of, from 1; 0: it is none. Negative for what stands deeper in an item."""
    apart: bool = False
    """Whether it stands below a rule across the page, which ends what belongs to the heading above."""


def passages(text: str, *, markdown: bool) -> list[Passage]:
    """What a text says, in order.

    >>> text = "# A\\n\\nOne **two** `x`.\\n\\n- [Three](a.md)\\n\\n```\\ncode\\n```\\n"
    >>> [each.text for each in passages(text, markdown=True)]
    ['One two `x`.', 'Three']
    """
    if not markdown and not _HEADING.search(text):
        return list(_paragraphs(text))
    found: list[Passage] = []
    lists = depth = 0
    skipped = 0  # how many tables and headings are open
    apart = False
    begins = False  # an item whose first paragraph has not come yet
    for token in _parser().parse(text.replace("\r\n", "\n").replace("\r", "\n")):
        if token.type == "fence" and found and token.map and (last := found[-1]) and _is_caption(last, token.map[0]):
            found.pop()
        if token.type in ("bullet_list_open", "ordered_list_open"):
            depth += 1
            lists += depth == 1
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            depth -= 1
        elif token.type == "hr":
            apart = apart or bool(found)
        elif token.type == "list_item_open":
            begins = depth == 1
        elif token.type in ("table_open", "table_close", "heading_open", "heading_close"):
            skipped += token.nesting
        elif token.type == "inline" and not skipped and (said := _said(token)):
            number = (lists if begins else -lists) if depth else 0
            found.append(Passage(said, (token.map or [0])[0] + 1, number, apart))
            begins = False
    return found


def _is_caption(above: Passage, fence: int) -> bool:
    """Whether a passage is one word right above a code block: the name of its file."""
    return above.line == fence and " " not in above.text


def _paragraphs(text: str) -> Iterator[Passage]:
    start, line = 0, 1
    for end in [*(found.start() for found in _PARAGRAPH.finditer(text)), len(text)]:
        piece = text[start:end]
        if said := " ".join(PICTOGRAPH.sub(" ", piece).split()):
            yield Passage(said, line + len(piece[: len(piece) - len(piece.lstrip())].split("\n")) - 1)
        line += piece.count("\n")
        start = end


@cache
def _parser() -> MarkdownIt:
    """CommonMark with tables."""
    return MarkdownIt("commonmark").enable("table")


def _said(token: Token) -> str:
    """The words of an inline token."""
    parts = []
    for child in token.children or []:
        if child.type == "code_inline":
            parts.append(f"`{child.content}`" if "`" not in child.content else child.content)
        elif child.type == "text":
            parts.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
    return " ".join(PICTOGRAPH.sub(" ", "".join(parts)).split())


def sentences(text: str) -> list[str]:
    """The sentences of one passage.

    >>> sentences("Use e.g. `a. B`. It was Sr. Silva! Then?")
    ['Use e.g. `a. B`.', 'It was Sr. Silva!', 'Then?']
    """
    hidden = _CODE_SPAN.sub(lambda found: "`" + "x" * (len(found[0]) - 2) + "`", text)
    cuts = [0]
    for found in _SENTENCE_END.finditer(hidden):
        if not _ABBREVIATED.search(hidden[max(cuts[-1], found.end() - 16) : found.end()]):
            cuts.append(found.end())
    return [text[start:end].strip() for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]
