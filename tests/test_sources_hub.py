"""Parquet, datasets of the hub, and rows of preferences. No network: a local folder and a fake."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from afina.dataset.build.build import dataset_inputs
from afina.errors import DataError, RecipeError
from afina.recipe import Recipe, Source, check_recipe, load_recipe
from afina.sources import Document, Ledger, read_source
from afina.sources.files import SourceReading
from afina.sources.hub import HubAddress, hub_address, read_hub

REVISION = "0123456789abcdef0123456789abcdef01234567"


def read(root: Path, path: str, ledger: Ledger | None = None, **keys: object) -> list[Document]:
    return list(read_source(Source(path=path, **keys), 0, root, ledger if ledger is not None else Ledger()))  # type: ignore[arg-type]


def write_parquet(file: Path, rows: list[dict[str, object]], **keys: object) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs afina[parquet]")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), file, **keys)


# ---- Parquet


def test_parquet_rows_are_rows(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": f"Q{n}", "completion": f"A{n}", "day": datetime.date(2026, 1, 1)} for n in range(3)
    ]
    write_parquet(tmp_path / "a.parquet", rows)
    ledger = Ledger()
    documents = read(tmp_path, ".", ledger)
    assert [(each.line, each.messages[0]["content"]) for each in documents] == [(1, "Q0"), (2, "Q1"), (3, "Q2")]
    (entry,) = ledger.files
    assert entry.balanced and entry.dropped == {"column `day`": 3 * len('"2026-01-01"')}
    assert documents[0].sha256 == entry.sha256 and documents[0].path == "a.parquet"


def test_conversations_and_bytes_in_parquet(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    write_parquet(tmp_path / "a.parquet", [{"messages": turns, "image": b"\0\1"}])
    with pytest.raises(DataError, match=r"`image` holds images"):
        read(tmp_path, "a.parquet")
    ledger = Ledger()
    (document,) = read(tmp_path, "a.parquet", ledger, leave_out=["image"])
    assert [message["content"] for message in document.messages] == ["Q", "A"]
    assert ledger.files[0].balanced


def test_parquet_is_read_batch_by_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("afina.sources.tables._BATCH", 10)
    write_parquet(tmp_path / "a.parquet", [{"text": f"row {n}"} for n in range(95)], row_group_size=30)
    documents = read(tmp_path, "a.parquet")
    assert [document.line for document in documents] == list(range(1, 96)) and documents[-1].text == "row 94"


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"text": "row " * 100}] * 100)
    whole = (tmp_path / "a.parquet").read_bytes()
    for content in (b"", b"PAR1 no", whole[:-20]):
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(DataError) as caught:
            read(tmp_path, "a.parquet")
        (problem,) = caught.value.problems
        assert problem.where == "a.parquet" and "not Parquet, or damaged" in problem.what


def test_bad_rows_of_parquet_are_told_by_the_first_and_their_number(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"text": "a"}, {"text": None}, {"text": "c"}, {"text": None}])
    with pytest.raises(DataError) as caught:
        read(tmp_path, "a.parquet")
    (problem,) = caught.value.problems
    assert problem.where == "a.parquet:2" and "(2 rows, first line 2)" in problem.what


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'afina\[parquet\]'"):
        read(tmp_path, "a.parquet")


# ---- preferences


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 3, contents, strict=False)]


def last(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"prompt": "Q", "chosen": "good", "rejected": "bad"}, {}),
        ({"question": "Q", "chosen": "good", "rejected": "bad"}, {"prompt": "question"}),
        ({"prompt": turns("Q"), "chosen": last("good"), "rejected": last("bad")}, {}),
        ({"prompt": turns("Q"), "chosen": "good", "rejected": "bad"}, {}),
        ({"chosen": turns("Q", "good"), "rejected": turns("Q", "bad")}, {}),
        # as UltraFeedback has it: the prompt again, the better conversation once more, scores
        (
            {"prompt": "Q", "chosen": turns("Q", "good"), "rejected": turns("Q", "bad"),
             "messages": turns("Q", "good"), "score_chosen": 9.0},
            {},
        ),
    ],
)  # fmt: skip
def test_preferences_in_every_shape(tmp_path: Path, row: dict[str, object], columns: dict[str, str]) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    ledger = Ledger()
    (document,) = read(tmp_path, "a.jsonl", ledger, columns=columns)
    assert [message["content"] for message in document.messages] == ["Q", "good"]
    assert document.rejected == "bad" and ledger.files[0].balanced
    # or the better answers alone
    alone = {"messages": "chosen"} if "prompt" not in row and "question" not in row else None
    if alone:
        (document,) = read(tmp_path, "a.jsonl", columns=alone)
        assert document.rejected is None and len(document.messages) == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"frage": "Q", "chosen": "good", "rejected": "bad"}, "columns: {prompt: frage}"),
        ({"chosen": turns("Q", "good"), "rejected": turns("R", "bad")}, "differ before their last answers"),
        ({"prompt": "Q", "chosen": turns("R", "good"), "rejected": turns("R", "bad")}, "does not ask `prompt`"),
        ({"prompt": "Q", "chosen": turns("Q", "good", "R"), "rejected": "bad"}, "`chosen` ends with the user"),
        ({"prompt": "Q", "chosen": "good", "rejected": None}, "`rejected` is null"),
        ({"prompt": turns("Q", "A"), "chosen": "good", "rejected": "bad"}, "`prompt` ends with the assistant"),
    ],
)
def test_preferences_that_are_none(tmp_path: Path, row: dict[str, object], said: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        read(tmp_path, "a.jsonl")
    (problem,) = caught.value.problems
    assert said in str(problem) and problem.where == "a.jsonl:1"


# ---- the recipe


def recipe_of(**source: object) -> dict[str, Any]:
    return {"name": "x", "base": "some/base", "sources": [source]}


@pytest.mark.parametrize("revision", [None, "main", "0123456", REVISION.upper(), REVISION + "0"])
def test_a_dataset_of_the_hub_needs_its_full_commit(revision: str | None) -> None:
    with pytest.raises(RecipeError) as caught:
        check_recipe(recipe_of(path="hf://owner/name", revision=revision))
    (problem,) = caught.value.problems
    assert "needs `revision`, the full commit hash" in problem.what and "other rows tomorrow" in problem.what
    assert "sources.0" in problem.where


def test_remote_sources_are_no_missing_files(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        f"name: x\nbase: some/base\nsources:\n- {{path: 'hf://o/n?split=test', revision: '{REVISION}'}}\n"
        "- path: https://example.org/docs/\n"
    )
    assert load_recipe(tmp_path / "r.yaml").sources[0].revision == REVISION
    assert check_recipe(recipe_of(path="https://example.org/sitemap.xml")).sources[0].max_pages == 100


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ({"path": "docs", "revision": REVISION}, "`revision` belongs to a dataset of the hub"),
        ({"path": "hf://o/n", "revision": REVISION, "kind": "html"}, "cannot be of kind html"),
        ({"path": "https://a.org", "kind": "rows"}, "cannot be of kind rows"),
    ],
)
def test_keys_that_do_not_belong_are_refused(source: dict[str, object], what: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_recipe(recipe_of(**source))
    assert any(what in problem.what for problem in caught.value.problems)


@pytest.mark.parametrize("path", ["hf://", "hf://a/b/c", "hf://a/b?spilt=train", "hf://a/b?split="])
def test_broken_addresses_are_refused(path: str) -> None:
    with pytest.raises(DataError, match=r"write hf://owner/name\?split=train"):
        hub_address(path, "sources.0.path")


def test_the_commit_is_among_the_inputs_of_a_dataset(tmp_path: Path) -> None:
    path = "hf://owner/name?split=test"
    recipe = Recipe(name="x", root=str(tmp_path), base="b", sources=[Source(path=path, revision=REVISION)])
    assert dataset_inputs(recipe)["files"] == {path: REVISION}


# ---- the library


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`datasets` with the one function that is called."""
    seen = SimpleNamespace(rows=[], calls=[], fails=None)

    class Stream:
        def decode(self, enable: bool) -> Iterator[dict[str, object]]:
            assert enable is False
            yield from seen.rows
            if seen.fails:
                raise seen.fails

    def load_dataset(path: str, name: str | None, *, split: str, revision: str, streaming: bool) -> Stream:
        seen.calls.append((path, name, split, revision, streaming))
        return Stream()

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    module.config = SimpleNamespace(HF_HUB_OFFLINE=False)  # type: ignore[attr-defined]
    module.exceptions = SimpleNamespace(DatasetsError=type("DatasetsError", (Exception,), {}))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return seen


