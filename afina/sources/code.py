"""Code: one document per file, unchanged, with its language, its doc comment and what it defines."""

from __future__ import annotations

import json
from collections.abc import Iterator

from afina.sources.definitions import describe_code
from afina.sources.files import FileText, SourceReading
from afina.text.document import Document, visible
from afina.text.formats import ending, language_of


def read_code(opened: FileText, reading: SourceReading) -> Iterator[Document]:
    """The file as one document of kind ``code``; its title is the path.

    ``meta["language"]`` is the language by the file's name, or the bare ending where it is unknown;
    ``meta["doc"]`` the doc comment of the file or of its first public definition; ``meta["items"]``
    a JSON list of :class:`~afina.sources.definitions.Item`. Each stands there only if there is one.
    """
    entry = opened.entry
    entry.chars_in += visible(opened.text)
    language = language_of(opened.path) or ending(opened.path).lstrip(".")
    meta = {"language": language}
    doc, items = describe_code(opened.text, language)
    if doc:
        meta["doc"] = doc
    if items:
        meta["items"] = json.dumps(items, ensure_ascii=False)
    document = Document(
        opened.path,
        opened.sha256,
        kind="code",
        title=opened.path,
        text=opened.text,
        meta=meta,
        source=reading.position,
    )
    entry.chars_out += visible(document.text)
    entry.documents += 1
    yield document


def fence(code: str, language: str = "") -> tuple[str, str]:
    """The lines that open and close a Markdown code block around `code`.

    The fence is longer than any run of backticks inside.

    >>> fence("a", "zig"), fence("```")
    (('```zig', '```'), ('````', '````'))
    """
    longest = run = 0
    for letter in code:
        run = run + 1 if letter == "`" else 0
        longest = max(longest, run)
    marks = "`" * max(3, longest + 1)
    return marks + language, marks
