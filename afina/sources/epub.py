"""EPUB: one Markdown document per chapter, in the order of the spine, by the reader of HTML pages.

Left out, with the reason counted: tables of contents (``nav.xhtml``, ``toc.ncx``, the guide's), covers that hold no
text of their own, pages outside of the reading order, and what :mod:`afina.sources.html` leaves out of any page.
What comes in is counted page by page before it is read. A chapter's place is ``book.epub!/OEBPS/chapter.xhtml:line``.

By zipfile and lxml: ebooklib is under the AGPL, and gives pages as bytes, so that all that matters here would be left.
"""

from __future__ import annotations

import codecs
import json
import lzma
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from html.entities import html5
from typing import Any
from urllib.parse import unquote, urlsplit

from afina.errors import DataError, Problem
from afina.sources.files import SourceFile, SourceReading, open_packed
from afina.sources.html import PageText, count_characters, page_text, parse
from afina.sources.unpack import LARGEST_UNPACKED_BYTES
from afina.text.document import Document, FileLedger, visible
from afina.text.formats import kind_of

_CONTAINER, _ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
_PAGES = frozenset({"application/xhtml+xml", "text/html", "text/x-oeb1-document", "image/svg+xml"})
_NCX = "application/x-dtbncx+xml"
_TYPE = "{http://www.idpf.org/2007/ops}type"
_ROLES = {
    "backlink": "doc-backlink",
    "pagebreak": "doc-pagebreak",
    **dict.fromkeys(("toc", "landmarks", "page-list", "lot", "loi", "lov", "loa"), "navigation"),
}
"""What ``epub:type`` says -> the role that says the same in HTML."""
_ENTITY = re.compile(r"&([A-Za-z][A-Za-z0-9]*);")
_XML_ENTITIES = frozenset({"amp", "lt", "gt", "quot", "apos"})
_ENCODING = re.compile(rb"""\A\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_AGAIN = "get or make the book again, or exclude it"


def read_epub(file: SourceFile, reading: SourceReading) -> Iterator[Document]:
    """The chapters as documents of kind ``markdown``.

    A chapter's title is its first heading of the first level, else its first heading, else the book's. ``meta`` holds
    the `book`'s title, its `author` and its `lang`, as far as it says them, and ``meta["lines"]``: a JSON object from a
    line of the text (from 1) to the line of the chapter's file that it begins on.

    Raises:
        DataError: a file that is encrypted, damaged or no EPUB; a chapter that is missing, lies outside of the book or
            is no page; too much text. What can be read comes first, then all that is wrong at once.
    """
    entry = open_packed(reading, file.full)
    problems: list[Problem] = []
    try:
        packed = zipfile.ZipFile(file.full)
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise DataError(f"not an EPUB, or damaged: {error}", _AGAIN, file.path) from error
    with packed:
        book = _Book(packed, file.path)
        book.check()
        for name in book.chapters():
            try:
                yield from _chapter(book, name, entry, reading)
            except DataError as error:
                problems += error.problems
        try:
            _left_out(book, entry, reading)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems=problems)
    if not entry.documents:
        reading.skip(file.path, "a book without text")


@dataclass(frozen=True, slots=True)
class _Item:
    """One line of the manifest; `name` is its file's name in the package."""

    name: str
    media_type: str
    properties: frozenset[str]
    line: int


@dataclass
class _Book:
    """The package: its files by name, and what its OPF says of them."""

    packed: zipfile.ZipFile
    path: str
    unpacked: int = field(default=0, init=False)
    """Bytes so far."""

    def place(self, name: str) -> str:
        """A file of the package as documents and errors show it."""
        return f"{self.path}!/{name}"

    @cached_property
    def files(self) -> dict[str, zipfile.ZipInfo]:
        """Name -> file; a name that stands twice could be read as either."""
        found: dict[str, zipfile.ZipInfo] = {}
        for info in self.packed.infolist():
            if info.filename in found:
                raise DataError("two files of one name", _AGAIN, self.place(info.filename))
            found[info.filename] = info
        return found

    def read(self, name: str) -> bytes:
        """The bytes of a file of the package."""
        info = self.files[name]
        if info.flag_bits & 1:
            raise DataError("encrypted: it opens only with a password", "unlock it, or exclude it", self.place(name))
        self.unpacked += info.file_size
        if self.unpacked > LARGEST_UNPACKED_BYTES:
            what = f"larger than {LARGEST_UNPACKED_BYTES >> 20} MiB when unpacked"
            raise DataError(what, "split it, or exclude it", self.place(name))
        try:
            return self.packed.read(info)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, OSError) as error:
            raise DataError(f"damaged: {error}", _AGAIN, self.place(name)) from error

    def xml(self, name: str) -> Any:
        """A file of the package that has to be XML, parsed."""
        from lxml import etree

        try:
            return etree.fromstring(self.read(name), etree.XMLParser(resolve_entities=False, no_network=True))
        except etree.XMLSyntaxError as error:
            raise DataError(f"damaged: {error.msg}", _AGAIN, f"{self.place(name)}:{error.lineno}") from None

    @cached_property
    def opf(self) -> str:
        """The name of the file that lists all others."""
        if _CONTAINER not in self.files:
            raise DataError(f"a zip file, but not an EPUB: it has no {_CONTAINER}", _AGAIN, self.path)
        root = next((each.get("full-path") or "" for each in self.xml(_CONTAINER).iterfind(".//{*}rootfile")), "")
        if root not in self.files:
            what = f"it names {root!r} as the book's list of files, which is not there"
            raise DataError(what, _AGAIN, self.place(_CONTAINER))
        return root

    @cached_property
    def package(self) -> Any:
        """The OPF, parsed."""
        return self.xml(self.opf)

    @cached_property
    def items(self) -> dict[str, tuple[str, _Item | Problem]]:
        """The manifest: id -> the address given, and the item or what is wrong with the address."""
        found: dict[str, tuple[str, _Item | Problem]] = {}
        for each in self.package.iterfind("{*}manifest/{*}item"):
            href = each.get("href") or ""
            inside = self._inside(href, each.sourceline)
            about = (each.get("media-type") or "", frozenset((each.get("properties") or "").split()), each.sourceline)
            found[each.get("id") or href] = href, inside if isinstance(inside, Problem) else _Item(inside, *about)
        return found

    def _inside(self, href: str, line: int) -> str | Problem:
        """The name of the file that an address of the OPF names, or why it names none."""
        where = f"{self.place(self.opf)}:{line}"
        parts = urlsplit(href)
        name = posixpath.normpath(posixpath.join(posixpath.dirname(self.opf), unquote(parts.path)))
        if parts.scheme or parts.netloc:
            return Problem(f"{href!r} is not in the book but somewhere else", _AGAIN, where)
        if unquote(parts.path).startswith("/") or "\\" in name or name.split("/")[0] == "..":
            return Problem(f"{href!r} leads outside of the book", _AGAIN, where)
        return name

    def check(self) -> None:
        """Whether all chapters are there, are pages, and can be read.

        Raises:
            DataError: with everything that is wrong.
        """
        self._refuse_encrypted([self.opf])
        problems: list[Problem] = []
        spine = self.package.findall("{*}spine/{*}itemref")
        for each in spine:
            where = f"{self.place(self.opf)}:{each.sourceline}"
            href, item = self.items.get(each.get("idref") or "", ("", None))
            if item is None:
                problems.append(Problem(f"no file belongs to the chapter {each.get('idref')!r}", _AGAIN, where))
            elif isinstance(item, Problem):
                problems.append(item)
            elif item.name not in self.files:
                problems.append(Problem(f"the chapter {href!r} is missing", _AGAIN, self.place(item.name)))
            elif item.media_type not in _PAGES and not item.media_type.startswith("image/"):
                what = f"a chapter that is no page but {item.media_type or 'of no type'}"
                problems.append(Problem(what, "convert the book to EPUB 3, or exclude it", self.place(item.name)))
        if not spine:
            problems.append(Problem("the book has no chapters: its spine is empty", _AGAIN, self.place(self.opf)))
        if problems:
            raise DataError(problems=problems)
        self._refuse_encrypted(self.chapters())

    def _refuse_encrypted(self, wanted: list[str]) -> None:
        """Scrambled fonts are no hindrance; a chapter that is encrypted cannot be read."""
        if _ENCRYPTION not in self.files:
            return
        named = {unquote(each.get("URI") or "") for each in self.xml(_ENCRYPTION).iterfind(".//{*}CipherReference")}
        if locked := [name for name in wanted if name in named]:
            what = f"encrypted (DRM): {len(locked)} of the files to be read, {locked[0]} first"
            raise DataError(what, "get a copy without DRM, or exclude it", self.place(_ENCRYPTION))

    def chapters(self) -> list[str]:
        """Names of the pages in reading order, each once."""
        spine = [self.items[each.get("idref")][1] for each in self.package.iterfind("{*}spine/{*}itemref")]
        return list(dict.fromkeys(item.name for item in spine if isinstance(item, _Item)))

    @cached_property
    def by_name(self) -> dict[str, _Item]:
        """Name -> line of the manifest."""
        return {item.name: item for _, item in self.items.values() if isinstance(item, _Item)}

    @cached_property
    def about(self) -> dict[str, str]:
        """What the book says of itself."""
        said = {}
        for key, name in (("book", "title"), ("author", "creator"), ("lang", "language")):
            found = self.package.iterfind(f"{{*}}metadata//{{*}}{name}")
            values = [" ".join("".join(each.itertext()).split()) for each in found]
            said[key] = "; ".join(filter(None, values if key == "author" else values[:1]))
        return {key: value for key, value in said.items() if value}

    @cached_property
    def guide(self) -> dict[str, str]:
        """Name of a page -> its part in the book, as the guide of EPUB 2 says it."""
        found = {}
        for each in self.package.iterfind("{*}guide/{*}reference"):
            name = self._inside(each.get("href") or "", each.sourceline)
            if isinstance(name, str):
                found[name] = each.get("type") or ""
        return found

    @cached_property
    def cover_picture(self) -> str:
        """The name of the cover's picture."""
        named = [item.name for item in self.by_name.values() if "cover-image" in item.properties]
        ids = [each.get("content") for each in self.package.iterfind("{*}metadata/{*}meta[@name='cover']")]
        named += [item.name for each in ids if isinstance(item := self.items.get(each, ("", None))[1], _Item)]
        return next(iter(named), "")


