"""What most pages of one source say word for word: banners, notices, boxes that belong to the site and not to a page.

Known before the first page is read, from a sample of all pages of the source, so that it does not matter in which
order or in which process they are read. Pages that are the same as a whole count once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from afina.errors import DataError
from afina.sources.docgen import is_docgen
from afina.sources.files import SourceReading
from afina.sources.html import parse
from afina.sources.main_content import REPEATABLE, PageFurniture, signature

FEWEST_PAGES = 5
"""On fewer pages nothing is said to repeat."""
_SAMPLE = 200
"""Pages that are looked at; more would not change what most of them say."""

Page = tuple[Path, str]
"""A file of HTML, and its encoding."""


def with_repeated(reading: SourceReading, pages: Sequence[Page]) -> SourceReading:
    """The source, knowing what its pages repeat; they are read for that when the first one of them asks."""
    if len(pages) < FEWEST_PAGES:
        return reading
    return replace(reading, repeated=cache(lambda: repeated_texts(pages)))


def repeated_texts(pages: Sequence[Page]) -> frozenset[str]:
    """Texts of blocks that stand on more than half of the pages, and on five at least.

    Args:
        pages: of one source; a file that cannot be read is passed over, for its reader says so.
    """
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    step = max(1, len(pages) // _SAMPLE)
    for full, encoding in pages[::step]:
        found = _blocks(full, encoding)
        if found is not None and found[0] not in seen:
            seen.add(found[0])
            counts.update(found[1])
    most = max(FEWEST_PAGES, len(seen) // 2 + 1)
    return frozenset(text for text, count in counts.items() if count >= most)


def _blocks(full: Path, encoding: str) -> tuple[str, set[str]] | None:
    """All text of a page, and what its blocks say; None for a page that is not read."""
    try:
        text = full.read_bytes().decode(encoding, errors="replace")
        tree = parse(text, full.name) if not is_docgen(text) else None
    except (OSError, DataError):
        return None
    if tree is None:
        return None
    from lxml import etree

    furniture = PageFurniture(tree)
    found: set[str] = set()
    walk = etree.iterwalk(tree, events=("start",))
    for _, element in walk:
        if element.tag in ("head", "script", "style", "pre", "table") or furniture.reason(element):
            walk.skip_subtree()
        elif element.tag in REPEATABLE and not furniture.is_outside(element):
            found.add(signature(element))
    body = tree.find("body")
    return " ".join((body if body is not None else tree).xpath("string()").split()), found - {""}
