"""The table of formats: no row is wrong, nothing lists the kinds again, and what depends on a kind asks the table."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from parsed import FILES, nodes_of, tree_of

from afina.dataset.audit.one_example import fragment, is_prose
from afina.dataset.build.groups import Groups
from afina.dataset.build.spool import ExampleColumns
from afina.dataset.questions.teacher import sections_of
from afina.plan.tokens import estimate_tokens
from afina.recipe import Recipe
from afina.text.code_blocks import example_blocks
from afina.text.document import Document
from afina.text.example import Example
from afina.text.formats import (
    BINARY,
    COMPRESSED,
    CONVERT,
    FORMATS,
    KINDS,
    LANGUAGES,
    ROW_FORMATS,
    Format,
    file_of,
    format_of,
    kind_of,
    language_of,
    load_function,
    names_of,
)
from afina.text.lines import file_lines

ROOT = Path(__file__).resolve().parent.parent


def faults(formats: Sequence[Format]) -> list[str]:
    """What is wrong with a table of formats."""
    found = []
    known = [(each, "code") for each in LANGUAGES]
    known += [(each, row.name) for row in formats if row.kind != "code" for each in row.endings]
    known += [(each, "binary") for each in (*BINARY, *CONVERT, *COMPRESSED)]
    seen: dict[str, str] = {}
    for each, owner in known:
        if each in seen:
            found.append(f"{each} belongs to {seen[each]} and to {owner}")
        if not re.fullmatch(r"\.[a-z0-9]+", each):
            found.append(f"{owner}: {each} is no ending in lower case")
        seen[each] = owner
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for row in formats:
        for name in (row.reader, row.rows):
            try:
                assert not name or callable(load_function(name))
            except (ImportError, AttributeError, ValueError, AssertionError) as error:
                found.append(f"{row.name}: {name}: {type(error).__name__}")
        if bool(row.rows) != (row.gives == "rows") or (row.packed and not row.opens) or not row.reader:
            found.append(f"{row.name}: rows, packed, opens and gives do not agree")
        if row.extra and row.extra not in extras:
            found.append(f"{row.name}: there is no extra {row.extra}")
    found += [f"{kind} has no format" for kind in KINDS if kind not in {row.kind for row in formats}]
    types = [each for row in formats for each in row.content_types]
    return [*found, *(f"{each} is given twice" for each in set(types) if types.count(each) > 1)]


def test_the_table_has_no_fault() -> None:
    assert faults(FORMATS) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"reader": "afina.sources.markdown:read_markdwon"},
            "Markdown: afina.sources.markdown:read_markdwon: Attribute",
        ),
        ({"reader": "afina.sources.marcdown:read_markdown"}, "Markdown: afina.sources.marcdown:read_markdown: Module"),
        ({"endings": (".md", ".txt")}, ".txt belongs to Markdown and to plain text"),
        ({"endings": (".md", ".py")}, ".py belongs to code and to Markdown"),
        ({"endings": (".md", ".png")}, ".png belongs to Markdown and to binary"),
        ({"endings": (".MD",)}, "Markdown: .MD is no ending in lower case"),
        ({"extra": "parqet"}, "Markdown: there is no extra parqet"),
        ({"gives": "rows"}, "Markdown: rows, packed, opens and gives do not agree"),
        ({"content_types": ("text/html",)}, "text/html is given twice"),
    ],
)
def test_a_wrong_row_of_the_table_is_noticed(change: dict, said: str) -> None:
    others = [row for row in FORMATS[1:] if row.kind != "markdown"]  # the first row stands alone for its kind
    changed = (replace(FORMATS[0], **change), *others)
    assert any(fault.startswith(said) for fault in faults(changed)), faults(changed)


def test_a_kind_without_a_format_is_noticed() -> None:
    assert faults([row for row in FORMATS if row.kind != "epub"]) == ["epub has no format"]


def test_every_ending_leads_to_its_format() -> None:
    for row in FORMATS:
        for each in row.endings:
            assert format_of(f"folder/A name{each.upper()}") == row and kind_of(f"x{each}") == row.kind
    assert len({each for row in FORMATS for each in row.endings}) > 80


def test_no_other_module_lists_endings() -> None:
    """`".pdf"` in another file of the package is a second table. Files that we write ourselves are not sources; MDX is
    told from Markdown by its ending, and `repository` knows which names are generated ones."""
    own = {
        ".md",
        ".json",
        ".jsonl",
        ".toml",
        ".yaml",
        ".yml",
        ".py",
        ".html",
        ".sh",
        ".txt",
        ".text",
        ".xml",
        ".mdx",
        ".js",
    }
    listed = {each for row in FORMATS for each in row.endings} - own
    found = []
    for file in FILES:
        if file.stem in (
            "formats",
            "compilers",
            "repository",
        ):  # the table; and the ending that each compiler wants for its input
            continue
        for node in nodes_of(tree_of(file)):
            if isinstance(node, ast.Constant) and node.value in listed:
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}: {node.value}")
    assert found == []


def test_the_docs_name_every_format() -> None:
    """Once where they say what a dataset comes from, and once in the map of the package."""
    page = (ROOT / "docs/sources.md").read_text("utf-8")
    (said,) = re.findall(r"You can make a dataset from almost anything: (.*?)\n\n", page, re.DOTALL)
    (shown,) = re.findall(
        r"^ +sources/ +(.*)->  documents", (ROOT / "docs/architecture.md").read_text("utf-8"), re.MULTILINE
    )
    for row in FORMATS:
        name = "text" if row.kind == "text" else "rows" if row.gives == "rows" else row.name
        assert re.search(rf"\b{name}\b", said) and re.search(rf"\b{name}\b", shown), row.name
        assert not row.extra or re.search(rf"^\| .*`{row.extra}`.*{row.name}", page, re.MULTILINE), row.extra


def test_the_command_line_names_every_format_of_rows() -> None:
    assert f"Rows with outputs: {names_of(ROW_FORMATS)}." in (ROOT / "docs/cli.md").read_text("utf-8")


# ---- what forgot a kind, while each kept a list of its own


def test_pdf_and_word_are_prose() -> None:
    """The checks of prose passed over them: a section cut in the middle of a sentence was not seen."""
    torn = "and so the club of the town went on to the second league of the"
    for name, prose in [("a.md", True), ("a.pdf", True), ("a.docx", True), ("a.csv", True), ("a.zig", False)]:
        example = Example(text=torn, path=name)
        assert (is_prose(example), fragment(example) is not None) == (prose, prose), name


def test_word_is_asked_about_as_markdown() -> None:
    """A teacher was asked about a whole Word file as one text without headings."""
    recipe = Recipe(name="x", base="a/b", sources=[{"path": "a.docx"}], train={"method": "cpt"})  # type: ignore[list-item, arg-type]
    text = "# One\n\nFaro lies in the south.\n\n# Two\n\nThe club was founded in 1910.\n"
    for name in ("a.md", "a.html", "a.docx"):
        found = list(sections_of(recipe, [Example(text=text, path=name)]))
        assert [example.heading for example in found] == ["One", "Two"], name


@pytest.mark.parametrize("name", ["a.html", "a.pdf", "a.docx", "a.jsonl"])
def test_a_line_of_a_converted_text_is_no_line_of_its_file(name: str) -> None:
    """Code on the fourth line of a text from page 7 was placed on page 10."""
    (block,) = example_blocks(Example(text="Look:\n\n```zig\nconst a = 1;\n```", path=name, line=7))
    assert block.line == 7
    (block,) = example_blocks(Example(text="Look:\n\n```zig\nconst a = 1;\n```", path="a.md", line=7))
    assert block.line == 10


def test_rows_are_rows_whatever_their_format(tmp_path: Path) -> None:
    """A plan took CSV for prose, of which every token is learned."""
    found = {}
    for name in ("a.jsonl", "a.csv"):
        (tmp_path / name).write_bytes(b"x" * 7_000)
        recipe = Recipe(name="x", base="a/b", root=str(tmp_path), sources=[{"path": name}])
        counted = estimate_tokens(recipe)
        found[name] = counted.targets / counted.tokens
    assert found == pytest.approx({"a.jsonl": 0.5, "a.csv": 0.5}, abs=0.01)


# ---- a place inside a packed file


def test_what_lies_in_a_packed_file_counts_as_that_file() -> None:
    """`split_by: file` holds out a file whole, however many documents it gave."""
    inside = "d/book.docx!/word/document.xml"
    assert (kind_of(inside), file_of(inside), language_of("d/a.docx!/makefile")) == ("docx", "d/book.docx", None)
    groups = Groups()
    for name in (inside, "d/book.docx!/word/notes.xml", "d/other.docx"):
        groups.add(Document(name, "0" * 64, kind="markdown", title=name, text="x"), [])
    columns = ExampleColumns()
    for name in (inside, "d/book.docx!/word/notes.xml", "d/other.docx"):
        columns.add(Example(text="x", path=name), 0)
    one, same, other = groups.keys(columns, [0, 1, 2], [0, 1, 2])
    assert one == same != other


def test_a_reader_may_say_the_lines_itself() -> None:
    document = Document("a.docx!/x", "0" * 64, kind="markdown", text="a\n\nb\n", meta={"lines": '{"1": 6, "3": 20}'})
    assert [file_lines(document, ROOT)(line) for line in (1, 2, 3, 9)] == [6, 6, 20, 20]
