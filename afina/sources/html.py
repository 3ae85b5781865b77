"""HTML: one Markdown document per page, by a walk over the parsed tree that counts every character.

Left out, with the reason counted: scripts, styles, the head, navigation, comments, hidden
elements, the ``§`` links of headings, the links that lead back from notes, numbers of printed pages;
and what stands around the main content (:mod:`afina.sources.main_content`).
What is hidden only by a style sheet cannot be seen here.
The characters that come in are counted apart from the walk (:func:`count_characters`), so that
the ledger balances only if nothing was lost, doubled or written without being counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from afina.errors import DataError
from afina.sources.blocks import (
    BREAK,
    Block,
    Marks,
    Piece,
    cell_text,
    code_span,
    compose,
    definition_blocks,
    list_lines,
    quote_lines,
    table_lines,
    to_blocks,
    wrap,
)
from afina.sources.docgen import expand_docgen, is_docgen
from afina.sources.fences import language_of_block, language_of_caption
from afina.sources.files import FileText, SourceReading
from afina.sources.main_content import PageFurniture
from afina.text.document import Document, FileLedger, visible

_BLOCKS = re.compile(
    r"address|article|aside|blockquote|body|caption|center|d[dlt]|details|dialog|dir|div|fieldset|fig(caption|ure)"
    r"|footer|form|h[1-6r]|header|hgroup|html|legend|li|main|menu|[ou]l|optgroup|option|p|pre|search|section|summary"
    r"|table|tbody|td|tfoot|th|thead|tr"
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_CODE = frozenset({"code", "kbd", "samp", "tt"})
_EMPHASIS = {"em": "*", "i": "*", "strong": "**", "b": "**"}
_LEFT_OUT = {
    "script": "script",
    "style": "style",
    "title": "title",
    "template": "template",
    "noscript": "noscript",
    "svg": "drawing (svg)",
    "iframe": "embedded object",
    "object": "embedded object",
    "audio": "embedded object",
    "video": "embedded object",
    "canvas": "embedded object",
}
_FORMULA_MARKS: dict[str, tuple[str, ...]] = {
    "msup": ("", "^"),
    "msub": ("", "_"),
    "msubsup": ("", "_", "^"),
    "mfrac": ("", "/"),
}
"""MathML element -> what is written before each of its parts."""
_BACK = frozenset({"↩", "↩\ufe0e", "↩\ufe0f", "↵", "⏎", "⮌", "↑"})
_BACK_CLASSES = frozenset({"footnote-back", "footnote-backref"})
_NUMBER_CELLS = frozenset({"linenos", "gutter", "rouge-gutter", "lntd"})
"""Classes of cells that hold the numbers of the lines of code beside them."""
_HIDING = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)


_Said = TypeVar("_Said")


def read_html(opened: FileText, reading: SourceReading) -> Iterator[Document]:
    """The page as one document of kind ``markdown``.

    Its title is the only ``<h1>``, or else ``<title>``. ``meta["anchors"]`` is a JSON object from
    the number of a heading's line in the text (from 1) to its id, ``meta["page_title"]`` the
    content of ``<title>``. A page without text yields nothing.

    Raises:
        DataError: for a page nested deeper than the parser reads, and for broken docgen directives.
    """
    entry, text = opened.entry, opened.text
    if is_docgen(text):
        text, counted = expand_docgen(opened, reading)
        entry.chars_in += count_characters(parse(counted, opened.path))
        tree = parse(text, opened.path)
    else:
        tree = parse(text, opened.path)
        entry.chars_in += count_characters(tree)
    page = page_text(tree, entry, PageFurniture(tree, reading.repeated()) if tree is not None else None)
    entry.chars_out += visible(page.text)
    if not page.text:
        return
    entry.documents += 1
    meta = {"anchors": json.dumps(page.anchors, ensure_ascii=False)}
    page_title = " ".join("".join(tree.xpath("//title//text()")).split())
    if page_title:
        meta["page_title"] = page_title
    yield Document(
        opened.path,
        opened.sha256,
        kind="markdown",
        title=page.first[0] if len(page.first) == 1 else page_title or (page.first or ("",))[0],
        text=page.text,
        meta=meta,
        source=reading.position,
    )


@dataclass(frozen=True, slots=True)
class PageText:
    """What a page became."""

    text: str
    """Markdown; empty where nothing is to be seen."""
    headings: tuple[str, ...]
    """Texts of all headings, in order."""
    first: tuple[str, ...]
    """Texts of those of level 1."""
    anchors: dict[str, str]
    """Line of a heading in the text (from 1, in digits) -> its id."""
    lines: dict[str, int]
    """Line of the text -> line of the page: the first one, and each heading's."""


