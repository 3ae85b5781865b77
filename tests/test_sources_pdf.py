"""PDF: files written here by hand, byte by byte, and what is said where a page holds no text."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afina.dataset.build.build import dataset_inputs
from afina.errors import DataError
from afina.recipe import Recipe, Source
from afina.sources import Document, Ledger, parsers, read_source
from afina.sources.parsers import has_docling
from afina.text.lines import file_lines

RECTANGLE = b"10 10 100 100 re f"


@pytest.fixture(autouse=True)
def built_in_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are of the built-in reader, also where docling is installed."""
    for module in ("afina.sources", "afina.sources.parsers"):
        monkeypatch.setattr(f"{module}.has_docling", lambda: False)


def show(text: str) -> bytes:
    """The content of a page with lines of text."""
    lines = [line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)") for line in text.split("\n")]
    shown = " T* ".join(f"({line}) Tj" for line in lines)
    return f"BT /F1 12 Tf 14 TL 72 720 Td {shown} ET".encode("cp1252")


def pdf(*contents: bytes, title: str = "", count: int | None = None, encrypt: bytes = b"") -> bytes:
    """A whole PDF file with one page per content stream; `count` is what it says that it has."""
    pages = [4 + 2 * number for number in range(len(contents))]
    kids = " ".join(f"{number} 0 R" for number in pages)
    said = len(contents) if count is None else count
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {said} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, content in zip(pages, contents, strict=True):
        about = f"/MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> /Contents {number + 1} 0 R"
        objects.append(f"<< /Type /Page /Parent 2 0 R {about} >>".encode())
        objects.append(b"<< /Length %d >>\nstream\n" % len(content) + content + b"\nendstream")
    objects.append(f"<< /Title ({title}) >>".encode())
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    trailer = b"trailer\n<< /Size %d /Root 1 0 R /Info %d 0 R %s >>" % (size, size - 1, encrypt)
    return out + b"xref\n0 %d\n0000000000 65535 f \n%s%s\nstartxref\n%d\n%%%%EOF\n" % (size, table, trailer, len(out))


def read(root: Path, path: str = "a.pdf", ledger: Ledger | None = None, **keys: object) -> list[Document]:
    return list(read_source(Source(path=path, **keys), 0, root, ledger if ledger is not None else Ledger()))  # type: ignore[arg-type]


def problem_of(root: Path, content: bytes, **keys: object) -> tuple[str, str, str]:
    (root / "a.pdf").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(root, **keys)
    (problem,) = caught.value.problems
    return problem.where, problem.what, problem.fix


def test_pages_become_one_document_with_their_places(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf(show("O Farense\njoga em Faro."), show("Três (3) golos"), title="O clube"))
    ledger = Ledger()
    (document,) = read(tmp_path, ledger=ledger)
    assert document.text == "O Farense\njoga em Faro.\n\nTrês (3) golos\n"
    assert (document.kind, document.title, document.meta["reader"]) == ("text", "O clube", "pypdf")
    assert json.loads(document.meta["pages"]) == {"1": 1, "4": 2}
    (entry,) = ledger.files
    assert (entry.chars_in, entry.chars_out, entry.balanced, ledger.skipped) == (31, 31, True, {})
    assert entry.sha256 == document.sha256


def test_a_line_of_the_text_is_told_as_its_page(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf(show("one\ntwo"), b"", show("three")))
    (document,) = read(tmp_path)
    in_file = file_lines(document, tmp_path)
    assert [in_file(line) for line in (1, 2, 3, 4)] == [1, 1, 1, 3]


def test_a_blank_page_is_listed_and_a_scanned_one_refused(tmp_path: Path) -> None:
    where, what, fix = problem_of(tmp_path, pdf(show("text"), b"", RECTANGLE, RECTANGLE))
    assert where == "a.pdf:3" and what == "no text layer: needs OCR: pages 3, 4 of 4 pages"
    assert "`on_scanned_page: drop` on sources.0" in fix and "afina[docling]" in fix
    ledger = Ledger()
    assert read(tmp_path, ledger=ledger, on_scanned_page="drop")[0].text == "text\n"
    assert ledger.skipped == {
        "a.pdf: page 2": "blank page",
        "a.pdf: page 3": "no text layer: needs OCR",
        "a.pdf: page 4": "no text layer: needs OCR",
    }


