"""A Jupyter notebook as Markdown: its texts, its code and what that printed. Pictures and other outputs are counted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from afina.errors import DataError
from afina.run import parse_json
from afina.sources.code import fence
from afina.sources.files import FileText, SourceReading
from afina.sources.markdown import first_heading
from afina.text.document import Document, value_texts, visible

_EMBEDDED = re.compile(r"!\[[^\]]*\]\((?:data:|attachment:)[^)]*\)|<img[^>]*src=[\"']data:[^>]*>")
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(slots=True)
class _Notebook:
    language: str
    parts: list[str] = field(default_factory=list)
    taken: int = 0
    """Visible characters that stand in `parts` and came from the file."""

    def text(self, source: str) -> None:
        shown = _EMBEDDED.sub("", source).strip("\n")
        if shown.strip():
            self.taken += visible(shown)
            self.parts.append(shown)

    def code(self, source: str, language: str) -> None:
        shown = _COLOURS.sub("", source).strip("\n")
        if shown.strip():
            self.taken += visible(shown)
            opening, closing = fence(shown, language)
            self.parts.append(f"{opening}\n{shown}\n{closing}")


def read_notebook(opened: FileText, reading: SourceReading) -> Iterator[Document]:
    """The file as one document of kind ``markdown``; the characters of a notebook are those of its values.

    Raises:
        DataError: it is no notebook.
    """
    try:
        whole = parse_json(opened.text)
    except ValueError as error:
        raise DataError(f"not JSON: {error}", "save the notebook again", opened.path) from None
    sheets = whole.get("worksheets") if isinstance(whole, dict) else None
    holder = sheets[0] if isinstance(sheets, list) and sheets else whole
    cells = holder.get("cells") if isinstance(holder, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise DataError("no notebook: it has no list `cells`", "save the notebook again", opened.path)
    book = _Notebook(_language(whole))
    for cell in cells:
        _cell(book, cell)
    entry = opened.entry
    total = sum(visible(text) for text in value_texts(whole))
    entry.chars_in += total
    if total > book.taken:
        reason = "pictures, settings and other outputs of a notebook"
        entry.dropped[reason] = entry.dropped.get(reason, 0) + total - book.taken
    if not book.parts:
        return
    text = "\n\n".join(book.parts) + "\n"
    marks = visible(text) - book.taken
    if marks:
        entry.added["Markdown marks"] = entry.added.get("Markdown marks", 0) + marks
    entry.chars_out += visible(text)
    entry.documents += 1
    meta = {"lines": json.dumps({"1": 1})}
    title = first_heading(text)
    yield Document(
        opened.path, opened.sha256, kind="markdown", title=title, text=text, meta=meta, source=reading.position
    )


def _language(whole: Mapping[str, Any]) -> str:
    meta = whole.get("metadata")
    for name, key in (("language_info", "name"), ("kernelspec", "language")):
        said = meta.get(name) if isinstance(meta, dict) else None
        if isinstance(said, dict) and isinstance(said.get(key), str):
            return str(said[key]).lower()
    return "python"


def _cell(book: _Notebook, cell: Mapping[str, Any]) -> None:
    source = _joined(cell.get("source", cell.get("input")))
    if cell.get("cell_type") == "heading":
        book.parts.append("#" * int(cell.get("level") or 1) + f" {source}")
        book.taken += visible(source)
    elif cell.get("cell_type") == "markdown":
        book.text(source)
    elif cell.get("cell_type") == "code":
        book.code(source, book.language)
        for output in cell.get("outputs") or ():
            data = output.get("data") if isinstance(output.get("data"), dict) else output
            printed = _joined(output.get("text")) or _joined(data.get("text/plain"))
            book.code(printed, "text")


def _joined(value: Any) -> str:
    if isinstance(value, list):
        return "".join(each for each in value if isinstance(each, str))
    return value if isinstance(value, str) else ""