def test_what_is_asked_of_the_hub(tmp_path: Path, hub: SimpleNamespace) -> None:
    hub.rows = [{"pergunta": "Q", "resposta": "A", "id": 7}]
    path = "hf://owner/name?split=validation&config=pt"
    ledger = Ledger()
    (document,) = read(tmp_path, path, ledger, revision=REVISION)
    assert hub.calls == [("owner/name", "pt", "validation", REVISION, True)]
    assert (document.path, document.sha256, document.line) == (path, REVISION, 1)
    assert [message["content"] for message in document.messages] == ["Q", "A"]
    (entry,) = ledger.files
    assert entry.balanced and entry.dropped == {"column `id`": 1}


def test_a_hub_that_fails_half_way_is_an_error_with_the_row(tmp_path: Path, hub: SimpleNamespace) -> None:
    hub.rows, hub.fails = [{"text": "a"}, {"text": None}], ConnectionError("reset by peer")
    with pytest.raises(DataError) as caught:
        read(tmp_path, "hf://owner/name", revision=REVISION)
    first, second = caught.value.problems
    assert first.where == "hf://owner/name:2" and "text is needed" in first.what
    assert second.what == "cannot be read after row 2: ConnectionError: reset by peer" and "network" in second.fix


def test_a_connection_that_breaks_between_rows_is_no_defect(tmp_path: Path, hub: SimpleNamespace) -> None:
    """The HTTP library's errors are no OSError; a read that took too long was a traceback."""
    from huggingface_hub.errors import HfHubHTTPError

    library = sys.modules[HfHubHTTPError.__bases__[0].__module__.partition(".")[0]]
    hub.rows, hub.fails = [{"text": "a"}], library.ReadTimeout("took too long")
    assert not isinstance(hub.fails, OSError)
    with pytest.raises(DataError, match="cannot be read after row 1: ReadTimeout: took too long"):
        read(tmp_path, "hf://owner/name", revision=REVISION)