def test_a_file_of_scans_alone_is_refused_whatever_the_recipe_says(tmp_path: Path) -> None:
    where, what, fix = problem_of(tmp_path, pdf(RECTANGLE), on_scanned_page="drop")
    assert where == "a.pdf:1" and "page 1 of 1 pages" in what and "on_scanned_page" not in fix


def test_a_letter_that_has_no_character_is_seen_as_a_page_without_text(tmp_path: Path) -> None:
    """`Tj` shows something; where no text comes out of it the page is not blank."""
    assert "needs OCR" in problem_of(tmp_path, pdf(b"BT /F1 12 Tf (\\001) Tj ET"))[1]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "not a PDF, or damaged on page 1"),
        (b"%PDF-1.4\n", "not a PDF, or damaged on page 1"),
        (pdf(show("text"))[:-200], "not a PDF, or damaged"),
        (b"hello" * 100, "not a PDF, or damaged"),
        (pdf(show("text"), count=3), "it says that it has 3 pages, but 1 are there"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    where, said, fix = problem_of(tmp_path, content)
    assert where == "a.pdf" and what in said and fix


def test_an_encrypted_file_is_refused(tmp_path: Path) -> None:
    from pypdf import PdfReader, PdfWriter

    (tmp_path / "plain.pdf").write_bytes(pdf(show("secret")))
    writer = PdfWriter(clone_from=PdfReader(tmp_path / "plain.pdf"))
    writer.encrypt("password", algorithm="RC4-128")
    writer.write(tmp_path / "a.pdf")
    where, what, fix = problem_of(tmp_path, (tmp_path / "a.pdf").read_bytes())
    assert where == "a.pdf" and what.startswith("encrypted") and "password" in fix


def test_one_without_a_password_to_open_is_read(tmp_path: Path) -> None:
    from pypdf import PdfReader, PdfWriter

    (tmp_path / "plain.pdf").write_bytes(pdf(show("open")))
    writer = PdfWriter(clone_from=PdfReader(tmp_path / "plain.pdf"))
    writer.encrypt("", owner_password="owner", algorithm="RC4-128")
    writer.write(tmp_path / "a.pdf")
    assert read(tmp_path)[0].text == "open\n"


def test_a_mended_file_is_listed(tmp_path: Path) -> None:
    """A wrong place of the table of contents: pypdf finds the objects by itself, and says so."""
    content = pdf(show("text"))
    at = content.rindex(b"startxref\n") + 10
    (tmp_path / "a.pdf").write_bytes(content[:at] + b"7" + content[at:])
    ledger = Ledger()
    assert read(tmp_path, ledger=ledger)[0].text == "text\n"
    assert "a.pdf (read although damaged)" in ledger.skipped


@given(st.lists(st.text("ab (\\)é\n", max_size=30), min_size=1, max_size=4))
def test_every_character_is_counted(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    root = tmp_path_factory.mktemp("pdf")
    (root / "a.pdf").write_bytes(pdf(*(show(text) for text in texts)))
    ledger = Ledger()
    visible = "".join("".join(text.split()) for text in texts)
    if not visible:
        return
    (document,) = read(root, ledger=ledger, on_scanned_page="drop")
    (entry,) = ledger.files
    assert entry.balanced and entry.chars_in == len(visible)
    if not entry.dropped:
        assert "".join(document.text.split()) == visible


def at(x: float, y: float, text: str) -> bytes:
    """One line of text at a place."""
    escaped = text.replace("(", r"\(").replace(")", r"\)")
    return f"BT /F1 10 Tf {x} {y} Td ({escaped}) Tj ET\n".encode("cp1252")


LEFT = [
    "The harbour opened in the",
    "year 1931 with one quay of",
    "stone, and boats came for",
    "the tuna of the facto-",
]
RIGHT = [
    "ries, which closed when the",
    "fish stayed away. Today it",
    "has forty-two berths, and",
    "a night costs ten euros.",
]


def columns(*texts: list[str], places: tuple[float, ...] = (60, 320), top: float = 740) -> bytes:
    """A page that writes columns line across line."""
    rows = zip(*texts, strict=True)
    return b"".join(
        at(x, top - 14 * row, text) for row, line in enumerate(rows) for x, text in zip(places, line, strict=True)
    )


def whole(ledger: Ledger) -> dict[str, int]:
    (entry,) = ledger.files
    assert entry.balanced
    return entry.dropped


def test_columns_are_read_one_after_the_other_and_split_words_made_whole(tmp_path: Path) -> None:
    ledger = Ledger()
    (tmp_path / "a.pdf").write_bytes(pdf(columns(LEFT, RIGHT)))
    (document,) = read(tmp_path, ledger=ledger)
    whole_words = [*LEFT[:3], "the tuna of the factories,", "which closed when the", *RIGHT[1:]]
    assert document.text.split("\n") == [*whole_words, ""]
    assert whole(ledger) == {"hyphen of a split word": 1} and not ledger.skipped


def test_a_title_across_columns_stands_before_what_is_below_it(tmp_path: Path) -> None:
    title = at(60, 700, "What came of the harbour of Vela in the hundred years that followed upon its founding")
    page = columns(LEFT, RIGHT, top=780) + title + columns(LEFT, RIGHT, top=660)
    (tmp_path / "a.pdf").write_bytes(pdf(page))
    lines = read(tmp_path)[0].text.split("\n")
    assert lines.index("What came of the harbour of Vela in the hundred years that followed upon its founding") == 8
    assert lines[0] == lines[9] == LEFT[0] and lines[7] == lines[16] == RIGHT[3]


def test_three_columns_and_columns_that_the_file_has_in_order(tmp_path: Path) -> None:
    middle = [text.upper() for text in LEFT[:3]]
    page = columns(LEFT[:3], middle, RIGHT[:3], places=(40, 220, 400))
    in_order = b"".join(
        at(x, 740 - 14 * row, text) for x, texts in ((60, LEFT), (320, RIGHT)) for row, text in enumerate(texts)
    )
    (tmp_path / "a.pdf").write_bytes(pdf(page))
    assert read(tmp_path)[0].text.split("\n") == [*LEFT[:3], *middle, *RIGHT[:3], ""]
    (tmp_path / "b.pdf").write_bytes(pdf(in_order))
    assert "factories,\nwhich closed" in read(tmp_path, "b.pdf")[0].text


def test_a_table_is_not_taken_for_columns_and_that_is_said(tmp_path: Path) -> None:
    ledger = Ledger()
    ports, waters = ["Port", "Faro", "Lagos", "Tavira"], ["High water", "14:20", "15:02", "14:35"]
    (tmp_path / "a.pdf").write_bytes(pdf(columns(ports, waters, places=(60, 200))))
    assert "Faro 14:20" in read(tmp_path, ledger=ledger)[0].text
    ((place, reason),) = ledger.skipped.items()
    assert place == "a.pdf (order not certain)" and "on page 1" in reason and "afina[docling]" in reason


def test_a_list_is_no_table(tmp_path: Path) -> None:
    ledger = Ledger()
    page = b"".join(
        at(60, 740 - 14 * row, f"{row + 1}.") + at(80, 740 - 14 * row, text) for row, text in enumerate(LEFT)
    )
    (tmp_path / "a.pdf").write_bytes(pdf(page))
    assert read(tmp_path, ledger=ledger)[0].text.startswith("1. The harbour") and not ledger.skipped


def page_of(number: int, *texts: str, header: str = "Vela Harbour Handbook") -> bytes:
    body = b"".join(at(60, 740 - 14 * row, text) for row, text in enumerate(texts))
    return at(60, 800, header) + body + at(290, 40, f"Page {number} of 3")


def test_running_headers_and_page_numbers_are_left_out_and_counted(tmp_path: Path) -> None:
    ledger = Ledger()
    texts = [("Boats come.", "Same line."), ("They go.", "Same line."), ("The tide turns.", "Same line.")]
    (tmp_path / "a.pdf").write_bytes(pdf(*(page_of(number, *lines) for number, lines in enumerate(texts, start=1))))
    (document,) = read(tmp_path, ledger=ledger)
    assert document.text == "\n\n".join("\n".join(lines) for lines in texts) + "\n"
    assert whole(ledger) == {"running header, footer or page number": 3 * len("VelaHarbourHandbookPage1of3")}


@pytest.mark.parametrize(
    "pages",
    [
        [page_of(1, "One.", "Two."), page_of(2, "Three.", "Four.")],  # two pages do not tell
        [at(60, 800 - 9 * number, "Vela") + at(60, 740, "Text.") for number in range(3)],  # never at one place
        [
            at(60, 740, year) + at(60, 700, f"{word}.") + at(60, 686, word * 2)  # numbers that do not count pages
            for year, word in (("1931", "quay"), ("1950", "boat"), ("1972", "fish"))
        ],
        [at(60, 740, "Certificate")] * 3,  # nothing else on the page
        [at(60, 740, "Dear reader,") + at(60, 726, "this is one.") + at(60, 712, "Yours.")] * 3,  # no distance
    ],
)
def test_what_may_be_text_of_the_page_stays(tmp_path: Path, pages: list[bytes]) -> None:
    ledger = Ledger()
    (tmp_path / "a.pdf").write_bytes(pdf(*pages))
    read(tmp_path, ledger=ledger)
    assert whole(ledger) == {}


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("the facto-\nries here", "the factories\nhere"),
        ("the facto-\nries.\nNext", "the factories.\nNext"),
        ("a well-\nknown port, as well-known as", "a well-known\nport, as well-known as"),
        ("ele fez-\nse ao mar; quando fez isso se foi", "ele fez-se\nao mar; quando fez isso se foi"),
        ("a clas-\nse inteira", "a classe\ninteira"),
        ("the Faro-\nLagos line", "the Faro-\nLagos line"),
        ("pages 3-\n4 and a -\nb", "pages 3-\n4 and a -\nb"),
        ("read-only; a read-\nonly file", "read-only; a read-only\nfile"),
    ],
)
def test_split_words(tmp_path: Path, text: str, joined: str) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf(show(text)))
    assert read(tmp_path)[0].text == joined + "\n"


