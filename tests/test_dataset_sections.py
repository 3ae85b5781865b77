"""Sections: by hand, as a property, and on a real manual."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import times

from afina.recipe import Source
from afina.sources import Document, Ledger, read_source
from afina.text.sections import split_sections

SHARED = Path(__file__).parents[2] / "shared" / "data"


def page(text: str, kind: str = "markdown", title: str = "") -> Document:
    return Document("page.md", "0" * 64, kind=kind, text=text, title=title)  # type: ignore[arg-type]


def squeezed(text: str) -> str:
    return "".join(text.split())


def test_headings_make_paths_and_lines():
    text = (
        "Before.\n\n# Manual\n\nIntro.\n\n## Comments\n\nTwo kinds.\n\n### Doc Comments\n\nOne.\n\n## Values\n\nMany.\n"
    )
    assert [(part.heading, part.line) for part in split_sections(page(text), 1000)] == [
        ("", 1),
        ("Manual", 3),
        ("Manual > Comments", 7),
        ("Manual > Comments > Doc Comments", 11),
        ("Manual > Values", 15),
    ]


def test_text_is_verbatim_and_context_is_only_put_where_it_is_missing():
    first, second = split_sections(page("# A\n\n*One* `x`.\n\n## B `c`\n\nTwo.\n"), 1000)
    assert (first.text, first.context) == ("# A\n\n*One* `x`.", "")
    assert (second.text, second.context) == ("## B `c`\n\nTwo.", "A > B c\n\n")


def test_the_documents_title_comes_first_once():
    assert [part.heading for part in split_sections(page("# A\n\nOne.", title="Manual"), 99)] == ["Manual > A"]
    assert [part.heading for part in split_sections(page("# Manual\n\nOne.", title="Manual"), 99)] == ["Manual"]
    side_by_side = page("## First\n\nOne.\n\n## Second\n\nTwo.", title="First")
    assert [part.heading for part in split_sections(side_by_side, 99)] == ["First", "Second"]


def test_a_hash_inside_a_fence_is_no_heading():
    text = "# A\n\n```sh\n# not a heading\n\n## nor this\n```\n\nEnd.\n"
    assert [part.text for part in split_sections(page(text), 1000)] == [text.strip()]


def test_setext_headings():
    text = "Manual\n======\n\nIntro.\n\nComments\n--------\n\nOf two kinds.\n"
    assert [part.heading for part in split_sections(page(text), 1000)] == ["Manual", "Manual > Comments"]


def test_a_heading_with_nothing_below_goes_with_the_next():
    parts = split_sections(page("# Manual\n\n## Comments\n\nTwo kinds.\n\n## Empty\n"), 1000)
    assert [(part.heading, part.text) for part in parts] == [
        ("Manual > Comments", "# Manual\n\n## Comments\n\nTwo kinds.\n\n## Empty")
    ]
    assert parts[0].context == ""


def test_paragraphs_then_sentences_then_words_then_characters():
    paragraphs = page("# A\n\nOne one one.\n\nTwo two two.\n")
    assert [part.text for part in split_sections(paragraphs, 18)] == ["# A\n\nOne one one.", "Two two two."]
    sentences = page("One one one. Two two two. Three.", kind="text")
    assert [part.text for part in split_sections(sentences, 14)] == ["One one one.", "Two two two.", "Three."]
    words = page("one two three four", kind="text")
    assert [part.text for part in split_sections(words, 9)] == ["one two", "three", "four"]
    assert [part.text for part in split_sections(page("abcdefgh", kind="text"), 3)] == ["abc", "def", "gh"]


def test_only_the_first_part_of_a_section_begins_with_its_heading():
    parts = split_sections(page("# A\n\nOne one one.\n\nTwo two two.\n"), 18)
    assert [part.context for part in parts] == ["", "A\n\n"]
    assert [part.line for part in parts] == [1, 5]


def test_a_list_is_cut_between_items_and_a_table_between_rows():
    items = page("- one one\n- two two\n  more\n- three\n")
    assert [part.text for part in split_sections(items, 19)] == ["- one one", "- two two\n  more", "- three"]
    table = page("| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n")
    assert [part.text for part in split_sections(table, 22)] == ["| a | b |\n|---|---|", "| 1 | 2 |\n| 3 | 4 |"]


@pytest.mark.parametrize("before", ["", "# A\n\n", "Text.\n\n"])
def test_code_is_never_cut_even_where_it_is_too_long(before: str):
    code = "```zig\n" + "const x = 1;\n\n" * 20 + "```"
    parts = split_sections(page(f"{before}{code}\n\nAfter it.\n"), 50)
    assert [part.text for part in parts if len(part.text) > 50] == [(before if before == "# A\n\n" else "") + code]


def test_code_inside_a_list_is_not_cut_either():
    code = "  ```\n" + "  let x = 1;\n" * 9 + "  ```"
    parts = split_sections(page(f"- one:\n\n{code}\n- two\n"), 40)
    assert code in [part.text for part in parts]


def test_a_code_file_is_cut_between_definitions():
    source = "import a\n\ndef f():\n    x = 1\n\n    return x\n\ndef g():\n    pass\n"
    whole = split_sections(page(source, kind="code", title="a.py"), 1000)
    assert [(part.text, part.context) for part in whole] == [(source.strip(), "")]
    parts = split_sections(page(source, kind="code", title="a.py"), 40)
    assert [part.text for part in parts] == [
        "import a",
        "def f():\n    x = 1\n\n    return x",
        "def g():\n    pass",
    ]
    assert [part.line for part in parts] == [1, 3, 8]
    lines = split_sections(page(source, kind="code"), 12)
    assert [part.text for part in lines][1:3] == ["def f():", "    x = 1"]


def test_a_caption_stays_with_its_code():
    parts = split_sections(page("Some text here.\n\nmain.zig\n```zig\nconst x = 1;\n```\n"), 30)
    assert [part.text for part in parts] == ["Some text here.", "main.zig\n```zig\nconst x = 1;\n```"]


PIECES = ["# A", "## B b", "T\n=", "word. Next", "```\n# x\n```", "~~~", "- i", "  - j", "1. k", "> q", "| a | b |",
          "|---|---|", "    code", "<div>", "[r]: /u", "ção 🦁", "\t", "\r\n", "\r", "\f", "\x85", "---", "\0",
          "x" * 30]  # fmt: skip


@settings(max_examples=times(100, 300), deadline=None)
@given(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=12), max_size=25).map("\n".join)
    | st.lists(st.sampled_from(PIECES), max_size=25).map("\n\n".join),
    st.integers(1, 60),
    st.sampled_from(["markdown", "text", "code"]),
    st.sampled_from(["", "Manual"]),
)
def test_no_visible_character_is_lost_doubled_or_moved(text: str, max_chars: int, kind: str, title: str):
    parts = split_sections(page(text, kind, title), max_chars)
    assert squeezed("".join(part.text for part in parts)) == squeezed(text)
    assert all(part.text.strip() for part in parts)
    assert all(first.line <= second.line for first, second in pairwise(parts))
    if kind == "text":
        assert all(len(part.text) <= max_chars for part in parts)


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")
@pytest.mark.parametrize("max_chars", [400, pytest.param(2048, marks=pytest.mark.long)])
def test_the_zig_manual(max_chars: int):
    (manual,) = read_source(Source(path="documentation-0.14.0.html"), 0, SHARED / "zig", Ledger())
    parts = split_sections(manual, max_chars)
    assert squeezed("".join(part.text for part in parts)) == squeezed(manual.text)
    headings = {part.heading for part in parts}
    assert "Zig Language Reference > Comments > Doc Comments" in headings and len(headings) > 150
    for part in parts:
        if len(part.text) > max_chars:
            # One code block and what stands right above it: headings, a caption.
            above, code = re.split(r"^(?=```)", part.text, maxsplit=1, flags=re.MULTILINE)
            assert code.endswith("```") and code.count("\n```") == 1
            assert all(line.startswith("#") for line in above.split("\n")[:-2] if line)
