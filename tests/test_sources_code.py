"""Code: what a file says about itself, and what it defines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afina.recipe import Source
from afina.sources import Document, Ledger, definitions, read_source
from afina.sources.definitions import describe_code, head_comment

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")


def needs_grammar(language: str) -> None:
    for module in ("tree_sitter", definitions._GRAMMARS[language].module):
        pytest.importorskip(module, reason="needs afina[code]")


def read(root: Path, path: str, ledger: Ledger | None = None) -> list[Document]:
    return list(read_source(Source(path=path), 0, root, ledger if ledger is not None else Ledger()))


PYTHON = '''\
"""Counts goals."""
import re

@decorated
class Club(Base, metaclass=Meta):
    """A club."""

    def goals(self, year: int, *, home=True) -> int:
        """Goals of a year."""
        return 3

async def load():
    pass
'''


def test_python_by_its_own_parser(tmp_path: Path) -> None:
    (tmp_path / "club.py").write_text(PYTHON)
    (document,) = read(tmp_path, "club.py")
    assert document.meta["doc"] == "Counts goals." and document.text == PYTHON
    assert json.loads(document.meta["items"]) == [
        {
            "name": "Club", "line": 4, "end_line": 10, "signature": "class Club(Base, Meta)", "doc": "A club.",
        },
        {
            "name": "Club.goals", "line": 8, "end_line": 10, "doc": "Goals of a year.",
            "signature": "def goals(self, year: int, *, home=True) -> int",
        },
        {"name": "load", "line": 12, "end_line": 13, "signature": "async def load()", "doc": ""},
    ]  # fmt: skip


def test_python_that_does_not_parse_still_has_its_head() -> None:
    assert describe_code("# Prints.\nprint 'old'\n", "python") == ("Prints.", [])
    assert describe_code("def _a():\n    'private'\ndef b():\n    'Does b.'\n", "python").doc == "Does b."


ZIG = """\
//! Keeps a list.
//!
//! And sorts it.

const std = @import("std");

/// A list.
pub const List = struct {
    len: usize,

    /// Puts one in.
    pub fn put(self: *List, item: u8) !void {
        _ = item;
    }
};

// no doc comment
fn helper() void {}
"""


def test_zig_by_tree_sitter() -> None:
    needs_grammar("zig")
    found = describe_code(ZIG, "zig")
    assert found.doc == "Keeps a list.\n\nAnd sorts it."
    assert [(item["name"], item["line"], item["end_line"], item["doc"]) for item in found.items] == [
        ("List", 8, 15, "A list."),
        ("List.put", 12, 14, "Puts one in."),
        ("helper", 18, 18, ""),
    ]
    assert found.items[1]["signature"] == "pub fn put(self: *List, item: u8) !void"


def test_the_first_public_definition_speaks_for_a_file_that_does_not() -> None:
    needs_grammar("zig")
    text = "/// Private.\nfn a() void {}\n\n/// Does b.\npub fn b() void {}\n"
    assert describe_code(text, "zig").doc == "Does b."


@pytest.mark.parametrize(
    ("language", "text", "doc", "names"),
    [
        ("rust", "//! Points.\n/// A point.\n#[derive(Debug)]\npub struct P {}\nimpl P {\n    /// New.\n"
         "    fn new() {}\n}\n",
         "Points.", [("P", "A point."), ("P.new", "New.")]),
        ("go", "// Package a adds.\npackage a\n\n// Add adds.\nfunc Add(a int) int { return a }\n\n// far\n\n"
         "type T struct{}\n",
         "Package a adds.", [("Add", "Add adds."), ("T", "")]),
        ("c", "/* Adds. */\nstatic int *add(int a) { return 0; } // behind\nstruct s { int a; };\n",
         "Adds.", [("add", "Adds."), ("s", "")]),
        ("javascript", "/** Adds. */\nexport function add(a) {}\nclass K {\n  /** Goes. */\n  go() {}\n}\n",
         "Adds.", [("add", "Adds."), ("K", ""), ("K.go", "Goes.")]),
    ],
)  # fmt: skip
def test_other_languages(language: str, text: str, doc: str, names: list[tuple[str, str]]) -> None:
    needs_grammar(language)
    found = describe_code(text, language)
    assert found.doc == doc and [(item["name"], item["doc"]) for item in found.items] == names


def test_without_a_grammar_the_head_is_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definitions, "_parser", lambda module: None)
    assert describe_code(ZIG, "zig") == ("Keeps a list.\n\nAnd sorts it.", [])


@pytest.mark.parametrize(
    ("language", "text", "doc"),
    [
        ("sh", "#!/bin/sh\n\n# Copyright me\n\n# Sorts.\nsort\n", "Sorts."),
        ("java", "/*\n * Licensed under MIT.\n */\n/**\n * Adds.\n *   two\n */\nclass A {}", "Adds.\n  two"),
        ("lua", "-- Adds.\nlocal a", "Adds."),
        ("scheme", ";; Adds.\n(a)", "Adds."),
        ("java", "class A {} // not the head", ""),
        ("java", "/* never closed\nclass A", "never closed\nclass A"),
    ],
)
def test_the_head_of_a_file(language: str, text: str, doc: str) -> None:
    assert head_comment(text, language) == doc


@given(st.text("/*!#-; \nab\"'{}()", max_size=60), st.sampled_from(["python", "zig", "rust", "c", "go", "sh", "lua"]))
def test_any_text_is_described(text: str, language: str) -> None:
    """Whatever stands in a file: no failure, and lines that exist."""
    lines = text.count("\n") + 1
    assert all(1 <= item["line"] <= item["end_line"] <= lines for item in describe_code(text, language).items)


@needs_shared
def test_the_cookbook() -> None:
    needs_grammar("zig")
    ledger = Ledger()
    found = {Path(each.path).stem: each for each in read(SHARED, "zig/cookbook/src/*.zig", ledger)}
    assert len(found) == 35 and all(entry.balanced for entry in ledger.files)
    assert found["01-03"].meta["doc"] == "Find files that have been modified in the last 24 hours"
    assert found["04-01"].meta["doc"].startswith("Start a TCP server at an unused port.\n\nTest with\n")
    items = {stem: json.loads(each.meta["items"]) for stem, each in found.items()}
    assert all("main" in [item["name"] for item in each] for each in items.values())
    assert [item["name"] for item in items["07-02"]] == ["SharedData", "SharedData.updateValue", "main"]


def test_our_own_files() -> None:
    """Every file of this package has a docstring, and `ast` finds it."""
    root = Path(__file__).parents[1]
    found = [each for each in read(root, "afina/sources") if each.path.endswith(".py")]
    assert len(found) > 15 and all(each.meta["doc"] for each in found)