def test_the_reader_is_among_the_inputs_of_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf(show("text")))
    (tmp_path / "b.md").write_text("B")
    inputs = dataset_inputs(recipe(tmp_path, "."))
    assert inputs["readers"][".pdf"].startswith("pypdf ") and set(inputs["files"]) == {"a.pdf", "b.md"}
    (tmp_path / "a.pdf").unlink()
    assert "readers" not in dataset_inputs(recipe(tmp_path, "."))


def recipe(root: Path, path: str) -> Recipe:
    return Recipe(name="x", root=str(root), base="b", sources=[Source(path=path)])


def test_a_folder_gives_its_pdf_files_and_text_does_not_take_them(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf(show("text")))
    (tmp_path / "b.txt").write_text("B")
    assert [document.path for document in read(tmp_path, ".")] == ["a.pdf", "b.txt"]
    ledger = Ledger()
    assert [document.path for document in read(tmp_path, ".", ledger, kind="text")] == ["b.txt"]
    assert ledger.skipped == {"a.pdf": "binary by its ending .pdf"}
    assert [document.path for document in read(tmp_path, ".", kind="pdf")] == ["a.pdf"]
    with pytest.raises(DataError, match=r"a\.pdf: a \.pdf file is not text"):
        read(tmp_path, "a.pdf", kind="markdown")


