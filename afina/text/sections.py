"""Cut a document into sections that fit, without losing, doubling or moving a character.

Markdown is cut at its headings. What is still too long is cut at the boundaries of blocks
(paragraphs, list items, table rows), then of sentences, then of words, and a word longer than a
whole section last. **Code is kept whole**: a fenced or indented code block is never cut, with the
headings and the caption right above it, even where it alone is longer than `max_chars`. That is the only section
of a Markdown document that may be too long; the trainer cuts long plain texts into blocks, and
`dataset.json` counts them. In a code file the smallest piece is one line.

Every section is a verbatim slice: the texts of all sections, one after the other, are the text of
the document but for white space between them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

from afina.text.document import Document

_LINE_END = re.compile(r"\r\n?|\n")
_BLANK_START = re.compile(r"\A(?:[^\S\r\n]*(?:\r\n?|\n))+")
_PARAGRAPH_END = re.compile(r"(?:\r\n?|\n)(?:[^\S\r\n]*(?:\r\n?|\n))+")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’»)\]*_]*\s+(?=[^\sa-zà-öø-ÿ])")
_WORD_END = re.compile(r"(?<=\S)\s+")
_DEFINITION = re.compile(r"[^\s)\]}]")

CAPTION_CHARS = 80

Kind = Literal["heading", "code", "group", "lines", "prose", "sentence", "word"]


@dataclass(frozen=True, slots=True)
class Section:
    """A verbatim slice of a document."""

    text: str
    heading: str = ""
    """Path of headings, its own included: ``Manual > Comments > Doc Comments``."""
    line: int = 1
    """First line in the document's file, counted from 1."""
    headed: bool = False
    """Whether the text itself begins with every heading of the path."""

    @property
    def context(self) -> str:
        """What is put before the text when it becomes an example: the path, where the text lacks it.

        >>> Section("More.", "Manual > Comments").context + "More."
        'Manual > Comments\\n\\nMore.'
        """
        return f"{self.heading}\n\n" if self.heading and not self.headed else ""


@dataclass(frozen=True, slots=True)
class _Block:
    """A slice ``text[start:end]`` and the smaller slices that it may be cut into."""

    kind: Kind
    start: int
    end: int
    title: str = ""
    level: int = 0
    inner: tuple[_Block, ...] = ()


def split_sections(document: Document, max_chars: int) -> list[Section]:
    """The sections of a prose or code document, each at most `max_chars` characters where it can be cut.

    >>> page = Document("a.md", "0" * 64, kind="markdown", text="# A\\n\\nOne.\\n\\n## B\\n\\nTwo.\\n")
    >>> [(part.heading, part.text, part.line) for part in split_sections(page, 100)]
    [('A', '# A\\n\\nOne.', 1), ('A > B', '## B\\n\\nTwo.', 5)]
    """
    assert document.kind != "messages" and max_chars > 0
    text = document.text
    starts = [0, *(found.end() for found in _LINE_END.finditer(text))]
    title = document.title
    if document.kind == "markdown":
        parsed = _markdown_blocks(text, starts)
        # A title that is the first heading stands above the others only where its level says so.
        title = "" if title == next((block.title for block in parsed if block.kind == "heading"), "") else title
        chapters = _chapters(parsed, title)
    elif document.kind == "code":
        chapters = [(title, _code_blocks(text))]
    else:
        chapters = [(title, list(_cut(text, _Block("group", 0, len(text)), _PARAGRAPH_END, "prose")))]
    sections = []
    for heading, blocks in chapters:
        opening = _opening(text, blocks)
        for position, (start, end) in enumerate(_pack(text, blocks, max_chars)):
            kept = _trim(text[start:end])
            if not kept:
                continue
            # Code is no place for a line of prose, so the path stays beside it.
            headed = document.kind == "code" or (position == 0 and _names(opening, title) == heading)
            first_visible = start + len(text[start:end]) - len(_BLANK_START.sub("", text[start:end]))
            line = document.line + bisect_right(starts, first_visible) - 1
            sections.append(Section(kept, heading, line, headed))
    return sections