def page_text(tree: Any, entry: FileLedger, furniture: PageFurniture | None = None) -> PageText:
    """A parsed page as Markdown. `entry` gets what is left out and what is written; what comes in and goes out is
    counted by the caller.

    Args:
        tree: an lxml element of plain HTML (names without a namespace), or None for a page that holds nothing.
        furniture: what stands around the page's main content, to be left out; None for the chapters of a book.
    """
    page = _Page(entry, furniture)
    text = page.read(tree)
    anchors = _text_lines(text, [(each.line, each.anchor) for each in page.headings if each.anchor])
    body = tree.find("body") if tree is not None else None
    opening = next((each for each in body if isinstance(each.tag, str)), body) if body is not None else tree
    lines = {"1": (opening.sourceline or 1) if opening is not None else 1}
    lines |= _text_lines(text, [(each.line, each.place) for each in page.headings])
    headings = tuple(each.text for each in page.headings)
    return PageText(text, headings, tuple(each.text for each in page.headings if each.level == 1), anchors, lines)


def parse(text: str, path: str) -> Any:
    """The tree of a page (an lxml element), or None where it holds nothing.

    Raises:
        DataError: where the parser gave up; it would go on as if the rest of the page did not exist.
    """
    from lxml import etree

    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True)
    root = etree.fromstring(text.encode(), parser) if text.strip() else None
    for problem in parser.error_log:
        if problem.level_name == "FATAL":
            raise DataError(
                f"the page cannot be read to its end: {problem.message}",
                "elements are nested deeper than any page needs: fix the page, or exclude it",
                f"{path}:{problem.line}",
            )
    return root


def count_characters(tree: Any) -> int:
    """Visible characters of all text of a tree: comments, scripts and ``alt`` texts included."""
    if tree is None:
        return 0
    total = 0
    for node in tree.getroottree().xpath("//node()"):
        if isinstance(node, str):
            total += visible(node)
        elif not isinstance(node.tag, str):
            total += visible(node.text or "")
        elif node.tag == "img":
            total += visible(node.get("alt") or "")
    return total


@dataclass(frozen=True, slots=True)
class _Heading:
    line: str
    """As it stands in the text."""
    text: str
    level: int
    anchor: str
    place: int
    """Line of the page."""


