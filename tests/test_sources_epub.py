"""EPUB: books zipped here by hand; chapters in order, what is left out counted, what is broken named."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afina.errors import DataError
from afina.recipe import Source
from afina.sources import Document, Ledger, read_source, visible
from afina.text.lines import file_lines

CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile '
    'full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)
XHTML = "application/xhtml+xml"
ABOUT = (
    "<dc:title>Os  clubes</dc:title><dc:creator>Ana Sá</dc:creator><dc:creator>Rui</dc:creator>"
    "<dc:language>pt-PT</dc:language>"
)
NAV = '<nav epub:type="toc"><h1>Contents</h1><ol><li><a href="one.xhtml">One</a></li></ol></nav>'
NCX_TYPE = "application/x-dtbncx+xml"
NCX = '<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/"><docTitle><text>Os clubes</text></docTitle></ncx>'


def page(body: str, head: str = "") -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE html>\n'
        '<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops">\n'
        f"<head>{head}</head>\n<body>\n{body}\n</body></html>"
    )


def opf(
    items: Mapping[str, tuple[str, str, str]], spine: Sequence[str], about: str = ABOUT, guide: str = "", meta: str = ""
) -> str:
    """id -> (href, media type, properties)."""
    manifest = "".join(
        f'<item id="{name}" href="{href}" media-type="{kind}" properties="{properties}"/>\n'
        for name, (href, kind, properties) in items.items()
    )
    order = "".join(f'<itemref idref="{name}"/>\n' for name in spine)
    return (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">\n'
        f"<metadata>{about}{meta}</metadata>\n<manifest>{manifest}</manifest>\n<spine>{order}</spine>{guide}</package>"
    )


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as package:
        for name, content in files.items():
            package.writestr(name, content)
    return out.getvalue()


def book(*chapters: str | bytes) -> bytes:
    """A book of chapters ``c1.xhtml``, ``c2.xhtml``, ..."""
    items = {f"c{n}": (f"c{n}.xhtml", XHTML, "") for n in range(1, len(chapters) + 1)}
    files: dict[str, str | bytes] = {"META-INF/container.xml": CONTAINER, "OEBPS/book.opf": opf(items, list(items))}
    files |= {f"OEBPS/c{n}.xhtml": chapter for n, chapter in enumerate(chapters, start=1)}
    return zipped(files)


def read(root: Path, content: bytes, ledger: Ledger | None = None) -> list[Document]:
    (root / "a.epub").write_bytes(content)
    used = ledger if ledger is not None else Ledger()
    documents = list(read_source(Source(path="a.epub"), 0, root, used))
    assert [(entry.path, entry.balanced) for entry in used.files] == [("a.epub", True)]
    assert used.files[0].chars_out == sum(visible(document.text) for document in documents)
    return documents


def problems_of(root: Path, content: bytes) -> list[tuple[str, str]]:
    """Place and what of each problem."""
    (root / "a.epub").write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_source(Source(path="a.epub"), 0, root, Ledger()))
    assert all(problem.fix for problem in caught.value.problems)
    return [(problem.where, problem.what) for problem in caught.value.problems]


def test_chapters_in_the_order_of_the_spine(tmp_path: Path) -> None:
    items = {"b": ("text/two.xhtml", XHTML, ""), "a": ("one%20first.xhtml", XHTML, "")}
    files = {
        "META-INF/container.xml": CONTAINER,
        "OEBPS/book.opf": opf(items, ["a", "b"]),
        "OEBPS/text/two.xhtml": page("<h1>Two</h1><p>second</p>", "<title>Junk</title>"),
        "OEBPS/one first.xhtml": page("<h2>One</h2><p>caf&eacute;&nbsp;first</p>"),
    }
    one, two = read(tmp_path, zipped(files))
    assert one.text == "## One\n\ncafé\xa0first\n" and two.text == "# Two\n\nsecond\n"
    assert [document.path for document in (one, two)] == [
        "a.epub!/OEBPS/one first.xhtml",
        "a.epub!/OEBPS/text/two.xhtml",
    ]
    assert (one.title, two.title, one.kind) == ("One", "Two", "markdown")
    assert {key: one.meta[key] for key in ("book", "author", "lang")} == {
        "book": "Os clubes", "author": "Ana Sá; Rui", "lang": "pt-PT",
    }  # fmt: skip


def test_headings_code_tables_and_notes_come_through(tmp_path: Path) -> None:
    body = (
        '<h1>Code</h1><p>See<a epub:type="noteref" href="#n1"><sup>1</sup></a>.'
        '<span epub:type="pagebreak">12</span></p>'
        '<pre><code class="language-zig">const a = 1 &lt;&lt; 4;\n\n  b();</code></pre>'
        "<table><tr><th>Ano</th><th>Clube</th></tr><tr><td>1910</td><td>Farense</td></tr></table>"
        '<aside epub:type="footnote" id="n1"><p>1. Faro. <a epub:type="backlink" href="#r1">↩</a></p></aside>'
    )
    ledger = Ledger()
    (document,) = read(tmp_path, book(page(body)), ledger)
    assert document.text == (
        "# Code\n\nSee^1.\n\n```zig\nconst a = 1 << 4;\n\n  b();\n```\n\n"
        "| Ano | Clube |\n|---|---|\n| 1910 | Farense |\n\n1. Faro.\n"
    )
    assert ledger.files[0].dropped == {"page number": 2, "back-link of a note": 1}


def test_lines_are_those_of_the_chapters_file(tmp_path: Path) -> None:
    (document,) = read(tmp_path, book(page("<h1>A</h1>\n<p>a</p>\n\n\n<h2>B</h2><p>b</p>")))
    assert document.text == "# A\n\na\n\n## B\n\nb\n"
    assert json.loads(document.meta["lines"]) == {"1": 6, "5": 10}
    in_file = file_lines(document, tmp_path)
    assert [in_file(line) for line in (1, 3, 5, 7)] == [6, 6, 10, 10]


def test_what_is_left_out_is_counted_with_the_reason(tmp_path: Path) -> None:
    items = {
        "cover": ("cover.xhtml", XHTML, ""), "picture": ("c.png", "image/png", "cover-image"),
        "nav": ("nav.xhtml", XHTML, "nav"), "toc": ("toc.xhtml", XHTML, ""), "ncx": ("toc.ncx", NCX_TYPE, ""),
        "one": ("one.xhtml", XHTML, ""),
        "blank": ("blank.xhtml", XHTML, ""), "notes": ("notes.xhtml", XHTML, ""), "gone": ("gone.xhtml", XHTML, ""),
        "plate": ("plate.png", "image/png", ""),
    }  # fmt: skip
    guide = '<guide><reference type="toc" href="toc.xhtml"/></guide>'
    files = {
        "META-INF/container.xml": CONTAINER,
        "OEBPS/book.opf": opf(items, ["cover", "nav", "toc", "blank", "plate", "one", "one"], guide=guide),
        "OEBPS/cover.xhtml": page('<div><img src="c.png" alt="The cover"/></div>'),
        "OEBPS/nav.xhtml": page(NAV),
        "OEBPS/toc.xhtml": page("<p>One ... 7</p>"),
        "OEBPS/toc.ncx": NCX,
        "OEBPS/one.xhtml": page("<p>one</p>"),
        "OEBPS/blank.xhtml": page("<p> </p>", "<title>Blank</title>"),
        "OEBPS/notes.xhtml": page("<p>spare</p>"),
        "OEBPS/plate.png": b"PNG",
        "OEBPS/draft.xhtml": page("<p>a draft</p>"),
    }
    ledger = Ledger()
    (document,) = read(tmp_path, zipped(files), ledger)
    assert document.text == "one\n" and ledger.files[0].chars_in == 8 + 11 + 7 + 8 + 3 + 5 + 5
    assert ledger.files[0].dropped == {
        "cover": 8,
        "navigation": 11 + 7 + 8,
        "title": 5,
        "outside of the reading order": 5,
    }
    assert ledger.skipped == {
        "a.epub!/OEBPS/cover.xhtml": "cover",
        "a.epub!/OEBPS/nav.xhtml": "navigation",
        "a.epub!/OEBPS/toc.xhtml": "navigation",
        "a.epub!/OEBPS/toc.ncx": "navigation",
        "a.epub!/OEBPS/blank.xhtml": "a page without text",
        "a.epub!/OEBPS/plate.png": "image/png is no text",
        "a.epub!/OEBPS/notes.xhtml": "outside of the reading order",
        "a.epub!/OEBPS/gone.xhtml": "the book lists it, but it is not there",
        "a.epub!/OEBPS/draft.xhtml": "the book does not list it",
    }


def test_a_cover_with_words_of_its_own_is_a_page(tmp_path: Path) -> None:
    items = {"cover": ("cover.xhtml", XHTML, ""), "picture": ("c.png", "image/png", "")}
    files = {
        "META-INF/container.xml": CONTAINER,
        "OEBPS/cover.xhtml": page('<p>Faro, 1910</p><img src="c.png" alt=""/>'),
    }
    files["OEBPS/book.opf"] = opf(items, ["cover"], meta='<meta name="cover" content="picture"/>')
    assert [document.text for document in read(tmp_path, zipped(files))] == ["Faro, 1910\n"]


def test_a_page_with_more_than_its_navigation_is_kept(tmp_path: Path) -> None:
    """A short book may be a single page, which is then its navigation too."""
    items = {"all": ("all.xhtml", XHTML, "nav")}
    files = {"META-INF/container.xml": CONTAINER, "OEBPS/all.xhtml": page(NAV + "<h1>A</h1><p>text</p>")}
    ledger = Ledger()
    (document,) = read(tmp_path, zipped(files | {"OEBPS/book.opf": opf(items, ["all"])}), ledger)
    assert document.text == "# A\n\ntext\n" and ledger.files[0].dropped == {"navigation": 11}


def test_a_page_that_is_no_xml_is_read_as_html_and_noted(tmp_path: Path) -> None:
    ledger = Ledger()
    (document,) = read(tmp_path, book(page("<p>one<br>two</p>")), ledger)
    assert document.text == "one\ntwo\n"
    ((place, why),) = ledger.skipped.items()
    assert place == "a.epub!/OEBPS/c1.xhtml (read as HTML)" and why.startswith(
        "not XML: Opening and ending tag mismatch"
    )


def test_an_entity_of_the_pages_own_is_not_lost(tmp_path: Path) -> None:
    bomb = page("<p>a &big; b &nope; c</p>").replace("<!DOCTYPE html>", '<!DOCTYPE html [<!ENTITY big "boom">]>')
    ledger = Ledger()
    (document,) = read(tmp_path, book(bomb), ledger)
    assert document.text.endswith("a &big; b &nope; c\n") and len(ledger.skipped) == 1


@pytest.mark.parametrize("encoding", ["utf-16", "iso-8859-1", "utf-8-sig"])
def test_a_page_in_another_encoding(tmp_path: Path, encoding: str) -> None:
    text = page("<p>três</p>").replace("utf-8", encoding.removesuffix("-sig"))
    assert [document.text for document in read(tmp_path, book(text.encode(encoding)))] == ["três\n"]  # type: ignore[arg-type]


FONT = "OEBPS/font.otf"
SCRAMBLED = (
    '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container" xmlns:e="http://www.w3.org/2001/04/xmlenc#">'
    '<e:EncryptedData><e:EncryptionMethod Algorithm="http://www.idpf.org/2008/embedding"/><e:CipherData>'
    '<e:CipherReference URI="{}"/></e:CipherData></e:EncryptedData></encryption>'
)
ENCRYPTION = "META-INF/encryption.xml"


def book_with(**changes: str | bytes | None) -> dict[str, str | bytes]:
    """The files of a book of one chapter; None takes a file away."""
    files: dict[str, str | bytes | None] = {
        "META-INF/container.xml": CONTAINER,
        "OEBPS/book.opf": opf({"one": ("one.xhtml", XHTML, "")}, ["one"]),
        "OEBPS/one.xhtml": page("<p>one</p>"),
    }
    return {name: content for name, content in (files | changes).items() if content is not None}


def chapter_at(href: str, media_type: str = XHTML) -> dict[str, str]:
    """An OPF whose only chapter lies there."""
    return {"OEBPS/book.opf": opf({"x": (href, media_type, "")}, ["x"])}


def test_scrambled_fonts_do_not_matter(tmp_path: Path) -> None:
    assert len(read(tmp_path, zipped(book_with(**{ENCRYPTION: SCRAMBLED.format(FONT)})))) == 1


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({ENCRYPTION: SCRAMBLED.format("OEBPS/one.xhtml")}, f"!/{ENCRYPTION}", "encrypted (DRM): 1 of the files"),
        ({ENCRYPTION: SCRAMBLED.format("OEBPS/book.opf")}, f"!/{ENCRYPTION}", "encrypted (DRM)"),
        ({"META-INF/container.xml": None}, "", "a zip file, but not an EPUB"),
        ({"META-INF/container.xml": "<a>"}, "!/META-INF/container.xml:1", "damaged: "),
        ({"OEBPS/book.opf": None}, "!/META-INF/container.xml", "it names 'OEBPS/book.opf' as the book's list of files"),
        ({"OEBPS/one.xhtml": None}, "!/OEBPS/one.xhtml", "the chapter 'one.xhtml' is missing"),
        ({"OEBPS/book.opf": opf({}, ["two"])}, "!/OEBPS/book.opf:4", "no file belongs to the chapter 'two'"),
        ({"OEBPS/book.opf": opf({}, [])}, "!/OEBPS/book.opf", "the book has no chapters"),
        (chapter_at("../../x.xhtml"), "!/OEBPS/book.opf:3", "leads outside of the book"),
        (chapter_at("%2e%2e/../x"), "!/OEBPS/book.opf:3", "leads outside of the book"),
        (chapter_at("/etc/passwd"), "!/OEBPS/book.opf:3", "leads outside of the book"),
        (chapter_at("https://a.org/x"), "!/OEBPS/book.opf:3", "is not in the book"),
        (chapter_at("one.xhtml", "text/css"), "!/OEBPS/one.xhtml", "a chapter that is no page but text/css"),
        ({"OEBPS/one.xhtml": page("<p>\n</p>").encode() + b"\xff"}, "!/OEBPS/one.xhtml:8", "not utf-8: byte 0xff"),
        ({"OEBPS/one.xhtml": page("<p>\n\0</p>")}, "!/OEBPS/one.xhtml:7", "it holds NUL bytes"),
        ({"OEBPS/one.xhtml": page("").replace("utf-8", "klingon")}, "!/OEBPS/one.xhtml:1", "'klingon' is not a known"),
    ],
)  # fmt: skip
def test_a_broken_book_is_named(tmp_path: Path, changes: dict, where: str, what: str) -> None:
    ((place, said),) = problems_of(tmp_path, zipped(book_with(**changes)))
    assert place == f"a.epub{where}" and what in said


def test_all_that_is_wrong_comes_at_once_after_the_good_chapters(tmp_path: Path) -> None:
    (tmp_path / "a.epub").write_bytes(book(page("<p>good</p>"), "<html>\0", page("<p>fine</p>"), page("\0")))
    documents = read_source(Source(path="a.epub"), 0, tmp_path, Ledger())
    assert [next(documents).text, next(documents).text] == ["good\n", "fine\n"]
    with pytest.raises(DataError) as caught:
        next(documents)
    assert [problem.where for problem in caught.value.problems] == [
        "a.epub!/OEBPS/c2.xhtml:1",
        "a.epub!/OEBPS/c4.xhtml:6",
    ]


@pytest.mark.parametrize("content", [b"", b"anything", book(page("<p>one</p>"))[:-30]])
def test_a_file_that_is_no_zip_is_named(tmp_path: Path, content: bytes) -> None:
    ((place, said),) = problems_of(tmp_path, content)
    assert place == "a.epub" and said.startswith("not an EPUB, or damaged")


def test_a_broken_byte_inside_is_seen(tmp_path: Path) -> None:
    files = book_with()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as package:  # stored, so that a byte of the text can be found
        for name, content in files.items():
            package.writestr(name, content)
    ((place, said),) = problems_of(tmp_path, out.getvalue().replace(b"<p>one", b"<p>two"))
    assert place == "a.epub!/OEBPS/one.xhtml" and said.startswith("damaged: Bad CRC-32")


def test_a_locked_zip_is_named(tmp_path: Path) -> None:
    packed = bytearray(zipped(book_with()))
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = packed.rindex(mark)
        packed[at + flags] |= 1
    ((place, said),) = problems_of(tmp_path, bytes(packed))
    assert place == "a.epub!/OEBPS/one.xhtml" and said.startswith("encrypted")


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO(zipped(book_with()))
    with zipfile.ZipFile(out, "a") as package, pytest.warns(UserWarning, match="Duplicate name"):
        package.writestr("OEBPS/one.xhtml", page("<p>another</p>"))
    assert problems_of(tmp_path, out.getvalue()) == [("a.epub!/OEBPS/one.xhtml", "two files of one name")]


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gigabyte of zeros is a megabyte when packed: what counts is the size that the package says."""
    out = io.BytesIO(zipped(book_with(**{"OEBPS/one.xhtml": " " * 1000})))
    packed = bytearray(out.getvalue())
    for mark, size in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", packed, packed.rindex(mark) + size, 1 << 30)
    ((place, said),) = problems_of(tmp_path, bytes(packed))
    assert (place, said) == ("a.epub!/OEBPS/one.xhtml", "larger than 256 MiB when unpacked")
    monkeypatch.setattr("afina.sources.epub.LARGEST_UNPACKED_BYTES", 1 << 15)  # many small ones count together
    found = problems_of(tmp_path, book(*[page("<p>" + "x" * 10_000 + "</p>")] * 4))
    assert [place for place, _ in found] == ["a.epub!/OEBPS/c4.xhtml"] and "when unpacked" in found[0][1]


