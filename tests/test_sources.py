"""Files, encodings, folders: what a source names, and what it refuses."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from afina.errors import DataError, RecipeError
from afina.recipe import Recipe, Source
from afina.sources import Document, Ledger, read_source, read_sources, visible

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")


def read(root: Path, path: str, ledger: Ledger | None = None, **keys: object) -> list[Document]:
    return list(read_source(Source(path=path, **keys), 0, root, ledger if ledger is not None else Ledger()))  # type: ignore[arg-type]


def put(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def test_auto_goes_by_the_ending(tmp_path: Path) -> None:
    put(tmp_path, {"a.md": "# A", "b.txt": "B", "c.html": "<p>C", "d.zig": "d", "e.jsonl": '{"text": "E"}'})
    found = {document.path: document for document in read(tmp_path, ".")}
    assert [found[name].kind for name in sorted(found)] == ["markdown", "text", "markdown", "code", "text"]
    assert found["d.zig"].meta == {"language": "zig"} and found["d.zig"].title == "d.zig"
    assert found["a.md"].sha256 == hashlib.sha256(b"# A").hexdigest()


def test_what_is_left_out_of_a_folder_is_listed_with_the_reason(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "docs/a.md": "A", "docs/.git/config": "x", "docs/.hidden.md": "x", "docs/node_modules/x.md": "x",
            "docs/logo.png": b"\x89PNG\0", "docs/data.foo": "x", "docs/empty.md": " \n", "docs/old/b.md": "B",
            "docs/cache/CACHEDIR.TAG": "x", "docs/LICENSE": "x", "docs/~$manual.docx": b"\x05Ana\0",
        },
    )  # fmt: skip
    ledger = Ledger()
    documents = read(tmp_path, "docs", ledger, exclude=["docs/old", "*.tmp"])
    assert [document.path for document in documents] == ["docs/a.md"]
    assert ledger.skipped == {
        "docs/.git/": "hidden folder",
        "docs/.hidden.md": "hidden file",
        "docs/node_modules/": "vendored folder: 1 file",
        "docs/cache/": "build folder",
        "docs/logo.png": "binary by its ending .png",
        "docs/data.foo": "unknown ending .foo",
        "docs/LICENSE": "no ending",
        "docs/~$manual.docx": "the lock of a document that is open",
        "docs/empty.md": "empty file",
        "docs/old/b.md": "excluded by 'docs/old'",
        "sources.0.exclude: *.tmp": "this glob matches no file",
    }
    assert [entry.path for entry in ledger.files] == ["docs/a.md"]


def test_what_afina_wrote_itself_is_no_document(tmp_path: Path) -> None:
    """With `path: .` and `runs/` beside the documents a first start read the run's own log, and stopped at it."""
    put(
        tmp_path,
        {
            "a.md": "A", "runs/mine/recipe.yaml": "name: mine", "runs/mine/.lock": "",
            "runs/mine/metrics.jsonl": '{"event": "stage"}', "runs/moved/recipe.yaml": "name: moved",
            "runs/moved/stages.json": "{}", "runs/_answers/answers.jsonl": '{"key": 1}',
            "runs/notes.md": "N", "kitchen/recipe.yaml": "flour: 1 kg", "kitchen/bread.md": "B",
        },
    )  # fmt: skip
    ledger = Ledger()
    read_in = [document.path for document in read(tmp_path, ".", ledger)]
    assert {"a.md", "runs/notes.md", "kitchen/bread.md"} <= set(read_in)
    assert not any(path.startswith(("runs/mine", "runs/moved", "runs/_answers")) for path in read_in)
    assert ledger.skipped["runs/mine/"] == ledger.skipped["runs/moved/"] == "a run of afina"
    assert ledger.skipped["runs/_answers/"] == "answers that afina keeps beside its runs"


def test_a_new_languages_ending_is_read_when_the_kind_is_given(tmp_path: Path) -> None:
    put(tmp_path, {"src/a.nov": "let a", "src/b.zig": "b", "src/c.md": "c", "src/d.bin2": b"\0\1"})
    ledger = Ledger()
    documents = read(tmp_path, "src", ledger, kind="code")
    assert [(document.path, document.meta["language"]) for document in documents] == [
        ("src/a.nov", "nov"),
        ("src/b.zig", "zig"),
    ]
    assert ledger.skipped == {"src/c.md": "markdown by its ending, not code", "src/d.bin2": "binary by its content"}


def test_a_named_file_with_an_unknown_ending_is_text(tmp_path: Path) -> None:
    put(tmp_path, {"notes.foo": "N", "a.odt": b"PK"})
    assert read(tmp_path, "notes.foo")[0].kind == "text"
    with pytest.raises(DataError, match=r"a\.odt: a \.odt file is not text"):
        read(tmp_path, "a.odt")


def test_links_that_loop_end(tmp_path: Path) -> None:
    put(tmp_path, {"a/b/x.md": "X"})
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    (tmp_path / "a/self.md").symlink_to("self.md")
    ledger = Ledger()
    assert [document.path for document in read(tmp_path, "a", ledger)] == ["a/b/x.md"]
    assert ledger.skipped == {"a/b/up": "a link to what is already read", "a/self.md": "a broken link"}


def test_globs_take_folders_and_files_once(tmp_path: Path) -> None:
    put(tmp_path, {"d/a.md": "A", "d/e/b.md": "B"})
    assert [document.path for document in read(tmp_path, "d/**/*")] == ["d/a.md", "d/e/b.md"]


