"""Word (DOCX): one Markdown document per file, by a walk over its XML that counts every character.

Headings, paragraphs, bold and italic, lists, tables, footnotes and text boxes come through. Left
out, with the reason counted: tracked deletions, comments, page headers and footers, hidden text,
field codes, formulas. What comes in is counted apart from the walk (:func:`_characters`), so that
the ledger balances only if nothing was lost or doubled. With docling installed that reads the file
instead (:mod:`afina.sources.parsers`).
"""

from __future__ import annotations

import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from afina.errors import DataError
from afina.sources.files import SourceFile, SourceReading, open_packed
from afina.sources.markdown import first_heading
from afina.sources.unpack import LARGEST_UNPACKED_BYTES
from afina.sources.word import Word, name_of, texts_of
from afina.text.document import Document, visible

_LEFT_OUT = (
    (re.compile(r"header\d*\.xml"), "page header"),
    (re.compile(r"footer\d*\.xml"), "page footer"),
    (re.compile(r"comments\d*\.xml"), "comment"),
)


def read_docx(file: SourceFile, reading: SourceReading) -> Iterator[Document]:
    """The file as one document of kind ``markdown``; its title is the first heading.

    Raises:
        DataError: for a file that is encrypted, damaged or no Word document.
    """
    entry = open_packed(reading, file.full)
    parts = _parts(file)
    main = _main_part(parts, file.path)
    folder = posixpath.dirname(main)
    for name, tree in parts.items():
        for pattern, reason in _LEFT_OUT:
            if posixpath.dirname(name) == folder and pattern.fullmatch(posixpath.basename(name)):
                text = texts_of(tree)
                if text.strip():
                    entry.chars_in += visible(text)
                    entry.drop(reason, text)
    inner = {name: parts.get(posixpath.join(folder, f"{name}.xml")) for name in _INNER}
    for name in ("footnotes", "endnotes"):
        if inner[name] is not None:
            entry.chars_in += _characters(inner[name])
    entry.chars_in += _characters(parts[main])
    text = Word(entry, **inner).read(parts[main])
    entry.chars_out += visible(text)
    if not text:
        reading.skip(file.path, "a Word file without text")
        return
    entry.documents += 1
    yield Document(
        file.path,
        entry.sha256,
        kind="markdown",
        title=first_heading(text),
        text=text,
        meta={"reader": "afina"},
        source=reading.position,
    )


_INNER = ("styles", "numbering", "footnotes", "endnotes")


def _characters(tree: Any) -> int:
    """Visible characters of all text of a part: deleted text and field codes included, a symbol is one."""
    names = " or ".join(f"local-name() = '{name}'" for name in ("t", "delText", "instrText", "delInstrText"))
    letters = tree.xpath(f"//*[{names}]/text()")
    return sum(map(visible, letters)) + int(tree.xpath("count(//*[local-name() = 'sym'])"))


def _parts(file: SourceFile) -> dict[str, Any]:
    """The XML parts of the package, parsed."""
    from lxml import etree

    with file.full.open("rb") as opened:
        if opened.read(8) == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
            fix = "save it without a password as .docx, or exclude it"
            raise DataError("encrypted, or an old Word file (.doc) under a new name", fix, file.path)
    parts: dict[str, Any] = {}
    name = ""
    try:
        with zipfile.ZipFile(file.full) as package:
            wanted = [item for item in package.infolist() if item.filename.endswith((".xml", ".rels"))]
            if sum(item.file_size for item in wanted) > LARGEST_UNPACKED_BYTES:
                raise DataError(f"larger than {LARGEST_UNPACKED_BYTES >> 20} MiB when unpacked", "split it", file.path)
            for item in wanted:
                name = item.filename
                parser = etree.XMLParser(
                    resolve_entities=False, no_network=True, huge_tree=True, remove_comments=True, remove_pis=True
                )
                parts[name] = etree.fromstring(package.read(item), parser)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
        what = f"not a Word file, or damaged: {error}"
        raise DataError(what, "save it again as .docx, or exclude it", file.path) from error
    except etree.XMLSyntaxError as error:
        raise DataError(f"damaged: {name}: {error.msg}", "save it again as .docx, or exclude it", file.path) from None
    return parts


def _main_part(parts: dict[str, Any], path: str) -> str:
    """The name of the part that holds the text; usually ``word/document.xml``."""
    relations = parts.get("_rels/.rels")
    for relation in relations if relations is not None else ():
        target = (relation.get("Target") or "").lstrip("/")
        if (relation.get("Type") or "").endswith("/officeDocument") and target in parts:
            if name_of(parts[target]) == "document":
                return target
            raise DataError("an Office file, but not of Word", "save it as .docx, or exclude it", path)
    if "word/document.xml" in parts:
        return "word/document.xml"
    raise DataError("a zip file, but not of Word: it has no word/document.xml", "save it as .docx", path)
