"""Plain text: one document per file, unchanged."""

from __future__ import annotations

from collections.abc import Iterator

from afina.sources.document import Document, visible
from afina.sources.files import FileText, Reading


def read_plain(opened: FileText, reading: Reading) -> Iterator[Document]:
    """The file as one document of kind ``text``."""
    entry = opened.entry
    entry.chars_in += visible(opened.text)
    document = Document(opened.path, opened.sha256, kind="text", text=opened.text, source=reading.position)
    entry.chars_out += visible(document.text)
    entry.documents += 1
    yield document
