"""Plain text: one document per file, unchanged."""

from __future__ import annotations

from collections.abc import Iterator

from afina.sources.files import FileText, SourceReading
from afina.text.document import Document, visible


def read_plain(opened: FileText, reading: SourceReading) -> Iterator[Document]:
    """The file as one document of kind ``text``."""
    entry = opened.entry
    entry.chars_in += visible(opened.text)
    document = Document(opened.path, opened.sha256, kind="text", text=opened.text, source=reading.position)
    entry.chars_out += visible(document.text)
    entry.documents += 1
    yield document