class _Page:
    """One walk. Each open element has a frame of pieces; its end folds them into its parent's."""

    def __init__(self, entry: FileLedger, furniture: PageFurniture | None) -> None:
        self.entry = entry
        self.furniture = furniture
        self.marks = Marks(entry)
        self.headings: list[_Heading] = []
        self.layouts: dict[Any, bool] = {}
        self.inside = dict.fromkeys(("pre", "code", "heading", "table", "*", "**"), 0)

    def read(self, tree: Any) -> str:
        from lxml import etree

        if tree is None:
            return ""
        frames: list[list[Piece] | None] = [[]]  # None: left out
        walk = etree.iterwalk(tree.getroottree(), events=("start", "end", "comment", "pi"))
        for event, element in walk:
            if event == "start":
                reason = self._left_out(element)
                if reason:
                    self._drop(reason, _weight(element))
                    walk.skip_subtree()
                    frames.append(None)
                else:
                    self._enter(element, 1)
                    frames.append(self._own_text(element, element.text))
                continue
            if event == "end":
                pieces, outer = frames.pop(), frames[-1]
                assert outer is not None
                if pieces is not None:
                    folded = self._fold(element, pieces)
                    self._enter(element, -1)
                    outer += self._on_own_lines(folded, element, outer)
            else:
                self._drop("comment", visible(element.text or ""))
            if element.tail and len(frames) > 1 and (outer := frames[-1]) is not None:
                outer += self._own_text(element.getparent(), element.tail)
        lines = compose(to_blocks(frames[0] or [], self.marks), self.marks)
        return "\n".join(lines) + "\n" if lines else ""

    def _own_text(self, element: Any, text: str | None) -> list[Piece]:
        """Text that stands in an element itself, as far as that is part of the main content."""
        if text and self.furniture and self.furniture.is_outside(element):
            self._drop("outside of the main content", visible(text))
            return []
        return [text] if text else []

    def _drop(self, reason: str, characters: int) -> None:
        if characters:
            self.entry.dropped[reason] = self.entry.dropped.get(reason, 0) + characters

    def _left_out(self, element: Any) -> str | None:
        tag = element.tag
        parent = element.getparent()
        if tag in _LEFT_OUT:
            return _LEFT_OUT[tag]
        if parent is not None and parent.tag == "head":
            return "head"
        if tag == "nav" or element.get("role") == "navigation":
            return "navigation"
        if element.get("role") != "tabpanel":  # one tab is shown at a time, and all belong to the page
            if element.get("hidden", "until-found") != "until-found" or _HIDING.search(element.get("style") or ""):
                return "hidden"
            if element.get("aria-hidden") == "true" and tag not in ("html", "body"):
                return "hidden (aria-hidden)"
        classes = (element.get("class") or "").split()
        if tag == "td" and {"linenos", "gutter"} & set(classes):
            return "line numbers"
        if self.furniture and (reason := self.furniture.reason(element)):
            return reason
        if element.get("role") == "doc-pagebreak":
            return "page number"
        if tag == "a" and "#" in (href := element.get("href") or ""):
            text = "".join(element.itertext())
            if text.strip() and not any(letter.isalnum() for letter in text):
                if href.startswith("#") and (self.inside["heading"] or {"hdr", "headerlink"} & set(classes)):
                    return "heading link"
                if element.get("role") == "doc-backlink" or set(text.split()) <= _BACK or _BACK_CLASSES & set(classes):
                    return "back-link of a note"
        return None

    def _enter(self, element: Any, step: int) -> None:
        tag = element.tag
        if _is_code_block(element):
            self.inside["pre"] += step
        elif tag in _CODE:
            self.inside["code"] += step
        elif tag in _HEADINGS or tag == "dt":
            self.inside["heading"] += step
        elif tag in _EMPHASIS:
            self.inside[_EMPHASIS[tag]] += step
        elif tag == "table" and not self._layout(element):
            self.inside["table"] += step

    def _on_own_lines(self, folded: list[Piece], element: Any, before: Sequence[Piece]) -> list[Piece]:
        """Inside code a block is a line: nothing else may join it to what stands around it."""
        if (
            not self.inside["pre"]
            or not (_BLOCKS.fullmatch(element.tag) or _is_one_of_codes(element))
            or not any(isinstance(p, str) and p for p in folded)
        ):
            return folded
        starts = any(isinstance(piece, str) and piece for piece in before)
        last = next((piece for piece in reversed(before) if isinstance(piece, str) and piece), "\n")
        tail = next((piece for piece in reversed(folded) if isinstance(piece, str) and piece), "\n")
        return [
            *(["\n"] if starts and not last.endswith("\n") else []),
            *folded,
            *([] if tail.endswith("\n") else ["\n"]),
        ]

    def _fold(self, element: Any, pieces: list[Piece]) -> list[Piece]:
        """What an element's pieces become for its parent."""
        tag, marks = element.tag, self.marks
        if tag == "br":
            return ["\n"] if self.inside["pre"] else [BREAK]
        if tag == "img":
            return [element.get("alt") or ""]
        block = _is_code_block(element)
        if self.inside["pre"] - block:
            return pieces
        if block:
            return self._fence(element, pieces)
        if tag == "label" and element.getnext() is not None and element.getnext().tag == "label":
            return [*pieces, BREAK]
        if tag in _CODE:
            return pieces if self.inside["code"] > 1 else wrap(pieces, lambda text: code_span(_one_line(text), marks))
        if tag in _EMPHASIS:
            mark = _EMPHASIS[tag]
            if self.inside["code"] or self.inside[mark] > 1 or self.inside["heading"]:
                return pieces
            return wrap(pieces, lambda text: marks.put("emphasis", mark) + text + marks.put("emphasis", mark))
        if tag == "sup" and len(pieces) == 1 and re.fullmatch(r"[+−-]?\d+|[a-z]", str(pieces[0])):
            return [marks.put("exponent", "^"), *pieces]
        if tag == "sub" and len(pieces) == 1 and re.fullmatch(r"[A-Za-z]|[a-z]\w?", str(pieces[0])):
            return [marks.put("index", "_"), *pieces]  # H2O is read as it stands, xi is not
        if tag == "msqrt" or (element.getparent() is not None and element.getparent().tag in _FORMULA_MARKS):
            return _in_formula(element, pieces, marks)
        if not _BLOCKS.fullmatch(tag):
            return pieces
        blocks = to_blocks(pieces, marks, in_table=bool(self.inside["table"]))
        return list(self._block(element, blocks))

    def _block(self, element: Any, blocks: list[Block]) -> list[Block]:
        tag, marks = element.tag, self.marks
        in_table = bool(self.inside["table"])
        if tag in _HEADINGS:
            return self._heading(element, blocks, _HEADINGS[tag])
        if tag == "figure":
            return _captioned(blocks)
        if tag in ("figcaption", "caption"):
            lines = compose(blocks, marks)
            return [Block("caption", lines, language_of_caption(element))] if lines else []
        if tag in ("table", "tr", "td", "th"):
            return self._table(element, blocks)
        if tag == "hr":
            return [] if in_table else [Block("lines", [marks.put("rule", "---")])]
        if in_table:
            return blocks
        if tag == "li":
            return [Block("item", compose(blocks, marks, tight=True))]
        if tag in ("ul", "ol", "menu", "dir"):
            start = _number(element.get("start"), 1) if tag == "ol" else None
            lines = list_lines(blocks, marks, start)
            return [Block("list", lines)] if lines else []
        if tag in ("dt", "dd"):
            lines = compose(blocks, marks, tight=True)
            return [Block("term" if tag == "dt" else "definition", lines, cells=blocks)] if lines else []
        if tag == "dl":
            lines = list_lines(definition_blocks(blocks, marks), marks, None)
            return [Block("list", lines)] if lines else []
        if tag == "blockquote":
            lines = quote_lines(compose(blocks, marks), marks)
            return [Block("lines", lines)] if lines else []
        return blocks

    def _fence(self, element: Any, pieces: list[Piece]) -> list[Piece]:
        code = "".join(piece for piece in pieces if isinstance(piece, str))
        if not code.strip():
            return []
        # The line ends right after <pre> and before </pre> belong to the marks; all else is exact.
        code = re.sub(r"\n[ \t]*\Z", "", code.removeprefix("\n"))
        return [Block("fence", code.split("\n"), language_of_block(element))]

    def _heading(self, element: Any, blocks: list[Block], level: int) -> list[Block]:
        if self.inside["table"]:
            return blocks
        words: list[str] = []
        while blocks and blocks[0].kind == "paragraph":
            words += blocks.pop(0).lines
        text = " ".join(words)
        if not text:
            return blocks
        if re.search(r"(?:^|\s)#+$", text):
            text = text[:-1] + self.marks.put("escape", "\\") + text[-1]
        line = self.marks.put("heading", "#" * level) + " " + text
        self.headings.append(_Heading(line, text, level, _anchor(element), element.sourceline or 1))
        return [Block("heading", [line]), *blocks]

    def _table(self, element: Any, blocks: list[Block]) -> list[Block]:
        table = element if element.tag == "table" else next(element.iterancestors("table"), None)
        if table is None or self._layout(table):
            return blocks
        if element.tag in ("td", "th"):
            columns = min(_number(element.get("colspan"), 1), 100)
            rows = min(_number(element.get("rowspan"), 1), 1000)
            text = cell_text(blocks, self.marks)
            heads = element.tag == "th" or next(element.iterancestors("thead"), None) is not None
            return [Block("cell", [text] if text else [], heads=heads, columns=columns, rows=rows)]
        if element.tag == "tr":
            cells = [self._as_cell(block) for block in blocks]
            return [Block("row", cells=cells, heads=any(cell.heads for cell in cells))]  # cells above may span it
        if self.inside["table"] > 1:
            return blocks
        captions: list[Block] = []
        while blocks and blocks[0].kind == "caption":
            captions.append(blocks.pop(0))
        rows_ = [block if block.kind == "row" else Block("row", cells=[self._as_cell(block)]) for block in blocks]
        lines = table_lines(rows_, self.marks) if rows_ else []
        return [*captions, *([Block("lines", lines)] if lines else [])]

    def _layout(self, table: Any) -> bool:
        if table not in self.layouts:
            self.layouts[table] = _only_arranges(table)
        return self.layouts[table]

    def _as_cell(self, block: Block) -> Block:
        """Text that stands in a table outside of any cell gets one, so that it keeps its place."""
        if block.kind == "cell":
            return block
        text = cell_text([block], self.marks)
        return Block("cell", [text] if text else [])