def _chapter(book: _Book, name: str, entry: FileLedger, reading: SourceReading) -> Iterator[Document]:
    """The document of a page of the spine, if it is a chapter and has text; its characters are counted in any case."""
    place, item = book.place(name), book.by_name[name]
    if item.media_type not in _PAGES:
        reading.skip(place, f"{item.media_type} is no text")
        return
    tree = _tree(book, name, reading)
    own = FileLedger(place, entry.sha256)
    page = page_text(tree, own)
    characters = count_characters(tree)
    entry.chars_in += characters
    reason = _why_not(book, item, tree, page)
    if reason or not page.text:
        dropped = {reason: characters} if reason else own.dropped
        reading.skip(place, reason or "a page without text")
    else:
        dropped = own.dropped
    for why, count in dropped.items():
        if count:
            entry.dropped[why] = entry.dropped.get(why, 0) + count
    if reason or not page.text:
        return
    for why, count in own.added.items():
        entry.added[why] = entry.added.get(why, 0) + count
    entry.chars_out += visible(page.text)
    entry.documents += 1
    yield Document(
        place,
        entry.sha256,
        kind="markdown",
        title=next(iter(page.first or page.headings), "") or book.about.get("book", ""),
        text=page.text,
        meta={"reader": "afina", **book.about, "lines": json.dumps(page.lines)},
        source=reading.position,
    )