@pytest.mark.parametrize("files", [{}, {"d/x.png": b"\0"}, {"d/a.md": "\n"}, {"d/a.html": "<script>x</script>"}])
def test_a_source_without_text_is_an_error(tmp_path: Path, files: dict[str, str | bytes]) -> None:
    (tmp_path / "d").mkdir()
    put(tmp_path, files)
    with pytest.raises(DataError) as caught:
        read(tmp_path, "d")
    assert caught.value.exit_code == 3 and "no text in 'd'" in str(caught.value)
    assert caught.value.problems[0].where == "sources.0.path" and caught.value.problems[0].fix


def test_a_named_empty_file_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, {"a.md": ""})
    with pytest.raises(DataError, match=r"a\.md: the file is empty"):
        read(tmp_path, "a.md")


def test_latin_1_is_refused_with_line_byte_guess_and_fix(tmp_path: Path) -> None:
    put(tmp_path, {"a.txt": "um\ndois\ntrês: o médio\n".encode().replace("é".encode(), b"\xe9")})
    put(tmp_path, {"b.txt": "um\ntrês: o médio\n".encode("cp1252")})
    with pytest.raises(DataError) as caught:
        read(tmp_path, "b.txt")
    (problem,) = caught.value.problems
    assert problem.where == "b.txt:2"
    assert problem.what == "not utf-8: byte 0xea at offset 5; looks like Latin-1 / Windows-1252: `três:`"
    assert problem.fix == "set `encoding: cp1252` on sources.0, or save the file as UTF-8"
    assert read(tmp_path, "b.txt", encoding="cp1252")[0].text == "um\ntrês: o médio\n"


def test_a_mixed_file_is_told_from_a_latin_1_file(tmp_path: Path) -> None:
    put(tmp_path, {"a.txt": "áéíóú\nçãõ\n".encode() + b"m\xe9dio\n"})
    with pytest.raises(DataError, match=r"a\.txt:3: .*`médio`.*1 such bytes beside 8 letters in good UTF-8"):
        read(tmp_path, "a.txt")


def test_utf_8_under_another_encoding_and_utf_16_are_recognised(tmp_path: Path) -> None:
    put(tmp_path, {"a.txt": "médio", "b.txt": "médio".encode("utf-16")})
    with pytest.raises(DataError, match="looks like UTF-8: `médio`"):
        read(tmp_path, "a.txt", encoding="ascii")
    with pytest.raises(DataError, match="looks like UTF-16"):
        read(tmp_path, "b.txt")
    assert read(tmp_path, "b.txt", encoding="utf-16")[0].text == "médio"


def test_nul_bytes_are_refused(tmp_path: Path) -> None:
    put(tmp_path, {"a.txt": b"a\0b", "a.jsonl": b'{"text": "a\0"}\n'})
    for name in ("a.txt", "a.jsonl"):
        with pytest.raises(DataError, match="it holds NUL bytes"):
            read(tmp_path, name)


def test_an_unknown_encoding_is_a_recipe_error(tmp_path: Path) -> None:
    put(tmp_path, {"a.txt": "a"})
    with pytest.raises(RecipeError, match=r"sources\.0\.encoding: 'utf9' is not a known"):
        read(tmp_path, "a.txt", encoding="utf9")


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.zig", "a.html", "a.jsonl", "a.csv", "a.json"])
def test_byte_order_mark_and_crlf_do_not_reach_the_document(tmp_path: Path, name: str) -> None:
    body = {"a.jsonl": '{"text": "one"}\r\n', "a.csv": "text\r\none\r\n", "a.json": '[\r\n{"text": "one"}]'}
    put(tmp_path, {name: ("\ufeff" + body.get(name, "one\r\ntwo\rthree\r\n")).encode()})
    ledger = Ledger()
    (document,) = read(tmp_path, name, ledger)
    assert document.text.startswith("one") and "\r" not in document.text and "\ufeff" not in document.text
    (entry,) = ledger.files
    assert entry.dropped["byte order mark"] == 1 and entry.balanced


def test_all_problems_of_all_sources_come_at_once_after_the_good_documents(tmp_path: Path) -> None:
    put(tmp_path, {"d/a.txt": b"\xe9", "d/b.txt": "fine", "e.jsonl": "{nope}\n", "f.txt": "f"})
    recipe = Recipe(
        name="x", root=str(tmp_path), base="b", sources=[Source(path=path) for path in ("d", "e.jsonl", "f.txt")]
    )
    seen: list[tuple[int, int | None, str]] = []
    got = []
    with pytest.raises(DataError) as caught:
        for document in read_sources(recipe, Ledger(), lambda *step: seen.append(step)):
            got.append((document.path, document.source))
    assert got == [("d/b.txt", 0), ("f.txt", 2)]
    assert [problem.where for problem in caught.value.problems] == ["d/a.txt:1", "e.jsonl:1"]
    assert seen[0] == (0, 4, "d/a.txt") and seen[-1] == (4, 4, "read")


@needs_shared
@pytest.mark.parametrize(
    ("path", "files", "documents"),
    [("farense/biografias", 215, 215), ("ptbr/machado/poesia", 7, 7)],
)
def test_real_folders_come_through_unchanged(path: str, files: int, documents: int) -> None:
    ledger = Ledger()
    found = read(SHARED, path, ledger)
    assert (len(ledger.files), len(found), ledger.skipped) == (files, documents, {})
    assert all(entry.balanced and not entry.dropped and not entry.added for entry in ledger.files)
    for document in found:
        raw = (SHARED / document.path).read_bytes()
        assert document.sha256 == hashlib.sha256(raw).hexdigest()
        assert document.text == raw.decode().replace("\r\n", "\n")
    assert sum(entry.chars_out for entry in ledger.files) == sum(visible(document.text) for document in found)


@needs_shared
def test_the_biographies_are_markdown_text_and_one_json_of_prose() -> None:
    found = read(SHARED, "farense/biografias")
    assert Counter(document.kind for document in found) == {"markdown": 212, "text": 3}