def _is_code_block(element: Any) -> bool:
    """Whether an element is a block of code: ``<pre>``, or what Doxygen makes of lines."""
    return bool(element.tag == "pre" or (element.tag == "div" and element.get("class") == "fragment"))


def _is_one_of_codes(element: Any) -> bool:
    """Whether an element is one of several listings in one ``<pre>``, one for each language or version."""
    if element.tag != "code" or element.getparent().tag != "pre":
        return False
    before, after = element.getprevious(), element.getnext()
    follows = before is not None and before.tag == "code" and not before.tail
    return follows or (after is not None and after.tag == "code" and not element.tail)


def _in_formula(element: Any, pieces: list[Piece], marks: Marks) -> list[Piece]:
    """A root, or a part that only its place on the page tells from the one before it: by a mark of its own, and in
    parentheses where it is more than one letter."""
    parent, tag = element.getparent(), element.tag
    before = _FORMULA_MARKS.get(parent.tag, ()) if parent is not None else ()
    place = parent.index(element) if before else 0
    mark = (before[place] if place < len(before) else "") + "√" * (tag == "msqrt")
    text = "".join(piece for piece in pieces if isinstance(piece, str))
    long = visible(text) > 1 and tag not in ("mi", "mn")
    return [marks.put("formula", mark + "(" * long), *pieces, marks.put("formula", ")" * long)]