def test_a_gated_dataset_says_where_to_ask_for_it(tmp_path: Path, hub: SimpleNamespace) -> None:
    """In the words of `datasets` 5, which names a page only to who is logged in."""
    words = "Dataset 'owner/name' is a gated dataset on the Hub. You must be authenticated to access it."
    hub.fails = sys.modules["datasets"].exceptions.DatasetsError(words)
    with pytest.raises(DataError, match="accepted its terms") as caught:
        read(tmp_path, "hf://owner/name", revision=REVISION)
    (problem,) = caught.value.problems
    assert "https://huggingface.co/datasets/owner/name" in problem.fix and "hf auth login" in problem.fix


def test_the_real_library_offline_says_what_to_download(tmp_path: Path) -> None:
    """The tests are offline as a whole (HF_HUB_OFFLINE); no request is made."""
    pytest.importorskip("datasets", reason="needs afina[hub]")
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set") as caught:
        read(tmp_path, "hf://afina-nobody/nothing", revision=REVISION)
    wanted = f"hf download afina-nobody/nothing --repo-type dataset --revision {REVISION}"
    assert wanted in caught.value.problems[0].fix


def test_without_datasets_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'afina\[hub\]'"):
        read(tmp_path, "hf://owner/name", revision=REVISION)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_real_library_on_a_local_folder(tmp_path: Path, kind: str) -> None:
    """The same call that asks the hub; the library takes a folder in place of a name."""
    pytest.importorskip("datasets", reason="needs afina[hub]")
    rows: list[dict[str, object]] = [{"prompt": f"Q{n}", "completion": f"A{n}"} for n in range(3)]
    folder = tmp_path / "data"
    folder.mkdir()
    if kind == "parquet":
        write_parquet(folder / "train.parquet", rows)
    else:
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ledger = Ledger()
    reading = SourceReading(Source(path="hf://owner/name", revision=REVISION), 0, tmp_path, ledger)
    documents = list(read_hub(HubAddress(str(folder)), reading))
    assert [(each.line, each.messages[1]["content"]) for each in documents] == [(1, "A0"), (2, "A1"), (3, "A2")]
    with pytest.raises(DataError, match="check name, split, config"):
        list(read_hub(HubAddress(str(folder), split="nope"), reading))
