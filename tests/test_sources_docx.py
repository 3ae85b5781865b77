"""Word: files zipped here by hand; what comes through, what is counted as left out."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afina.errors import DataError
from afina.recipe import Source
from afina.sources import Document, Ledger, read_source, visible

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
STRICT = "http://purl.oclc.org/ooxml/wordprocessingml/main"
STYLES = (
    '<w:style w:styleId="Ttulo1"><w:name w:val="heading 1"/></w:style>'
    '<w:style w:styleId="Mine"><w:name w:val="My heading"/><w:basedOn w:val="H2"/></w:style>'
    '<w:style w:styleId="H2"><w:name w:val="heading 2"/></w:style>'
    '<w:style w:styleId="TOC1"><w:name w:val="toc 1"/></w:style>'
    '<w:style w:styleId="Code"><w:name w:val="Source Code"/></w:style>'
)
NUMBERING = (
    '<w:abstractNum w:abstractNumId="7"><w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/></w:lvl>'
    '<w:lvl w:ilvl="1"><w:start w:val="1"/><w:numFmt w:val="decimal"/></w:lvl></w:abstractNum>'
    '<w:abstractNum w:abstractNumId="8"><w:lvl w:ilvl="0"><w:start w:val="3"/><w:numFmt w:val="lowerLetter"/></w:lvl>'
    '</w:abstractNum><w:num w:numId="1"><w:abstractNumId w:val="7"/></w:num>'
    '<w:num w:numId="2"><w:abstractNumId w:val="8"/></w:num>'
)


@pytest.fixture(autouse=True)
def built_in_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("afina.sources", "afina.sources.parsers"):
        monkeypatch.setattr(f"{module}.has_docling", lambda: False)


def docx(body: str, namespace: str = W, **parts: str) -> bytes:
    """A package with the document and further parts of the folder ``word/``."""
    whole = {"document": f"<w:body>{body}</w:body>", "styles": STYLES, "numbering": NUMBERING} | parts
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as package:
        for name, inner in whole.items():
            root = name.rstrip("0123456789")
            xml = f'<w:{root} xmlns:w="{namespace}" xmlns:mc="mc" xmlns:m="math">{inner}</w:{root}>'
            package.writestr(f"word/{name}.xml", xml)
    return out.getvalue()


def p(*runs: str, style: str = "", number: tuple[int, int] | None = None) -> str:
    """A paragraph of runs; a run that is no XML is text."""
    about = f'<w:pStyle w:val="{style}"/>' if style else ""
    if number:
        about += f'<w:numPr><w:ilvl w:val="{number[1]}"/><w:numId w:val="{number[0]}"/></w:numPr>'
    return f"<w:p><w:pPr>{about}</w:pPr>{''.join(run if run.startswith('<') else r(run) for run in runs)}</w:p>"


def r(text: str, looks: str = "") -> str:
    return f'<w:r><w:rPr>{looks}</w:rPr><w:t xml:space="preserve">{escape(text)}</w:t></w:r>'


def read(root: Path, content: bytes, ledger: Ledger | None = None) -> list[Document]:
    (root / "a.docx").write_bytes(content)
    return list(read_source(Source(path="a.docx"), 0, root, ledger if ledger is not None else Ledger()))


def text_of(root: Path, body: str, ledger: Ledger | None = None, **parts: str) -> str:
    used = ledger if ledger is not None else Ledger()
    (document,) = read(root, docx(body, **parts), used)
    assert used.files[0].balanced
    return document.text


def test_headings_paragraphs_and_emphasis(tmp_path: Path) -> None:
    body = (
        p("O clube", style="Ttulo1") + p(r("Nascimento:", "<w:b/>"), " Faro, ", r("sempre", "<w:i/>"), ".")
        + p("Anos", style="Mine") + p("1910") + p(r("not bold", '<w:b w:val="0"/>'))
    )  # fmt: skip
    (document,) = read(tmp_path, docx(body))
    assert document.text == "# O clube\n\n**Nascimento:** Faro, *sempre*.\n\n## Anos\n\n1910\n\nnot bold\n"
    assert (document.title, document.kind, document.path) == ("O clube", "markdown", "a.docx")


def test_runs_that_look_alike_are_one(tmp_path: Path) -> None:
    """Word cuts a word into runs wherever it was edited."""
    bold = "<w:b/>"
    assert text_of(tmp_path, p(r("Far", bold), r("ense", bold), r(" ", bold), r("SC", bold))) == "**Farense SC**\n"


def test_lists_with_levels_and_numbers(tmp_path: Path) -> None:
    body = (
        p("a", number=(1, 0)) + p("b", number=(1, 0)) + p("one", number=(1, 1)) + p("two", number=(1, 1))
        + p("c", number=(1, 0)) + p("between") + p("x", number=(2, 0)) + p("again") + p("y", number=(2, 0))
        + p("no list", number=(0, 0))
    )  # fmt: skip
    assert text_of(tmp_path, body) == (
        "- a\n- b\n  1. one\n  2. two\n- c\n\nbetween\n\n3. x\n\nagain\n\n4. y\n\nno list\n"
    )


def test_lists_by_words_own_styles(tmp_path: Path) -> None:
    """`List Bullet 2` is a list of its own, at its first level; the name says how deep it is."""
    styles = '<w:style w:styleId="LB2"><w:name w:val="List Bullet 2"/></w:style>'
    body = p("a", number=(1, 0)) + p("b", style="LB2", number=(2, 0)) + p("c", number=(1, 0))
    assert text_of(tmp_path, body, styles=styles) == "- a\n  3. b\n- c\n"


def cell(text: str, about: str = "") -> str:
    return f"<w:tc><w:tcPr>{about}</w:tcPr>{p(text)}</w:tc>"


def test_tables(tmp_path: Path) -> None:
    first = f"<w:tr><w:trPr><w:tblHeader/></w:trPr>{cell('Ano')}{cell('a|b')}</w:tr>"
    wide = cell("both", '<w:gridSpan w:val="2"/>')
    rows = first + f"<w:tr>{cell('1910')}{cell('x')}</w:tr><w:tr>{wide}</w:tr>"
    assert text_of(tmp_path, f"<w:tbl>{rows}</w:tbl>") == ("| Ano | a\\|b |\n|---|---|\n| 1910 | x |\n| both |  |\n")
    assert text_of(tmp_path, f"<w:tbl><w:tr>{cell('a frame')}</w:tr></w:tbl>") == "a frame\n"
    inner = f"<w:tc><w:tbl><w:tr>{cell('in')}{cell('ner')}</w:tr></w:tbl>{p('after')}</w:tc>"
    assert "in ner<br>after" in text_of(tmp_path, f"<w:tbl><w:tr>{inner}{cell('y')}</w:tr></w:tbl>")


def test_a_cell_of_several_rows_says_so_in_each_of_them(tmp_path: Path) -> None:
    begins, goes_on = '<w:vMerge w:val="restart"/>', "<w:vMerge/>"
    rows = [(("Faro", begins), "1910"), (("", goes_on), "1911"), (("Lagos", ""), "1912"), (("", goes_on), "1913")]
    body = "".join(f"<w:tr>{cell(*first)}{cell(year)}</w:tr>" for first, year in rows)
    expected = "|  |  |\n|---|---|\n| Faro | 1910 |\n| Faro | 1911 |\n| Lagos | 1912 |\n| Lagos | 1913 |\n"
    ledger = Ledger()
    assert text_of(tmp_path, f"<w:tbl>{body}</w:tbl>", ledger) == expected
    assert ledger.files[0].added["Markdown: cell of several rows"] == len("Faro" + "Lagos")


def test_code_keeps_its_spaces(tmp_path: Path) -> None:
    body = p("def f():", style="Code") + p("    return 1", style="Code") + p("text")
    assert text_of(tmp_path, body) == "```\ndef f():\n    return 1\n```\n\ntext\n"


def test_what_is_left_out_is_counted_with_the_reason(tmp_path: Path) -> None:
    moved = "<w:moveFrom><w:r><w:t>there</w:t></w:r></w:moveFrom><w:moveTo><w:r><w:t>, here</w:t></w:r></w:moveTo>"
    deleted = "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"
    code, formula = "<w:r><w:instrText>PAGE 12</w:instrText></w:r>", "<m:oMath><m:t>x2</m:t></m:oMath>"
    row = f"<w:tr><w:trPr><w:del/></w:trPr>{cell('old')}{cell('row')}</w:tr>"
    body = (
        p("kept", deleted, "<w:ins><w:r><w:t> new</w:t></w:r></w:ins>", moved)
        + p(code, r("hidden", "<w:vanish/>"), formula)
        + p("Chapter 1....3", style="TOC1")
        + f"<w:tbl><w:tr>{cell('a')}{cell('b')}</w:tr>{row}</w:tbl>"
    )
    ledger = Ledger()
    parts = {"header1": p("Head"), "footer2": p("Foot 1"), "comments": f"<w:comment>{p('Why?')}</w:comment>"}
    text = text_of(tmp_path, body, ledger, **parts)
    assert text.startswith("kept new, here\n") and "gone" not in text and "Head" not in text and "| a | b |" in text
    assert ledger.files[0].dropped == {
        "page header": 4, "page footer": 5, "comment": 4, "tracked deletion": 4 + 6, "tracked move (its old place)": 5,
        "field code": 6,
        "hidden text": 6, "formula": 2, "table of contents": 13,
    }  # fmt: skip


def test_a_text_box_is_read_once(tmp_path: Path) -> None:
    """Word writes it twice: for itself and for older versions."""
    box = f"<w:txbxContent>{p('in the box')}</w:txbxContent>"
    twice = f"<mc:Choice>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback>"
    both = f"<w:r><mc:AlternateContent>{twice}</mc:AlternateContent></w:r>"
    ledger = Ledger()
    assert text_of(tmp_path, p("before", both), ledger) == "before\n\nin the box\n"
    assert ledger.files[0].dropped == {"the same again for older versions": 8}


def test_notes_stand_at_the_end(tmp_path: Path) -> None:
    refer = '<w:r><w:footnoteReference w:id="2"/></w:r>'
    notes = f'<w:footnote w:id="1">{p("nobody")}</w:footnote><w:footnote w:id="2">{p("See Faro.")}</w:footnote>'
    ledger = Ledger()
    assert text_of(tmp_path, p("A club", refer, "."), ledger, footnotes=notes) == "A club[^1].\n\n[^1]: See Faro.\n"
    assert ledger.files[0].dropped == {"note that nothing refers to": 6}


def test_the_strict_form_reads_alike(tmp_path: Path) -> None:
    (document,) = read(tmp_path, docx(p("Title", style="Ttulo1") + p("text"), STRICT))
    assert document.text == "# Title\n\ntext\n"


def test_text_inside_what_is_not_known_is_not_lost(tmp_path: Path) -> None:
    body = f"<w:sdt><w:sdtContent>{p('a')}<w:new>{p('b')}</w:new></w:sdtContent></w:sdt>" + p(
        "<w:new><w:r><w:t>c</w:t></w:r></w:new>"
    )
    assert text_of(tmp_path, body) == "a\n\nb\n\nc\n"


def zipped(**files: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as package:
        for name, text in files.items():
            package.writestr(name.replace("__", "/") + ".xml", text)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 100, "encrypted, or an old Word file"),
        (b"PK\3\4 nothing", "not a Word file, or damaged"),
        (docx(p("text"))[:-60], "not a Word file, or damaged"),
        (zipped(word__document="<w:document"), "damaged: word/document.xml"),
        (zipped(xl__workbook="<workbook/>"), "no word/document.xml"),
    ],
)
def test_a_damaged_or_encrypted_file_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, content)
    (problem,) = caught.value.problems
    assert problem.where == "a.docx" and what in problem.what and problem.fix


def test_a_broken_byte_inside_is_seen(tmp_path: Path) -> None:
    content = bytearray(docx(p("text" * 50)))
    content[content.index(b"texttext") + 3] ^= 1
    with pytest.raises(DataError, match="damaged: Bad CRC"):
        read(tmp_path, bytes(content))


def test_a_file_without_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a Word file without text"):
        read(tmp_path, docx(p()))


words = st.text("ab#-|*`\t é1.", max_size=12)
kinds = st.sampled_from([{}, {"style": "Ttulo1"}, {"number": (1, 0)}, {"number": (1, 1)}, {"style": "Code"}])
paragraphs = st.lists(st.tuples(words, st.sampled_from(["", "<w:b/>", "<w:vanish/>"]), kinds), max_size=6)


@given(paragraphs, st.booleans())
def test_every_character_is_counted(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[str, str, dict[str, object]]], table: bool
) -> None:
    root = tmp_path_factory.mktemp("docx")
    body = "".join(p(r(text, looks), **keys) for text, looks, keys in found)  # type: ignore[arg-type]
    if table:
        body = f"<w:tbl><w:tr><w:tc>{body}</w:tc>{cell('z')}</w:tr></w:tbl>"
    body += p("end")
    ledger = Ledger()
    (document,) = read(root, docx(body), ledger)
    (entry,) = ledger.files
    assert entry.balanced and entry.chars_out == visible(document.text)
    assert entry.chars_in == sum(visible(text) for text, _, _ in found) + 3 + table