def _weight(element: Any) -> int:
    """Visible characters of an element and all below it."""
    total = 0
    for node in element.iter():
        if node is not element:
            total += visible(node.tail or "")
        total += visible(node.text or "")
        if node.tag == "img":
            total += visible(node.get("alt") or "")
    return total


def _one_line(text: str) -> str:
    return re.sub(r"[ \t\n\r\f]+", " ", text)


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and 0 < len(text) < 9 and int(text) else otherwise


def _only_arranges(table: Any) -> bool:
    """Whether a table only arranges a page: its cells hold headings, tables or long code, and none is a head."""
    if table.get("role") in ("presentation", "none"):
        return True
    if table.find(".//th") is not None:
        return False
    if any(_NUMBER_CELLS & set((cell.get("class") or "").split()) for cell in table.iter("td")):
        return True
    if any(table.find(f".//{tag}") is not None for tag in ("table", *_HEADINGS)):
        return True
    return any("".join(pre.itertext()).strip().count("\n") > 3 for pre in table.iterfind(".//pre"))


def _captioned(blocks: list[Block]) -> list[Block]:
    """A figure: its caption stands right above its code and says the language."""
    language = next((block.language for block in blocks if block.kind == "caption" and block.language), "")
    for block in blocks:
        if block.kind == "fence":
            block.language = block.language or language
    return blocks


def _anchor(heading: Any) -> str:
    """A heading's id: its own, that of an element inside, or of the section that it opens."""
    for element in heading.iter():
        if isinstance(element.tag, str) and (
            found := element.get("id") or (element.tag == "a" and element.get("name"))
        ):
            return str(found)
    parent = heading.getparent()
    if parent is not None and parent.tag in ("section", "div", "article") and heading.getprevious() is None:
        return str(parent.get("id") or "")
    return ""


def _text_lines(text: str, headings: Sequence[tuple[str, _Said]]) -> dict[str, _Said]:
    """Line number -> what is said of the heading on that line; headings come in the order of the text."""
    found: dict[str, _Said] = {}
    waiting = list(reversed(headings))
    for number, line in enumerate(text.split("\n"), start=1):
        if waiting and line.endswith(waiting[-1][0]):
            found[str(number)] = waiting.pop()[1]
    return found