def _why_not(book: _Book, item: _Item, tree: Any, page: PageText) -> str:
    """Why a page of the spine is no chapter; empty where it is one."""
    part = book.guide.get(item.name, "")
    if part == "toc":
        return "navigation"
    if "nav" in item.properties and all(line.startswith("#") for line in page.text.split("\n") if line):
        return "navigation"  # what is left of it is its heading; some books have it in a page with more on it
    body = tree.find("body") if tree is not None else None
    if body is None or any(text.strip() for text in body.xpath(".//text()[not(ancestor::svg or ancestor::style)]")):
        return ""
    pictures = [each.get("src") for each in body.iter("img")]
    pictures += [value for each in body.iter("image") for key, value in each.items() if key.endswith("href")]
    folder = posixpath.dirname(item.name)
    shown = {posixpath.normpath(posixpath.join(folder, unquote(each or ""))) for each in pictures}
    return "cover" if pictures and (part == "cover" or book.cover_picture in shown) else ""


def _left_out(book: _Book, entry: FileLedger, reading: SourceReading) -> None:
    """Count the pages that are no chapters, and the table of contents of EPUB 2."""
    chapters = set(book.chapters())
    for item in book.by_name.values():
        if item.name in chapters or item.media_type not in _PAGES | {_NCX} or item.media_type == "image/svg+xml":
            continue
        place = book.place(item.name)
        if item.name not in book.files:
            reading.skip(place, "the book lists it, but it is not there")
            continue
        contents = item.media_type == _NCX or "nav" in item.properties or book.guide.get(item.name) == "toc"
        tree = book.xml(item.name) if item.media_type == _NCX else _tree(book, item.name, reading)
        reason = "navigation" if contents else "outside of the reading order"
        count = count_characters(tree)
        entry.chars_in += count
        if count:
            entry.dropped[reason] = entry.dropped.get(reason, 0) + count
        reading.skip(place, reason)
    for name in book.files:
        if (name.lower().endswith(".xhtml") or kind_of(name) == "html") and name not in book.by_name:
            reading.skip(book.place(name), "the book does not list it")


