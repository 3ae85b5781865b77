"""PDF: one document per file, page after page, as its text layer gives it; columns in order, running headers, footers
and page numbers left out and counted, words that line ends split made whole (:mod:`afina.sources.pdf_layout`).

pypdf reads what the file says in words; it does not look at pictures. A page that shows something
but holds no text (a scan, drawn letters) needs OCR: it is an error, or is left out and listed where
the recipe says so. With docling installed that reads the file instead (:mod:`afina.sources.parsers`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from afina.errors import DataError
from afina.sources.files import SourceFile, SourceReading, open_packed
from afina.sources.pdf_layout import (
    Line,
    document_words,
    in_reading_order,
    join_split_words,
    line_texts,
    read_lines,
    running_lines,
)
from afina.text.document import Document, FileLedger, visible

NEEDS_OCR = "no text layer: needs OCR"
_PAINTS = re.compile(rb"(?:^|[\s\])>])(?:Do|BI|sh|Tj|TJ|[fFBbSs]\*?)(?=\s|$)")
"""Operators that leave something to be seen on a page: pictures, shadings, text, filled or stroked paths."""
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


def read_pdf(file: SourceFile, reading: SourceReading) -> Iterator[Document]:
    """The file as one document of kind ``text``, pages apart by a blank line.

    ``meta["pages"]`` is a JSON object from a line of the text (from 1) to the page that begins there.

    Raises:
        DataError: for a file that is encrypted or damaged, or has pages that need OCR.
    """
    entry = open_packed(reading, file.full)
    with _warnings() as warnings:
        title, pages = _pages(file)
    if warnings:
        reading.skip(f"{file.path} (read although damaged)", "; ".join(list(dict.fromkeys(warnings))[:3]))
    scanned = [number for number, page in enumerate(pages, start=1) if page.scanned]
    if scanned and (len(scanned) == len(pages) or reading.source.on_scanned_page == "error"):
        raise DataError(
            f"{NEEDS_OCR}: {_list(scanned)} of {len(pages)} pages",
            "make it searchable with an OCR tool, pip install 'afina[docling]', or set "
            f"`on_scanned_page: drop` on sources.{reading.position} (left out, counted)"
            if len(scanned) < len(pages)
            else "make it searchable with an OCR tool, pip install 'afina[docling]', or exclude it",
            f"{file.path}:{scanned[0]}",
        )
    parts, starts, line = [], {}, 1
    for number, (page, text) in enumerate(zip(pages, _texts(file, pages, entry, reading), strict=True), start=1):
        if text.strip():
            starts[str(line)] = number
            parts.append(text)
            line += text.count("\n") + 2
        else:
            reading.skip(f"{file.path}: page {number}", NEEDS_OCR if page.scanned else "blank page")
    if not parts:
        reading.skip(file.path, "blank pages only")
        return
    whole = "\n\n".join(parts) + "\n"
    entry.chars_out += visible(whole)
    entry.documents += 1
    yield Document(
        file.path,
        entry.sha256,
        kind="text",
        title=title,
        text=whole,
        meta={"reader": "pypdf", "pages": json.dumps(starts)},
        source=reading.position,
    )


@dataclass(frozen=True, slots=True)
class _PdfPage:
    lines: list[Line]
    scanned: bool
    """Whether something is to be seen on it, but no text."""


def _texts(file: SourceFile, pages: list[_PdfPage], entry: FileLedger, reading: SourceReading) -> list[str]:
    """The text of each page, in reading order; what is left out goes to the ledger."""
    out, uncertain = [], []
    for number, (page, running) in enumerate(zip(pages, running_lines([each.lines for each in pages]), strict=True)):
        whole = line_texts(page.lines)
        entry.chars_in += visible("".join(whole))
        for at in sorted(running):
            entry.drop("running header, footer or page number", _CONTROL.sub("", whole[at]))
        body = [line for at, line in enumerate(page.lines) if at not in running]
        ordered, certain = in_reading_order(body)
        if not certain:
            uncertain.append(number + 1)
        moved = ordered is not body
        text = "\n".join(each.strip() if moved else each for each in line_texts(ordered))
        if control := "".join(_CONTROL.findall("".join(whole))):
            entry.drop("control character", control)
        out.append(_CONTROL.sub("", text).strip("\n"))
    if uncertain:
        why = f"a table, or columns that cannot be told from one, on {_list(uncertain)}: read line across line"
        reading.skip(f"{file.path} (order not certain)", f"{why}; pip install 'afina[docling]' reads the layout")
    words = document_words(out)
    return [join_split_words(text, words, lambda hyphen: entry.drop("hyphen of a split word", hyphen)) for text in out]


def _pages(file: SourceFile) -> tuple[str, list[_PdfPage]]:
    """The title, and the pages."""
    from pypdf import PdfReader

    pages: list[_PdfPage] = []
    try:
        reader = PdfReader(file.full)
        if reader.is_encrypted and not reader.decrypt(""):
            raise _Locked
        said = _count(reader)
        title = str(reader.metadata.title or "") if reader.metadata else ""
        for page in reader.pages:
            lines = read_lines(page)
            text = "".join(line_texts(lines))
            pages.append(_PdfPage(lines, not _CONTROL.sub("", text).strip() and _paints(page)))
    except _Locked:
        fix = "save it without a password, or exclude it"
        raise DataError("encrypted: it opens only with a password", fix, file.path) from None
    # pypdf lets many exceptions of Python's own out of a damaged file.
    except Exception as error:
        what = f"not a PDF, or damaged on page {len(pages) + 1}: {type(error).__name__}: {error}"
        raise DataError(what, "fetch or write the file again, or exclude it", file.path) from error
    if len(pages) != said:
        raise DataError(
            f"damaged: it says that it has {said} pages, but {len(pages)} are there", "fetch it again", file.path
        )
    return " ".join(title.split()), pages


class _Locked(Exception):
    pass


def _count(reader: Any) -> int:
    """How many pages the file says that it has."""
    return int(reader.trailer["/Root"]["/Pages"]["/Count"])


def _paints(page: Any) -> bool:
    contents = page.get_contents()
    return contents is not None and bool(_PAINTS.search(contents.get_data()))


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """What pypdf says about a file that it mends while it reads."""
    said: list[str] = []

    class _Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, keep = logging.getLogger("pypdf"), _Keep(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(keep)
    try:
        yield said
    finally:
        logger.removeHandler(keep)
        logger.propagate = propagate


def _list(numbers: list[int]) -> str:
    """Page numbers in words.

    >>> _list([3]), _list([1, 2]), _list(list(range(1, 20)))
    ('page 3', 'pages 1, 2', 'pages 1, 2, 3, 4, 5, 6, 7, 8 and 11 more')
    """
    shown = ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
    return ("page " if len(numbers) == 1 else "pages ") + shown