# ---- docling, played by a module of our own with the names that it has in 2.143


class FakeDocument:
    """`DoclingDocument`: pages by number, Markdown of one page or of all."""

    def __init__(self, pages: dict[int, str], whole: str = "") -> None:
        self.pages = {number: object() for number in pages}
        self.texts, self.whole, self.asked = pages, whole, []  # type: ignore[var-annotated]

    def export_to_markdown(
        self, *, page_no: int | None = None, escape_html: bool, escape_underscores: bool, image_placeholder: str
    ) -> str:
        assert not escape_html and not escape_underscores and image_placeholder == ""
        self.asked.append(page_no)
        return self.whole if page_no is None else self.texts[page_no]


@pytest.fixture
def docling(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    seen = SimpleNamespace(calls=[], made=0, result=None)

    class DocumentConverter:
        def __init__(self) -> None:
            seen.made += 1

        def convert(self, source: Path, *, raises_on_error: bool) -> SimpleNamespace:
            assert not raises_on_error
            seen.calls.append(source.name)
            if isinstance(seen.result, Exception):
                raise seen.result
            return seen.result

    package, inner = ModuleType("docling"), ModuleType("docling.document_converter")
    package.__spec__, package.__path__ = ModuleSpec("docling", None, origin="a fake"), []  # type: ignore[attr-defined]
    inner.DocumentConverter = DocumentConverter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "docling", package)
    monkeypatch.setitem(sys.modules, "docling.document_converter", inner)
    for module in ("afina.sources", "afina.sources.parsers"):
        monkeypatch.setattr(f"{module}.has_docling", has_docling)
    parsers._converter.cache_clear()
    yield seen
    parsers._converter.cache_clear()


