"""Text between the marks of a page, which a program writes anew: what it can say itself, what a benchmark measured.

<!-- gpus: begin -->

| GPU | memory |
...

<!-- gpus: end -->
"""

from __future__ import annotations

import re
from pathlib import Path


def split_at_marks(page: str, name: str) -> tuple[str, str, str]:
    """A page in three: as far as its first mark, what stands between, and from its second mark on.

    Args:
        name: of the marks, ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``; who writes there may be said behind
            ``begin``, after a comma.

    Raises:
        AssertionError: they do not stand there once each, in this order. A page without its second mark would lose all
            that follows the first.
    """
    mark = re.escape(name)
    begins = list(re.finditer(rf"<!-- {mark}: begin(?:, [^\n]*?)? -->", page))
    ends = list(re.finditer(rf"<!-- {mark}: end -->", page))
    assert len(begins) == len(ends) == 1 and begins[0].end() <= ends[0].start(), (
        f"`<!-- {name}: begin -->` and `<!-- {name}: end -->` have to stand in the page once each, in this order; "
        f"they stand there {len(begins)} and {len(ends)} times"
    )
    begin, end = begins[0].end(), ends[0].start()
    return page[:begin], page[begin:end], page[end:]


def put_between(page: str, name: str, text: str) -> str:
    """A page with a text between its marks, a blank line on either side, in the place of what stood there.

    >>> put_between("a <!-- x: begin, by make x --> old <!-- x: end --> b", "x", "new")
    'a <!-- x: begin, by make x -->\\n\\nnew\\n\\n<!-- x: end --> b'

    Raises:
        AssertionError: see :func:`split_at_marks`.
    """
    head, _, tail = split_at_marks(page, name)
    text = text.strip("\n")
    return f"{head}\n\n{text}\n\n{tail}"


def write_between(file: Path, name: str, text: str) -> None:
    """:func:`put_between` of a file.

    Raises:
        AssertionError: see :func:`split_at_marks`.
    """
    file.write_text(put_between(file.read_text(encoding="utf-8"), name, text), encoding="utf-8")
