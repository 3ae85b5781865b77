"""Markdown with front matter and includes; problem/solution pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afina.errors import DataError, RecipeError
from afina.recipe import Source
from afina.sources import Document, Ledger, read_source
from afina.sources.code import fence

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")


def read(root: Path, path: str, ledger: Ledger, **keys: object) -> list[Document]:
    documents = list(read_source(Source(path=path, **keys), 0, root, ledger))  # type: ignore[arg-type]
    assert all(entry.balanced for entry in ledger.files)
    return documents


def put(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")


def test_front_matter_is_counted_and_the_lines_stay_right(tmp_path: Path) -> None:
    put(tmp_path, {"a.md": "---\ntitle: T\n---\n# Head\n\ntext <!-- note -->\n"})
    ledger = Ledger()
    (document,) = read(tmp_path, "a.md", ledger)
    assert (document.text, document.line, document.title) == ("# Head\n\ntext\n", 4, "Head")
    assert ledger.files[0].dropped == {"front matter": len("---title:T---"), "comment": len("<!--note-->")}


def test_includes_are_resolved_and_get_a_ledger_of_their_own(tmp_path: Path) -> None:
    put(tmp_path, {"book/a.md": "A\n{{#include ../src/x.zig:2 }}\n{{#include b.md}}\n\\{{#include no}}\n"})
    put(tmp_path, {"src/x.zig": "one\ntwo\nthree\n", "book/b.md": "B {{#include c.txt}}\n", "book/c.txt": "C\n"})
    ledger = Ledger()
    (document,) = read(tmp_path, "book/a.md", ledger)
    assert document.text == "A\ntwo\nB C\n\\{{#include no}}\n"
    assert [entry.path for entry in ledger.files] == ["book/a.md", "src/x.zig", "book/b.md", "book/c.txt"]
    assert ledger.files[1].dropped == {"outside the included lines": 8, "included in book/a.md": 3}


def test_broken_includes_say_where_all_at_once(tmp_path: Path) -> None:
    put(tmp_path, {"book/a.md": "A\n\n{{#include no.md}}\n{{#include a.md}}\n{{#include ../../../../../etc/hostname}}"})
    with pytest.raises(DataError) as caught:
        read(tmp_path, "book/a.md", Ledger())
    assert [problem.where for problem in caught.value.problems[:2]] == ["book/a.md:3", "book/a.md:4"]
    assert "'no.md' does not exist" in str(caught.value) and "includes itself" in str(caught.value)
    assert len(caught.value.problems) == 3


@given(st.text(alphabet="`a\n", max_size=30))
def test_a_fence_is_longer_than_any_run_inside(code: str) -> None:
    opening, closing = fence(code, "zig")
    assert closing not in code and opening == closing + "zig" and len(closing) >= 3


PAIRS = {
    "p/01-a.md": "# One\n\nDo it.\n\n```zig\n{{#include ../s/01.zig }}\n```\n",
    "p/02-b.md": "# Two\n\n```\n{{#include ../s/01.zig}}\n```\n\n```sh\nzig run\n```\n",
    "p/03-c.md": "# Three\n{{#include ../s/03.zig}}\n",
    "p/intro.md": "Intro",
    "s/01.zig": "one\n",
    "s/02.zig": "// ```\ntwo\n",
    "s/04.zig": "four\n",
}


def test_pairs_are_matched_and_what_stays_alone_is_listed(tmp_path: Path) -> None:
    put(tmp_path, PAIRS)
    ledger = Ledger()
    first, second = read(tmp_path, "p", ledger, kind="pairs", solutions="s", stem=r"^(\d+)")
    assert [message["content"] for message in first.messages] == ["# One\n\nDo it.", "```zig\none\n```"]
    assert [message["content"] for message in second.messages] == [
        "# Two\n\n```sh\nzig run\n```",
        "````zig\n// ```\ntwo\n````",
    ]
    assert first.meta["solution"] == "s/01.zig" and first.meta["language"] == "zig" and first.title == "One"
    assert ledger.skipped == {
        "p/03-c.md": "problem 03 has no solution",
        "p/intro.md": r"problem: no match of stem '^(\\d+)'",
        "s/04.zig": "solution 04 has no problem",
    }
    dropped = {entry.path: entry.dropped for entry in ledger.files if entry.dropped}
    assert set(dropped["p/01-a.md"]) == {"include of the solution", "empty fence"}
    assert set(dropped["p/02-b.md"]) == {"include of another solution", "empty fence"}


def test_problem_and_solution_may_share_a_folder(tmp_path: Path) -> None:
    put(tmp_path, {"d/01.md": "# One", "d/01.py": "1"})
    ledger = Ledger()
    (document,) = read(tmp_path, "d", ledger, kind="pairs", solutions="d", stem=r"^(\d+)")
    assert document.messages[1]["content"] == "```python\n1\n```" and not ledger.skipped


def test_two_solutions_none_matched_and_a_broken_pattern(tmp_path: Path) -> None:
    put(tmp_path, PAIRS)
    with pytest.raises(DataError) as caught:
        read(tmp_path, "p", Ledger(), kind="pairs", solutions="s", stem=r"^(z+)")
    message = str(caught.value)
    assert "'p' (4 files)" in message and "'s' (3 files)" in message and "'^(z+)'" in message
    put(tmp_path, {"s/01-other.zig": "x"})
    with pytest.raises(DataError, match=r"two solutions of 01: s/01-other\.zig, s/01\.zig"):
        read(tmp_path, "p", Ledger(), kind="pairs", solutions="s", stem=r"^(\d+)")
    with pytest.raises(RecipeError, match=r"sources\.0\.stem: not a regular expression"):
        read(tmp_path, "p", Ledger(), kind="pairs", solutions="s", stem="(")


@needs_shared
def test_the_zig_cookbook() -> None:
    ledger = Ledger()
    root = SHARED / "zig" / "cookbook"
    documents = read(root, "book-src", ledger, kind="pairs", solutions="src")
    assert len(documents) == 35
    for document in documents:
        question, answer = (message["content"] for message in document.messages)
        code = (root / document.meta["solution"]).read_text(encoding="utf-8")
        assert answer == f"```zig\n{code.strip(chr(10))}\n```"
        assert "#include" not in question and code.strip() not in question
    assert ledger.skipped == {
        "book-src/05-04-websocket-server.md": "problem 05-04 has no solution",
        **{
            f"book-src/{name}.md": r"problem: no match of stem '^(\\d+-\\d+)'"
            for name in ("SUMMARY", "database", "intro")
        },
    }
    # The cookbook's Base64 problem includes the solution of another recipe.
    astray = [entry.path for entry in ledger.files if "include of another solution" in entry.dropped]
    assert astray == ["book-src/10-03-base64.md"]


@needs_shared
def test_the_cookbook_as_markdown_names_the_include_that_is_missing() -> None:
    with pytest.raises(
        DataError, match=r"book-src/05-04-websocket-server\.md:6: .*'\.\./src/05-04\.zig' does not exist"
    ):
        read(SHARED / "zig" / "cookbook", "book-src", Ledger())
    ledger = Ledger()
    documents = read(SHARED / "zig" / "cookbook", "book-src", ledger, exclude=["05-04*"])
    assert len(documents) == 38 and len(ledger.files) == 38 + 35