def _trim(text: str) -> str:
    """Without blank lines around it; the indentation of the first line stays."""
    return _BLANK_START.sub("", text.rstrip())


def _names(titles: Sequence[str], document_title: str) -> str:
    """Headings as a path; the document's title comes first, once.

    >>> _names(["Comments"], "Manual"), _names(["Manual", "Comments"], "Manual")
    ('Manual > Comments', 'Manual > Comments')
    """
    path = [title for title in titles if title]
    if document_title and (not path or path[0] != document_title):
        path.insert(0, document_title)
    return " > ".join(path)


def _opening(text: str, blocks: Sequence[_Block]) -> list[str]:
    """Titles of the headings that a chapter begins with; for plain text its first line."""
    titles = []
    for block in blocks:
        if block.kind != "heading":
            break
        titles.append(block.title)
    return titles or text[blocks[0].start :].strip().splitlines()[:1] if blocks else []


def _chapters(blocks: Sequence[_Block], title: str) -> list[tuple[str, list[_Block]]]:
    """Blocks under their path of headings; a heading with nothing under it goes with the next chapter."""
    chapters: list[tuple[str, list[_Block]]] = []
    above: list[tuple[int, str]] = []
    only_headings = False
    for block in blocks:
        if block.kind == "heading":
            above = [item for item in above if item[0] < block.level] + [(block.level, block.title)]
            path = _names([name for _, name in above], title)
            if only_headings:
                chapters[-1] = (path, [*chapters[-1][1], block])
            else:
                chapters.append((path, [block]))
            only_headings = True
        else:
            if not chapters:
                chapters.append((_names([], title), []))
            chapters[-1][1].append(block)
            only_headings = False
    if only_headings and len(chapters) > 1:
        _, last = chapters.pop()
        chapters[-1][1].extend(last)
    return chapters


def _pack(text: str, blocks: Sequence[_Block], max_chars: int) -> Iterator[tuple[int, int]]:
    """Slices that cover the blocks without a gap, each as long as fits.

    A block that does not fit beside what is there opens a new slice; one that fits nowhere, or
    would leave a heading alone, is taken apart.
    """
    if not blocks:
        return
    start = end = blocks[0].start
    bare = True  # nothing but headings so far
    waiting = list(reversed(blocks))
    while waiting:
        block = waiting.pop()
        if len(_trim(text[start : block.end])) <= max_chars or (block.kind == "code" and bare):
            end, bare = block.end, bare and block.kind == "heading"
            continue
        fits_alone = block.kind == "code" or len(_trim(text[block.start : block.end])) <= max_chars
        smaller = () if fits_alone and not bare else tuple(_smaller(text, block))
        if smaller:
            waiting.extend(reversed(smaller))
        elif end > start:
            yield start, end
            start = end = block.start
            bare = True
            waiting.append(block)
        else:  # one word, longer than a section
            cut = block.start + max_chars
            waiting += [_Block("word", cut, block.end), _Block("word", block.start, cut)]
    if end > start:
        yield start, end


def _smaller(text: str, block: _Block) -> Iterator[_Block]:
    """The parts of a block; none where it cannot be cut further."""
    parts: Iterator[_Block]
    if block.inner:
        parts = iter(block.inner)
    elif block.kind in ("group", "lines"):
        parts = _cut(text, block, _LINE_END, "prose")
    elif block.kind in ("prose", "heading"):
        parts = _cut(text, block, _SENTENCE_END, "sentence")
    elif block.kind == "sentence":
        parts = _cut(text, block, _WORD_END, "word")
    else:
        return
    yield from parts


