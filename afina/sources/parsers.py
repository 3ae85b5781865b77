"""docling, where it is installed: better text of PDF and Word files than the built-in readers give.

It knows columns, tables and scanned pages, loads models for that, and is therefore an extra
(``afina[docling]``). What it leaves out of a file it does not say, so the ledger begins with what it gives.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from afina.errors import DataError
from afina.sources.files import SourceFile, SourceReading, open_packed
from afina.sources.markdown import first_heading
from afina.text.document import Document, visible
from afina.text.formats import FORMATS, ending

_EXPORT = {"escape_html": False, "escape_underscores": False, "image_placeholder": ""}
"""Escapes and placeholders would be learned as if they were the text."""


def has_docling() -> bool:
    """Whether docling can be imported; nothing is loaded. A mere folder of that name is no package."""
    found = find_spec("docling")
    return found is not None and found.origin is not None


def readers_of(paths: Iterable[str]) -> dict[str, str]:
    """Ending -> library and version that reads such files, for those among `paths` that need one.

    >>> sorted(readers_of(["a.md", "b.pdf"]))
    ['.pdf']
    """
    docling, there = has_docling(), {ending(path) for path in paths}
    found: dict[str, str] = {}
    for each in FORMATS:
        libraries = ("docling", "docling-slim") if each.docling and docling else (each.library,)
        if libraries != ("",):  # else it is read by afina itself
            said = next((f"{name} {given}" for name in libraries if (given := _version(name))), libraries[0])
            found |= dict.fromkeys(there.intersection(each.endings), said)
    return dict(sorted(found.items()))


def read_with_docling(file: SourceFile, reading: SourceReading) -> Iterator[Document]:
    """The file as one document of kind ``markdown``.

    ``meta["pages"]`` is a JSON object from a line of the text (from 1) to the page that begins
    there, for files that have pages.

    Raises:
        DataError: for a file that docling cannot convert, or only in part.
    """
    entry = open_packed(reading, file.full)
    try:
        converter = _converter()
    except ImportError as error:
        fix = "pip install 'afina[docling]' again, or uninstall docling: afina then reads the file itself"
        raise DataError(f"docling cannot be loaded: {error}", fix, file.path) from error
    try:
        result = converter.convert(file.full, raises_on_error=False)
    except Exception as error:
        raise DataError(
            f"docling: {type(error).__name__}: {error}", "fix the file, or exclude it", file.path
        ) from error
    status = getattr(result.status, "value", result.status)
    if status != "success":
        said = "; ".join(str(each.error_message) for each in result.errors[:5]) or "no reason given"
        raise DataError(f"docling could not read it whole ({status}): {said}", "fix it, or exclude it", file.path)
    text, starts = "", {}
    for number in sorted(result.document.pages):
        page = result.document.export_to_markdown(page_no=number, **_EXPORT).strip()
        if page:
            text += "\n\n" if text else ""
            starts[str(text.count("\n") + 1)] = number
            text += page
        else:
            reading.skip(f"{file.path}: page {number}", "no text found by docling")
    if not result.document.pages:
        text = result.document.export_to_markdown(**_EXPORT).strip()
    if not text:
        reading.skip(file.path, "no text found by docling")
        return
    text += "\n"
    entry.chars_in += visible(text)
    entry.chars_out += visible(text)
    entry.documents += 1
    yield Document(
        file.path,
        entry.sha256,
        kind="markdown",
        title=first_heading(text),
        text=text,
        meta={"reader": "docling", **({"pages": json.dumps(starts)} if starts else {})},
        source=reading.position,
    )


@functools.cache
def _converter() -> Any:
    """One for all files: it keeps its models loaded."""
    from docling.document_converter import DocumentConverter

    return DocumentConverter()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