def test_a_book_in_a_folder_and_a_book_without_text(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.epub").write_bytes(book(page("<p>one</p>")))
    assert [document.text for document in read_source(Source(path="d"), 0, tmp_path, Ledger())] == ["one\n"]
    (tmp_path / "d/a.epub").write_bytes(book(page("")))
    with pytest.raises(DataError, match=r"no text in 'd'.*a book without text"):
        list(read_source(Source(path="d"), 0, tmp_path, Ledger()))


# ---- any book

WORDS = st.text(alphabet=st.sampled_from("ab#`~|>-*_1.\\<&é\u00a0 \n"), max_size=12)
BLOCKS = st.recursive(
    WORDS,
    lambda inner: st.tuples(
        st.sampled_from(
            [
                "p",
                "h1",
                "h2",
                "pre",
                "code",
                "em",
                "b",
                "ul",
                "li",
                "table",
                "tr",
                "td",
                "blockquote",
                "dl",
                "dt",
                "dd",
                "section",
                "aside",
                "nav",
                "span",
                "sup",
                "style",
                "figure",
            ]
        ),
        st.sampled_from(
            ["", ' epub:type="backlink"', ' epub:type="toc"', ' hidden=""', ' id="x"', ' epub:type="pagebreak"']
        ),
        st.lists(inner, max_size=3),
    ),
    max_leaves=8,
)


def written(tree: object) -> str:
    if isinstance(tree, str):
        return escape(tree)
    assert isinstance(tree, tuple)
    tag, about, inner = tree
    return f"<{tag}{about}>{''.join(map(written, inner))}</{tag}>"


@given(
    chapters=st.lists(st.lists(BLOCKS, max_size=4), min_size=1, max_size=4),
    contents=WORDS,
    spare=WORDS,
    order=st.randoms(use_true_random=False),
    nav_in_spine=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_visible_character_of_any_book_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory,
    chapters: list,
    contents: str,
    spare: str,
    order: object,
    nav_in_spine: bool,
) -> None:
    """What comes in is what another parser finds; every chapter's mark comes out once, in the order of the spine."""
    items = {f"c{n}": (f"c{n}.xhtml", XHTML, "") for n in range(len(chapters))}
    spine = list(items)
    order.shuffle(spine)  # type: ignore[attr-defined]
    items |= {
        "nav": ("nav.xhtml", XHTML, "nav"),
        "spare": ("spare.xhtml", XHTML, ""),
        "ncx": ("toc.ncx", NCX_TYPE, ""),
    }
    pages = {
        f"OEBPS/c{n}.xhtml": page(f"<p>[c{n}]</p>" + "".join(map(written, blocks))) for n, blocks in enumerate(chapters)
    }
    pages |= {
        "OEBPS/nav.xhtml": page(f"<nav><p>{escape(contents)}</p></nav>"),
        "OEBPS/spare.xhtml": page(f"<p>{escape(spare)}</p>"),
    }
    pages["OEBPS/toc.ncx"] = f"<ncx><text>{escape(contents)}</text></ncx>"
    listed = opf(items, [*(["nav"] if nav_in_spine else []), *spine])
    ledger = Ledger()
    root = tmp_path_factory.mktemp("book")
    documents = read(root, zipped({"META-INF/container.xml": CONTAINER, "OEBPS/book.opf": listed, **pages}), ledger)
    (entry,) = ledger.files
    assert entry.chars_in == sum(visible("".join(ElementTree.fromstring(text).itertext())) for text in pages.values())
    said = "".join("".join(document.text.replace("\\", "").split()) for document in documents)
    marks = [said.index(f"[{name}]") for name in spine]
    assert marks == sorted(marks) and all(said.count(f"[{name}]") == 1 for name in spine)