def converted(document: FakeDocument, status: str = "success", errors: tuple[str, ...] = ()) -> SimpleNamespace:
    said = [SimpleNamespace(error_message=error) for error in errors]
    return SimpleNamespace(status=SimpleNamespace(value=status), errors=said, document=document)


def test_docling_reads_where_it_is_installed(tmp_path: Path, docling: SimpleNamespace) -> None:
    (tmp_path / "a.pdf").write_bytes(b"anything")
    (tmp_path / "b.docx").write_bytes(b"anything")
    docling.result = converted(FakeDocument({1: "# Title\n\none", 2: "", 3: "three"}))
    ledger = Ledger()
    (document,) = read(tmp_path, ledger=ledger)
    assert (document.text, document.title, document.kind) == ("# Title\n\none\n\nthree\n", "Title", "markdown")
    assert json.loads(document.meta["pages"]) == {"1": 1, "5": 3} and document.meta["reader"] == "docling"
    assert ledger.files[0].balanced and ledger.skipped == {"a.pdf: page 2": "no text found by docling"}
    docling.result = converted(FakeDocument({}, "# Word"))
    assert read(tmp_path, "b.docx")[0].text == "# Word\n"
    assert docling.calls == ["a.pdf", "b.docx"] and docling.made == 1
    assert dataset_inputs(recipe(tmp_path, "."))["readers"] == {".docx": "docling", ".pdf": "docling"}


def test_what_docling_reads_in_part_is_refused(tmp_path: Path, docling: SimpleNamespace) -> None:
    docling.result = converted(FakeDocument({1: "x"}), "partial_success", ("page 2: no memory",))
    _, what, _ = problem_of(tmp_path, b"anything")
    assert what == "docling could not read it whole (partial_success): page 2: no memory"
    docling.result = RuntimeError("no model")
    assert problem_of(tmp_path, b"anything")[1] == "docling: RuntimeError: no model"


def test_docling_that_cannot_be_loaded_is_named(
    tmp_path: Path, docling: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "docling.document_converter", None)
    assert problem_of(tmp_path, b"anything")[1].startswith("docling cannot be loaded")


def test_a_folder_called_docling_is_not_docling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docling").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "docling", raising=False)
    assert not has_docling()