def _cut(text: str, block: _Block, boundary: re.Pattern[str], kind: Kind) -> Iterator[_Block]:
    """Consecutive slices of a block, each with the boundary that ends it."""
    start = block.start
    for found in boundary.finditer(text, block.start, block.end):
        if found.end() > start:
            yield _Block(kind, start, found.end())
            start = found.end()
    if start < block.end:
        yield _Block(kind, start, block.end)


def _code_blocks(text: str) -> list[_Block]:
    """Top-level definitions of a code file: a blank line, then a line that is not indented."""
    blocks, start = [], 0
    for found in _PARAGRAPH_END.finditer(text):
        if _DEFINITION.match(text, found.end()):
            blocks.append(_code_block(text, start, found.end()))
            start = found.end()
    if start < len(text):
        blocks.append(_code_block(text, start, len(text)))
    return blocks


def _code_block(text: str, start: int, end: int) -> _Block:
    lines = tuple(_cut(text, _Block("group", start, end), _LINE_END, "code"))
    return _Block("group", start, end, inner=lines)


@cache
def _parser() -> MarkdownIt:
    """CommonMark with tables."""
    return MarkdownIt("commonmark").enable("table")


def _markdown_blocks(text: str, starts: Sequence[int]) -> list[_Block]:
    """The top-level blocks of a Markdown text; they cover it without a gap."""
    parser = _parser()
    tokens: list[Token] = []
    # Only the block level: inline marks do not matter here, and parsing them costs most of the time.
    parser.block.parse(_LINE_END.sub("\n", text).replace("\0", "�"), parser, {}, tokens)
    return _nest(tokens, [*starts, len(text)], 0, len(text))


_KINDS: dict[str, Kind] = {
    "heading_open": "heading",
    "paragraph_open": "prose",
    "tr_open": "prose",
    "fence": "code",
    "code_block": "code",
    "html_block": "lines",
}


def _nest(tokens: Sequence[Token], starts: Sequence[int], start: int, end: int) -> list[_Block]:
    """Blocks from tokens; what stands between two blocks (blank lines, link definitions) ends the first."""
    found: list[tuple[Token, Sequence[Token]]] = []
    position = 0
    while position < len(tokens):
        token, after = tokens[position], position + 1
        if token.nesting == 1:
            depth = 1
            while depth:
                depth += tokens[after].nesting
                after += 1
        if token.map:
            if token.type == "fence" and found and _is_caption(found[-1][0], token, starts):
                token.map[0] -= 1
                found.pop()
            found.append((token, tokens[position + 1 : after - 1]))
        position = after
    edges = [start, *(max(start, starts[token.map[0]]) for token, _ in found[1:] if token.map), end]
    blocks = []
    for (token, inside), left, right in zip(found, edges, edges[1:], strict=False):
        kind = _KINDS.get(token.type, "group")
        if kind == "heading":
            blocks.append(_Block(kind, left, right, _plain(inside[0].content), int(token.tag[1:])))
        else:
            inner = tuple(_nest(inside, starts, left, right)) if kind == "group" else ()
            blocks.append(_Block(kind, left, right, inner=inner))
    if not blocks and start < end:
        blocks.append(_Block("group", start, end))
    return blocks


def _is_caption(above: Token, fence: Token, starts: Sequence[int]) -> bool:
    """Whether a paragraph is one short line right above a code block (its file name): it belongs to the code."""
    if above.type != "paragraph_open" or not above.map or not fence.map:
        return False
    first, end = above.map
    return end == fence.map[0] == first + 1 and starts[end] - starts[first] <= CAPTION_CHARS


def _plain(markdown: str) -> str:
    """A heading without its marks.

    >>> _plain("The `@as` *builtin*")
    'The @as builtin'
    """
    parts = []
    for token in _parser().parseInline(markdown)[0].children or []:
        parts.append(token.content if token.type in ("text", "code_inline") else " " * (token.type == "softbreak"))
    return " ".join("".join(parts).split())
