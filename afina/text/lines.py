"""Lines of a document's text as lines of its file: they differ where the file was HTML or PDF."""

from __future__ import annotations

import html
import json
import re
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

from afina.text.document import Document

_ID = re.compile(
    r"""\b(?:id|name)\s*=\s*["']?(?P<id>[^\s"'>]+)|\{#header_open\|(?P<title>[^|#]*)(?:\|(?P<anchor>[^#]*))?#\}"""
)
"""An element's id; or a heading of Zig's documentation templates, whose id is made from its title."""


def file_lines(document: Document, root: Path) -> Callable[[int], int]:
    """What turns a line of ``document.text`` (as in `Section.line`) into one of its file.

    For a converted page that is the line of the nearest heading above whose anchor the page names,
    else the page's first: near enough to find it, and never a line of something else. For a PDF it
    is the number of the page. A reader that knows the lines itself says them (``meta["lines"]``).
    """
    for name in ("pages", "lines"):
        if name in document.meta:
            places = {int(first): number for first, number in json.loads(document.meta[name]).items()}
            starts = sorted(places)
            return lambda line: places[starts[max(0, bisect_right(starts, line) - 1)]]
    if "moved" in document.meta:  # the same lines, but for those that were left out between them
        runs = {int(first): number for first, number in json.loads(document.meta["moved"]).items()}
        firsts = sorted(runs)

        def moved(line: int) -> int:
            first = firsts[max(0, bisect_right(firsts, line) - 1)]
            return runs[first] + line - first

        return moved
    if "anchors" not in document.meta:
        return lambda line: line
    anchors: dict[str, str] = json.loads(document.meta["anchors"])
    raw = (root / document.path).read_text(encoding="utf-8", errors="replace") if anchors else ""
    ids: dict[str, int] = {}
    line, end = 1, 0
    for found in _ID.finditer(raw):
        line, end = line + raw.count("\n", end, found.start()), found.start()
        ids.setdefault(_flat(html.unescape(found["id"] or found["anchor"] or found["title"] or "")), line)
    known = [(document.line, document.line)]
    for number, anchor in anchors.items():
        # Headings come in the order of the page; an anchor met earlier is another element's.
        line = ids.get(_flat(anchor), 0)
        if line >= known[-1][1]:
            known.append((document.line - 1 + int(number), line))
    texts = [text_line for text_line, _ in known]
    return lambda line: known[max(0, bisect_right(texts, line) - 1)][1]


def _flat(anchor: str) -> str:
    """An id and the title that it is made from compare equal.

    >>> _flat("Tier-1") == _flat(" Tier 1 ")
    True
    """
    return "".join(letter for letter in anchor if letter.isalnum())