def _tree(book: _Book, name: str, reading: SourceReading) -> Any:
    """A page as a tree of plain HTML. One that is no XML is read as HTML, which is noted."""
    from lxml import etree

    place = book.place(name)
    text = _decoded(book.read(name), place)
    # The names of HTML's entities are in a DTD that is not fetched.
    known = _ENTITY.sub(lambda it: it[0] if it[1] in _XML_ENTITIES else html5.get(f"{it[1]};", it[0]), text)
    try:
        parser = etree.XMLParser(resolve_entities=False, no_network=True, encoding="utf-8")
        tree = etree.fromstring(known.encode(), parser)
        broken = next((f"{each.text} is not defined, line {each.sourceline}" for each in tree.iter(etree.Entity)), "")
    except etree.XMLSyntaxError as error:
        broken = error.msg or "not XML"
    if broken:
        reading.skip(f"{place} (read as HTML)", f"not XML: {broken}")
        tree = parse(text, place)
    for element in tree.iter() if tree is not None else ():
        if isinstance(element.tag, str):
            element.tag = etree.QName(element).localname
            said = (element.get(_TYPE) or element.get("epub:type") or "").split()
            if role := next((_ROLES[each] for each in said if each in _ROLES), ""):
                element.set("role", role)
    return tree


def _decoded(raw: bytes, place: str) -> str:
    """A page's text in the encoding that it declares (UTF-8 where it declares none), with ``\\n`` as line ends."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif found := _ENCODING.match(raw):
        encoding = found[1].decode()
    else:
        encoding = "utf-8"
    try:
        text = raw.decode("utf-8-sig" if encoding.lower() == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        what = f"not {encoding}: byte 0x{raw[error.start]:02x} at offset {error.start}"
        raise DataError(what, "fix the page's encoding, or exclude the book", f"{place}:{line}") from None
    except LookupError:
        raise DataError(f"{encoding!r} is not a known text encoding", _AGAIN, f"{place}:1") from None
    if "\0" in text:
        raise DataError("it holds NUL bytes", _AGAIN, f"{place}:{text[: text.index(chr(0))].count(chr(10)) + 1}")
    return text.replace("\r\n", "\n").replace("\r", "\n")
