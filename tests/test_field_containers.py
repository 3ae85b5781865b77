"""Containers as people keep them: splits side by side, saved datasets, packed tables, exports, and documents."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import shutil
import zipfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from afina.dataset.audit.audit import Audit, audit_dataset, audit_files
from afina.dataset.audit.describe import describe_audit, describe_summary
from afina.dataset.build.build import build_dataset
from afina.errors import DataError
from afina.recipe import Recipe, Source
from afina.sources import Document, Ledger, read_source
from afina.text.example import read_examples

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
FIELD = SHARED / "field" / "data"
needs_field = pytest.mark.skipif(not FIELD.is_dir(), reason="../shared/field/data is not here")
needs_farense = pytest.mark.skipif(not (SHARED / "data/farense").is_dir(), reason="../shared/data/farense is not here")


def rows(path: Path, *asked: str, answer: str = "Because of {}.") -> Path:
    """A file of rows, one for each prompt."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt": each, "completion": answer.format(each)}) for each in asked]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def asks(first: int, count: int) -> list[str]:
    return [f"Why does berth {number} stay free?" for number in range(first, first + count)]


def leaks(audit: Audit) -> int:
    return sum(item.count for item in audit.findings if item.name == "leakage")


def recipe_of(root: Path, *sources: dict, **dataset: object) -> Recipe:
    return Recipe(name="x", base="a/b", root=str(root), sources=[Source(**each) for each in sources], dataset=dataset)  # type: ignore[arg-type]


def built(folder: Path, name: str) -> list[str]:
    return [example.prompt for example in read_examples(folder / f"{name}.jsonl")]


# ---- splits


LAYOUTS = {
    "side by side": ("train.jsonl", "valid.jsonl"),
    "with what they are of": ("train_full.jsonl", "valid_full.jsonl"),
    "folders": ("train/a.jsonl", "dev/a.jsonl"),
    "folders of text": ("train/a.txt", "test/a.txt"),
    "shards": ("data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"),
    "tables": ("set.train.csv", "set.eval.csv"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_of_a_folder_are_told_by_names_and_leaks_between_them_are_found(tmp_path: Path, layout: str) -> None:
    """A folder was one training set, so that a row in both files was a duplicate and no leak."""
    train, held = LAYOUTS[layout]
    for name, first in ((train, 0), (held, 28)):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("csv"):
            file.write_text("prompt,completion\n" + "".join(f"{each},So.\n" for each in asks(first, 30)), "utf-8")
        elif name.endswith("txt"):
            file.write_text(" ".join(asks(0, 30)), "utf-8")
        else:
            rows(file, *asks(first, 30))
    audit = audit_files([tmp_path])
    assert leaks(audit) == (1 if train.endswith("txt") else 2)
    assert audit.validation == (1 if train.endswith("txt") else 30)
    shown = describe_audit(audit).splitlines()[1]
    assert shown.startswith("splits recognised: ") and held in shown


def test_two_named_files_are_splits_too_and_a_held_out_file_that_is_named_goes_first(tmp_path: Path) -> None:
    train, valid = rows(tmp_path / "train.jsonl", *asks(0, 20)), rows(tmp_path / "val.jsonl", *asks(15, 20))
    assert leaks(audit_files([train, valid])) == 5
    other = rows(tmp_path / "other.jsonl", *asks(0, 3))
    audit = audit_files([train, valid], other)
    assert (leaks(audit), audit.train, audit.validation) == (3, 40, 3)


@pytest.mark.parametrize(
    "names",
    [
        ["train.jsonl"],  # all there is
        ["valid.jsonl", "test.jsonl"],  # nothing to train on beside them
        ["how-to-train.md", "test.md"],  # pages of a manual
        ["how-to-train.txt", "how-to-test.txt"],
        ["a/train.jsonl", "b/test.jsonl"],  # not side by side
        ["train.jsonl", "train-test-split.jsonl"],  # says two
        ["train.jsonl", "latest.jsonl"],
    ],
)
def test_names_that_tell_no_split(tmp_path: Path, names: list[str]) -> None:
    for place, name in enumerate(names):
        rows(tmp_path / name, *asks(10 * place, 10))
    assert not describe_audit(audit_files([tmp_path])).count("splits recognised")


def test_a_build_holds_out_what_is_called_so_and_leaves_the_test_out(tmp_path: Path) -> None:
    """Before, all three were mixed and split by a hash."""
    rows(tmp_path / "in/train.jsonl", *asks(0, 30))
    rows(tmp_path / "in/valid.jsonl", *asks(28, 5))
    rows(tmp_path / "in/test.jsonl", *asks(40, 4), "Why does berth 3 stay free?")
    recipe = recipe_of(tmp_path, {"path": "in"}, validation=0.5)
    summary = build_dataset(recipe, tmp_path / "out")
    assert set(built(tmp_path / "out", "validation")) == set(asks(28, 5))
    assert set(built(tmp_path / "out", "test")) == {*asks(40, 4), *asks(3, 1)}
    assert set(built(tmp_path / "out", "train")) == {*asks(0, 28)} - {*asks(3, 1)}, "what is measured stays whole"
    assert summary["dropped"] == {"duplicate": 3} and summary["balanced"]
    said = describe_summary(summary)
    assert "splits recognised: validation 5 (in/valid.jsonl), test 5 (in/test.jsonl), train 27" in said
    assert "the test split is left out of training" in said


def test_a_test_split_alone_is_left_out_and_the_rest_is_split_by_content(tmp_path: Path) -> None:
    rows(tmp_path / "in/train.jsonl", *asks(0, 40))
    rows(tmp_path / "in/test.jsonl", *asks(40, 4))
    summary = build_dataset(recipe_of(tmp_path, {"path": "in"}, validation=0.25), tmp_path / "out")
    assert summary["test"]["examples"] == 4 and summary["splits"] == {"in/test.jsonl": "test"}
    assert 3 <= summary["validation"]["examples"] <= 20 and not {*built(tmp_path / "out", "train")} & {*asks(40, 4)}


def test_a_leak_that_duplicates_are_kept_of_is_found_in_the_test_too(tmp_path: Path) -> None:
    rows(tmp_path / "in/train.jsonl", *asks(0, 30))
    rows(tmp_path / "in/test.jsonl", *asks(27, 6))
    recipe = recipe_of(tmp_path, {"path": "in"}, validation=0.0, on_duplicate="keep")
    build_dataset(recipe, tmp_path / "out")
    assert leaks(audit_dataset(tmp_path / "out", recipe)) == 3


def test_two_sources_of_one_folder_are_splits_unless_their_names_are_to_be_ignored(tmp_path: Path) -> None:
    rows(tmp_path / "train.jsonl", *asks(0, 30))
    rows(tmp_path / "valid.jsonl", *asks(30, 10))
    sources = [{"path": "train.jsonl"}, {"path": "valid.jsonl"}]
    build_dataset(recipe_of(tmp_path, *sources), tmp_path / "told")
    assert set(built(tmp_path / "told", "validation")) == set(asks(30, 10))
    ignored = [{**each, "splits": "ignore"} for each in sources]
    summary = build_dataset(recipe_of(tmp_path, *ignored), tmp_path / "ignored")
    assert "splits" not in summary and summary["validation"]["examples"] < 10


@needs_farense
def test_farense_has_splits_and_ten_leaked_rows() -> None:
    folder = SHARED / "data/farense"
    audit = audit_files([folder / "train_full.jsonl", folder / "valid_full.jsonl"])
    assert (leaks(audit), audit.validation) == (10, 269)
    assert "validation 269 (" in audit.said[0] and "train 2413 (" in audit.said[0]


# ---- containers of rows

TWO = [{"prompt": "One?", "completion": "Uno."}, {"prompt": "Two?", "completion": "Due."}]
SAID = [("One?", "Uno."), ("Two?", "Due.")]


def read(path: Path, **keys: object) -> list[Document]:
    """The documents of a file or folder; every character of it is accounted for."""
    ledger = Ledger()
    found = list(read_source(Source(path=path.name, **keys), 0, path.parent, ledger))  # type: ignore[arg-type]
    assert all(file.balanced for file in ledger.files), ledger.files
    return found


def said(path: Path, **keys: object) -> list[tuple[str, ...]]:
    return [tuple(turn["content"] for turn in document.messages) or (document.text,) for document in read(path, **keys)]


def refusal(path: Path, **keys: object) -> str:
    with pytest.raises(DataError) as error:
        read(path, **keys)
    return str(error.value)


def jsonl(items: list[Any]) -> bytes:
    return "".join(json.dumps(item) + "\n" for item in items).encode()


def zstd(data: bytes) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return sink.getvalue().to_pybytes()


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}
CSV = b"prompt,completion\nOne?,Uno.\nTwo?,Due.\n"
LINES = jsonl(TWO)

ONE_FILE: dict[str, bytes] = {
    "a.jsonl": LINES,
    "a.ndjson": LINES,
    "a.tsv": CSV.replace(b",", b"\t"),
    "commas-in-the-header.tsv": b"prompt\tcompletion\tone,two,three,four\nOne?\tUno.\t\nTwo?\tDue.\t\n",
    "quoted.tsv": b'prompt\tcompletion\tx\nOne?\t"Uno."\t"a\nb"\nTwo?\tDue.\t"c ""d"""\n',
    "stray-quote.tsv": b'prompt\tcompletion\tx\nOne?\tUno.\t"9 metres\nTwo?\tDue.\t9" or more\n',
    "sep.csv": b"sep=;\r\nprompt;completion\r\nOne?;Uno.\r\nTwo?;Due.\r\n",
    "array.jsonl": json.dumps(TWO).encode(),
    "array-by-lines.jsonl": b"\n[\n" + json.dumps(TWO[0]).encode() + b",\n" + json.dumps(TWO[1]).encode() + b"\n]\n",
    "lines.json": LINES,
    "wrapped.json": json.dumps({"version": "1.0", "data": TWO}).encode(),
    "wrapped-otherwise.json": json.dumps({"info": {"by": "me"}, "rows": TWO}, indent=1).encode(),
    "bars.csv": CSV.replace(b",", b"|"),
    "a.jsonlines": LINES,
    "wrapped.jsonl": json.dumps({"data": TWO}).encode() + b"\n",
    "wrapped-twice.json": json.dumps({"by": "me", "dataset": {"rows": TWO}}).encode(),
    "by-id.json": json.dumps({"x7": TWO[0], "x8": TWO[1]}).encode(),
    "columns.json": json.dumps({name: {str(n): row[name] for n, row in enumerate(TWO)} for name in TWO[0]}).encode(),
    "lists.json": json.dumps({name: [row[name] for row in TWO] for name in TWO[0]}).encode(),
    "split.json": json.dumps({"columns": list(TWO[0]), "data": [list(row.values()) for row in TWO]}).encode(),
    **{f"a.jsonl{ending}": LINES for ending in PACKERS},
    **{f"a.csv{ending}": CSV for ending in PACKERS},
    "a.json.gz": json.dumps(TWO).encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_FILE)
def test_rows_in_one_file(tmp_path: Path, name: str) -> None:
    packer = PACKERS.get(Path(name).suffix, bytes)
    (tmp_path / name).write_bytes(packer(ONE_FILE[name]))
    assert said(tmp_path / name) == SAID
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(packer(ONE_FILE[name]))
    assert said(tmp_path / "d") == SAID, "in a folder too"


def test_a_packed_stream_may_have_parts_and_is_read_as_one(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl(TWO[:1])) + gzip.compress(jsonl(TWO[1:])))
    (tmp_path / "a.jsonl.zst").write_bytes(zstd(jsonl(TWO[:1])) + zstd(jsonl(TWO[1:])))
    assert said(tmp_path / "a.jsonl.gz") == said(tmp_path / "a.jsonl.zst") == SAID


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("size", [2, 9_000])
def test_a_packed_file_that_is_cut_or_damaged_is_named(tmp_path: Path, ending: str, size: int) -> None:
    name = f"a.jsonl{ending}"
    packed = PACKERS[ending](jsonl([{"prompt": f"{n * n}?", "completion": f"{hash(n / 7)}"} for n in range(size)]))
    for damaged in (packed[: len(packed) * 2 // 3], b"not packed at all " * 5):
        (tmp_path / name).write_bytes(damaged)
        assert f"{name}: damaged or cut off after" in refusal(tmp_path / name)


@pytest.mark.parametrize("ending", PACKERS)
def test_a_small_file_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr("afina.sources.unpack.LARGEST_UNPACKED_BYTES", 1 << 16)
    monkeypatch.setattr("afina.sources.files.LARGEST_UNPACKED_BYTES", 1 << 16)
    bomb = PACKERS[ending](b'{"prompt": "' + b"a" * (40 << 20))
    assert len(bomb) < 60_000
    (tmp_path / f"a.jsonl{ending}").write_bytes(bomb)
    assert "a.jsonl" in refusal(tmp_path / f"a.jsonl{ending}") and "unpacks to more than" in refusal(
        tmp_path / f"a.jsonl{ending}"
    )


def test_what_is_no_text_in_a_packed_file_is_left_out_and_said(tmp_path: Path) -> None:
    rows(tmp_path / "d/a.jsonl", "Why?")
    for name in ("b.tar.gz", "c.pdf.gz", "d.gz", "e.zip", "f.doc", "g.xlsx", "h.odt", "i.png", "j.png"):
        (tmp_path / "d" / name).write_bytes(b"\0\1")
    audit = audit_files([tmp_path / "d"])
    assert audit.said[0].startswith("9 of 10 files were not read: ") and "2 .png" in audit.said[0]
    ledger = Ledger()
    list(read_source(Source(path="d"), 0, tmp_path, ledger))
    assert ledger.skipped["d/f.doc"] == ".doc is not read: save it as .docx, or as plain text"
    assert ledger.skipped["d/e.zip"] == ".zip is not read: unpack it"
    assert "save each of its sheets as .csv" in refusal(tmp_path / "d/g.xlsx")
    assert "unpack it" in refusal(tmp_path / "d/b.tar.gz") and "damaged .zip" in refusal(tmp_path / "d/e.zip")


def test_questions_deep_inside_one_object_are_not_learned_as_its_text(tmp_path: Path) -> None:
    """SQuAD's own file, and its rows as the hub has them; prose and settings in one object are a text as before."""
    answers = [{"text": "in the south", "answer_start": 8}]
    asked = [{"id": "7", "question": "Where is Faro?", "answers": answers, "is_impossible": False}]
    squad = {"version": "2.0", "data": [{"title": "Faro", "paragraphs": [{"context": "It lies ...", "qas": asked}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    assert "deep inside one object, in `data[].paragraphs[].qas[]`" in refusal(tmp_path / "squad.json")
    assert said(tmp_path / "squad.json", kind="text") == [(json.dumps(squad),)]
    for given in (answers, {"text": ["in the south"], "answer_start": [8]}):
        row = {"context": "It lies in the south.", "question": "Where is Faro?", "answers": given}
        (tmp_path / "hub.jsonl").write_bytes(jsonl([row]))
        assert "`answers` holds answers as SQuAD keeps them" in refusal(tmp_path / "hub.jsonl")
    row["answers"] = "in the south"
    (tmp_path / "hub.jsonl").write_bytes(jsonl([row]))
    columns = {"instruction": "question", "input": "context", "output": "answers"}
    ((question, answer),) = said(tmp_path / "hub.jsonl", columns=columns)
    assert "It lies in the south." in question and "Where is Faro?" in question and answer == "in the south"
    settings = {"name": "x", "tasks": {"build": {"steps": [{"run": "make"}, {"run": "test"}]}}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    assert said(tmp_path / "settings.json") == [(json.dumps(settings),)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.ndjson", "a.jsonl.gz"])
def test_a_file_without_rows_says_so(tmp_path: Path, name: str) -> None:
    for content in (b"", b"\n\n"):
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        assert "the file has no rows" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"train": TWO, "test": TWO}, "several lists of rows in one object: `train`, `test`"),
        (["One is uno.", "Two is due."], "a row is an object {...}, this is a text"),
    ],
)
def test_json_that_is_not_one_table(tmp_path: Path, content: object, words: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content), "utf-8")
    assert words in refusal(tmp_path / "a.json", kind="rows")


def test_an_object_with_a_list_is_a_row_where_it_has_the_columns_of_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({**TWO[0], "tags": [{"title": "x"}]}), "utf-8")
    assert said(tmp_path / "a.json") == SAID[:1]
    (tmp_path / "b.json").write_text(json.dumps({"name": "berths", "people": [{"name": "Ana"}]}), "utf-8")
    assert [document.kind for document in read(tmp_path / "b.json")] == ["text"], "settings are a text, as before"


# ---- saved datasets and the hub's layout


def saved(folder: Path, items: list[dict[str, Any]]) -> None:
    """As `Dataset.save_to_disk` writes it, by pyarrow alone."""
    pyarrow = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    table = pyarrow.Table.from_pylist(items)
    with (
        pyarrow.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as out,
        pyarrow.ipc.new_stream(out, table.schema) as stream,
    ):
        stream.write_table(table)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "0", "_split": None}
    (folder / "state.json").write_text(json.dumps(state), "utf-8")
    (folder / "dataset_info.json").write_text(json.dumps({"description": "Berths.", "features": {}}), "utf-8")


def test_a_saved_dataset_is_its_rows_and_what_was_cached_beside_them_is_not(tmp_path: Path) -> None:
    """Its state.json and dataset_info.json were trained as texts, and its rows were not read."""
    saved(tmp_path / "d", TWO)
    shutil.copy(tmp_path / "d/data-00000-of-00001.arrow", tmp_path / "d/cache-1f.arrow")
    assert said(tmp_path / "d") == SAID
    assert "2 training" in describe_audit(audit_files([tmp_path / "d"]))


def test_the_notes_beside_rows_that_were_cached_are_no_text(tmp_path: Path) -> None:
    saved(tmp_path / "d", TWO)
    (tmp_path / "d/state.json").unlink()
    assert said(tmp_path / "d") == SAID


def test_a_saved_dictionary_of_datasets_has_splits(tmp_path: Path) -> None:
    saved(tmp_path / "d/train", TWO)
    saved(tmp_path / "d/test", TWO[1:])
    (tmp_path / "d/dataset_dict.json").write_text('{"splits": ["train", "test"]}', "utf-8")
    audit = audit_files([tmp_path / "d"])
    assert (audit.train, audit.validation, leaks(audit)) == (2, 1, 1)


def test_an_arrow_file_with_an_index_and_a_damaged_one(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist(TWO)
    with pyarrow.OSFile(str(tmp_path / "a.arrow"), "wb") as out, pyarrow.ipc.new_file(out, table.schema) as file:
        file.write_table(table)
    assert said(tmp_path / "a.arrow") == SAID
    (tmp_path / "b.arrow").write_bytes((tmp_path / "a.arrow").read_bytes()[:200])
    assert "b.arrow: not Arrow, or damaged after row 0" in refusal(tmp_path / "b.arrow")


def test_the_card_of_a_dataset_is_no_text_and_says_its_splits(tmp_path: Path) -> None:
    rows(tmp_path / "d/rows/one.jsonl", *asks(0, 10))
    rows(tmp_path / "d/rows/two.jsonl", *asks(8, 4))
    files = "  data_files:\n  - split: train\n    path: rows/one*\n  - split: test\n    path: [rows/two.jsonl]\n"
    (tmp_path / "d/README.md").write_text(
        f"---\nlicense: mit\nconfigs:\n- config_name: a\n{files}---\n\n# Berths\n", "utf-8"
    )
    audit = audit_files([tmp_path / "d"])
    assert (audit.train, audit.validation, audit.texts, leaks(audit)) == (10, 4, 0, 2)
    shutil.copytree(tmp_path / "d/rows", tmp_path / "e/rows")
    (tmp_path / "e/README.md").write_text("---\ntitle: Berths\n---\n\n# Berths\n\nA page of a site.\n", "utf-8")
    assert audit_files([tmp_path / "e"]).texts == 1


# ---- exports of chats, batches, InstructLab


def node(name: str, parent: str | None, role: str = "", text: object = "", **more: object) -> dict[str, Any]:
    content = text if isinstance(text, dict) else {"content_type": "text", "parts": [text]}
    message = {"id": name, "author": {"role": role}, "content": content, "create_time": 1.0, **more} if role else None
    return {"id": name, "parent": parent, "children": [], "message": message}


def tree(*nodes: dict[str, Any], current: str | None) -> dict[str, Any]:
    return {"title": "Tides", "mapping": {each["id"]: each for each in nodes}, "current_node": current}


CHATGPT = tree(
    node("root", None),
    node("s", "root", "system", "Hidden.", metadata={"is_visually_hidden_from_conversation": True}),
    node("u", "s", "user", "When is high water?"),
    node("a1", "u", "assistant", "I do not know."),
    node("call", "u", "assistant", {"content_type": "code", "text": "tide()"}, recipient="python"),
    node("tool", "call", "tool", {"content_type": "execution_output", "text": "14:20"}),
    node("a2", "tool", "assistant", "At 14:20."),
    node("u2", "a2", "user", {"content_type": "multimodal_text", "parts": [{"asset": "x"}, "Here?"]}),
    node("a3", "u2", "assistant", "Yes."),
    node("u3", "a3", "user", "And tomorrow?"),
    current="u3",
)  # fmt: skip
CLAUDE = {
    "uuid": "1",
    "name": "Tides",
    "chat_messages": [
        {"sender": "human", "text": "When?", "content": [{"type": "text", "text": "When?"}], "attachments": []},
        {
            "sender": "assistant",
            "text": "At 14:20.",
            "content": [
                {"type": "thinking", "thinking": "Look it up."},
                {"type": "tool_use", "name": "tide", "input": {}},
                {"type": "text", "text": "At 14:20."},
            ],
        },
    ],
}


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), "utf-8")
    return path


def test_an_export_of_chatgpt_is_the_branch_that_was_shown(tmp_path: Path) -> None:
    """The fix that was told was `columns: {prompt: title, completion: current_node}`."""
    file = write_json(tmp_path / "conversations.json", [CHATGPT, tree(node("r", None), current="r")])
    wanted = [("When is high water?", "At 14:20.", "Here?", "Yes.")]
    assert said(file) == wanted
    ledger = Ledger()
    list(read_source(Source(path=file.name), 0, tmp_path, ledger))
    dropped = ledger.files[0].dropped
    assert dropped["other branches of a conversation"] == len("Idonotknow.")
    assert dropped["calls and results of tools"] == len("tide()14:20") and dropped["hidden messages"] == len("Hidden.")
    assert dropped["a last question without an answer"] == len("Andtomorrow?")
    write_json(tmp_path / "user.json", {"email": "a@example.org"})
    (tmp_path / "chat.html").write_text("<p>the same once more</p>", "utf-8")
    assert said(tmp_path) == wanted, "of the folder of an export the conversations alone"
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as packed:
        for name in ("conversations.json", "user.json", "chat.html"):
            packed.write(tmp_path / name, name)
    assert said(tmp_path / "export.zip") == wanted


def test_an_export_of_chatgpt_without_a_current_node_ends_at_its_newest_leaf(tmp_path: Path) -> None:
    old, new = (
        node(name, "u", "assistant", text, create_time=when)
        for name, text, when in (("a", "Old.", 1.0), ("b", "New.", 2.0))
    )
    file = write_json(tmp_path / "c.json", [tree(node("u", None, "user", "When?"), old, new, current=None)])
    assert said(file) == [("When?", "New.")]


def test_an_export_of_claude(tmp_path: Path) -> None:
    file = write_json(tmp_path / "conversations.json", [CLAUDE])
    assert said(file) == [("When?", "At 14:20.")]
    assert read(file)[0].messages[1]["reasoning_content"] == "Look it up."
    assert said(write_json(tmp_path / "wrapped.json", {"conversations": [CLAUDE]})) == [("When?", "At 14:20.")]
    assert said(write_json(tmp_path / "one.json", CLAUDE)) == [("When?", "At 14:20.")]


def test_requests_of_batches_are_rows_and_answers_alone_are_told_of(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "Now."}]
    request = {
        "custom_id": "r1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": turns},
    }
    response = {"status_code": 200, "body": {"id": "x", "choices": [{"message": turns[1]}]}}
    (tmp_path / "in.jsonl").write_bytes(jsonl([request]))
    assert said(tmp_path / "in.jsonl") == [("When?", "Now.")]
    (tmp_path / "log.jsonl").write_bytes(jsonl([{"request": {"messages": turns[:1]}, "response": response}]))
    assert said(tmp_path / "log.jsonl") == [("When?", "Now.")]
    (tmp_path / "out.jsonl").write_bytes(jsonl([{"custom_id": "r1", "response": response, "error": None}] * 3))
    told = refusal(tmp_path / "out.jsonl")
    assert "an answer of a batch, without the question that it answers (3 rows" in told and "custom_id" in told


KNOWLEDGE = """version: 3
created_by: someone
seed_examples:
  - context: |
      The harbour of Vela has 42 berths.
    questions_and_answers:
      - question: How many berths has Vela?
        answer: Vela has 42 berths.
document_outline: The harbour
"""
SKILL = """seed_examples:
  - question: Which port?
    context: The port of Faro.
    answer: Faro.
  - question: Rhyme with sea.
    answer: Tea.
"""


def test_instructlabs_questions_are_rows_and_its_context_a_text(tmp_path: Path) -> None:
    """The file was trained as YAML."""
    (tmp_path / "qna.yaml").write_text(KNOWLEDGE, "utf-8")
    documents = read(tmp_path / "qna.yaml")
    assert [(document.kind, document.line) for document in documents] == [("text", 4), ("messages", 7)]
    assert said(tmp_path / "qna.yaml")[1] == ("How many berths has Vela?", "Vela has 42 berths.")
    (tmp_path / "qna.yaml").write_text(SKILL, "utf-8")
    assert said(tmp_path / "qna.yaml") == [("The port of Faro.\n\nWhich port?", "Faro."), ("Rhyme with sea.", "Tea.")]
    (tmp_path / "qna.yaml").write_text("seed_examples: [", "utf-8")
    assert "not YAML" in refusal(tmp_path / "qna.yaml")
    (tmp_path / "qna.yaml").write_text("seeds: []", "utf-8")
    assert "no list `seed_examples`" in refusal(tmp_path / "qna.yaml")


# ---- the field's own files


@needs_field
@pytest.mark.parametrize(
    ("name", "rows_in"),
    [("15-csv/tabs.tsv", 2), ("15-csv/excel-pt.csv", 2), ("16-save-to-disk", 3), ("24-json/c-array.jsonl", 2),
     ("24-json/d-lines.json", 2), ("24-json/g-wrapped.json", 2), ("24-json/h-columns.json", 2),
     ("24-json/l-rows.jsonl.gz", 2), ("24-json/m-bom.jsonl", 2), ("24-json/n-one.jsonl", 1),
     ("24-json/s-ndjson.ndjson", 1), ("27-other/batch.jsonl", 1), ("27-other/conversations.json", 1),
     ("27-other/qna.yaml", 3)],
)  # fmt: skip
def test_the_containers_of_the_field_are_read(name: str, rows_in: int) -> None:
    assert len(read(FIELD / name)) == rows_in


@needs_field
@pytest.mark.parametrize(
    ("name", "words"),
    [("15-csv/utf16.csv", "looks like UTF-16"), ("15-csv/latin1.csv", "not utf-8"),
     ("15-csv/ragged.csv", ".csv:2: 3 cells"),
     ("24-json/o-empty.jsonl", "the file has no rows"), ("24-json/p-strings.json", "this is a text")],
)  # fmt: skip
def test_what_cannot_be_read_of_the_field_is_named(name: str, words: str) -> None:
    assert words in refusal(FIELD / name)


@needs_field
def test_a_folder_of_parquet_as_the_hub_keeps_it() -> None:
    pytest.importorskip("pyarrow")
    audit = audit_files([FIELD / "17-parquet"])
    assert audit.texts == 0 and "test " in audit.said[0] and "card of the dataset" in " ".join(audit.said)


# ---- documents in other markups


def markdown(path: Path) -> str:
    (document,) = read(path)
    return document.text


RST = """:orphan:
.. _berths:

======
Berths
======

The harbour of *Vela* has **42** ``berths``. See :ref:`tides`, :py:func:`~vela.take` and `the port <https://x.org>`_.

.. note::

   In August every berth is taken by noon.

.. code-block:: python
   :linenos:

   from vela import take

   take(4)

.. toctree::
   :maxdepth: 2

   tides

.. a comment
   on two lines

Take it so::

   vela take 4

Tides
-----

=====  =====
Port   Water
=====  =====
Faro   14:20
Lagos  15:02
=====  =====

.. py:function:: vela.take(n)

   Takes berth *n*.
"""
RST_AS_MARKDOWN = """# Berths

The harbour of *Vela* has **42** `berths`. See tides, `vela.take` and [the port](https://x.org).

**Note:**

In August every berth is taken by noon.

```python
from vela import take

take(4)
```

Take it so:

```
vela take 4
```

## Tides

| Port | Water |
|---|---|
| Faro | 14:20 |
| Lagos | 15:02 |

`vela.take(n)`

Takes berth *n*.
"""
ADOC = """= Berths
Ana Silva <ana@example.org>
v1.2, 2025-01-01
:toc:
:town: Vela

The harbour of _{town}_ has *42* `berths`, see https://x.org[the port] and <<tides,the tides>>.

NOTE: In August every berth is taken.

[source,python]
----
take(4)
----

// nobody sees this
== Tides

[cols="1,1",options="header"]
|===
|Port |Water

|Faro
|14:20
|===

* one
** two
. first
"""
ADOC_AS_MARKDOWN = """# Berths

The harbour of *Vela* has **42** `berths`, see [the port](https://x.org) and the tides.

**Note:** In August every berth is taken.

```python
take(4)
```

## Tides

| Port | Water |
|---|---|
| Faro | 14:20 |

- one
  - two
1. first
"""
ORG = """#+TITLE: Berths
#+AUTHOR: Ana
* TODO The harbour :port:
:PROPERTIES:
:ID: 4711
:END:
The harbour of /Vela/ has *42* =berths=, see [[https://x.org][the port]].
#+BEGIN_SRC sh
vela berth take 4
#+END_SRC
# nobody sees this
| Port | Water |
|------+-------|
| Faro | 14:20 |
"""
ORG_AS_MARKDOWN = """# Berths

# The harbour

The harbour of *Vela* has **42** `berths`, see [the port](https://x.org).

```sh
vela berth take 4
```

| Port | Water |
|------|-------|
| Faro | 14:20 |
"""
TEX = r"""\documentclass[11pt]{article}
\usepackage{minted}
\title{The harbour}
\begin{document}\maketitle
\section{Berths}The harbour has \textbf{42} \emph{berths}\footnote{In 1931 it had 12.} at 5\,\% of $x_1$. % unseen

\begin{itemize}
  \item One~berth
\end{itemize}
\begin{lstlisting}[language=sh]
vela take 4 % kept
\end{lstlisting}
\end{document}
never printed
"""
TEX_AS_MARKDOWN = r"""# The harbour

## Berths

The harbour has **42** *berths* (In 1931 it had 12.) at 5\,% of $x_1$.

- One berth

```
vela take 4 % kept
```
"""
WRITTEN = {
    "a.rst": (RST, RST_AS_MARKDOWN),
    "a.adoc": (ADOC, ADOC_AS_MARKDOWN),
    "a.org": (ORG, ORG_AS_MARKDOWN),
    "a.tex": (TEX, TEX_AS_MARKDOWN),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_markup_becomes_markdown_and_every_character_is_counted(tmp_path: Path, name: str) -> None:
    """They were trained with their directives and attributes, or passed over."""
    text, wanted = WRITTEN[name]
    (tmp_path / name).write_text(text, "utf-8")
    assert markdown(tmp_path / name) == wanted


@pytest.mark.parametrize("name", WRITTEN)
def test_no_markup_however_broken_loses_a_character(tmp_path: Path, name: str) -> None:
    """Any run of lines of any markup, in any reader: nothing is raised, and the sum comes out (`read` asserts it)."""
    lines = [line for text, _ in WRITTEN.values() for line in text.split("\n") if "{document}" not in line] + [
        "`",
        "**",
        "|===",
        ".2+|a 2.3+|b 2*|c",
        ",===",
        "[[",
        "::",
        "   x::",
    ]
    for seed in range(60):
        picked = random.Random(seed).choices(lines, k=25)
        (tmp_path / name).write_text("\n".join(["Vela.", *picked]) + "\n", "utf-8")
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("table", "lines", "repeated"),
    [
        ("|===\n.2+|a |b\n|c\n|===", "| a | b |\n|---|---|\n| a | c |", 1),
        ("|===\n|x .3+|a\n|y\n|z\n|u |v\n|===", "| x | a |\n|---|---|\n| y | a |\n| z | a |\n| u | v |", 2),
        ("|===\n.2+|N 2+|S\n|W |H\n|===", "| N | S |  |\n|---|---|---|\n| N | W | H |", 1),
        ('[cols="3*"]\n|===\n2.2+|a\n|b\n|c\n|===', "| a |  | b |\n|---|---|---|\n| a |  | c |", 1),
        ("|===\n.2+|a .2+|b\n\n|c |d\n|===", "| a | b |\n|---|---|\n| c | d |", 0),
        (f"|===\n.2+|{'long ' * 41}|b\n|c\n|===", f"| {'long ' * 40}long | b |\n|---|---|\n| \N{DITTO MARK} | c |", 1),
        ("|===\n|h |i\n2*|x *y*\n|===", "| h | i |\n|---|---|\n| x **y** | x **y** |", 0),
        ("|===\n^.>s|a |b e|c\nand d | 4*5\n|===", "| a | b | c and d |\n|---|---|---|\n| 4*5 |  |  |", 0),
        ("|===\n|a \\| b |c\n|===", "| a \\| b | c |\n|---|---|", 0),
        (',===\nPort,Water\n"Faro, Olhão",14:20\n,===', "| Port | Water |\n|---|---|\n| Faro, Olhão | 14:20 |", 0),
        (":===\nPort:Water\nFaro:14\n:===", "| Port | Water |\n|---|---|\n| Faro | 14 |", 0),
    ],
)  # fmt: skip
def test_of_an_asciidoc_table_each_row_keeps_what_its_values_are_of(
    tmp_path: Path, table: str, lines: str, repeated: int
) -> None:
    """`.2+` stood there as a cell of its own, and moved every cell behind it into another column."""
    (tmp_path / "a.adoc").write_text(f"= T\n\n{table}\n", "utf-8")
    ledger = Ledger()
    (document,) = read_source(Source(path="a.adoc"), 0, tmp_path, ledger)
    assert document.text == f"# T\n\n{lines}\n"
    (entry,) = ledger.files
    assert entry.balanced and entry.added.get("Markdown: cell of several rows", 0) == repeated


def cell(kind: str, source: str, *outputs: dict[str, Any]) -> dict[str, Any]:
    return {"cell_type": kind, "source": source.splitlines(keepends=True), "metadata": {}, "outputs": list(outputs)}


def test_a_notebook_is_its_cells_and_what_they_print_without_pictures(tmp_path: Path) -> None:
    printed = {"output_type": "stream", "text": ["\x1b[31mberth 4\x1b[0m taken\n"]}
    picture = {"output_type": "display_data", "data": {"image/png": "iVBORw0K" * 50, "text/plain": ["<Figure>"]}}
    cells = [
        cell("markdown", "# Berths\n\nTake one ![x](data:image/png;base64,AAAA) now."),
        cell("code", "take(4)", printed, picture),
        cell("raw", "raw"),
    ]
    book = {"cells": cells, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4}
    write_json(tmp_path / "a.ipynb", book)
    code = "```python\ntake(4)\n```\n\n```text\nberth 4 taken\n```\n\n```text\n<Figure>\n```\n"
    wanted = f"# Berths\n\nTake one  now.\n\n{code}"
    assert markdown(tmp_path / "a.ipynb") == wanted
    write_json(tmp_path / "b.ipynb", {"a": 1})
    assert "no notebook: it has no list `cells`" in refusal(tmp_path / "b.ipynb")


def test_subtitles_are_what_is_said(tmp_path: Path) -> None:
    srt = "1\n00:00:01,000 --> 00:00:03,000\n<i>The harbour</i>\nhas 42 berths.\n"
    srt += "\n2\n00:00:03,000 --> 00:00:04,000\nhas 42 berths.\n"
    vtt = "WEBVTT\n\nNOTE nobody\n\n00:01.000 --> 00:03.000 align:start\n<v Ana>The harbour\nhas 42 berths.\n"
    for name, text in (("a.srt", srt), ("a.vtt", vtt)):
        (tmp_path / name).write_text(text, "utf-8")
        assert markdown(tmp_path / name) == "The harbour\nhas 42 berths.\n"


def test_a_mail_is_its_subject_and_its_text_in_its_own_encoding(tmp_path: Path) -> None:
    mail = EmailMessage()
    mail["From"], mail["Subject"] = "a@example.org", "Lugares: Olhão"
    mail.set_content("O porto tem 42 lugares, não 43.\n", charset="latin-1", cte="8bit")
    (tmp_path / "a.eml").write_bytes(mail.as_bytes())
    assert markdown(tmp_path / "a.eml") == "# Lugares: Olhão\n\nO porto tem 42 lugares, não 43.\n"
    mail.add_alternative("<p>The same.</p>", subtype="html")
    mail.add_attachment(b"\0\1" * 500, maintype="image", subtype="png", filename="x.png")
    (tmp_path / "a.eml").write_bytes(mail.as_bytes())
    assert markdown(tmp_path / "a.eml").endswith("não 43.\n")
    page = EmailMessage()
    page.set_content("<h2>Berths</h2><p>It has <b>42</b>.</p>", subtype="html")
    (tmp_path / "b.eml").write_bytes(page.as_bytes())
    assert "## Berths" in markdown(tmp_path / "b.eml") and "42" in markdown(tmp_path / "b.eml")


@needs_field
def test_a_folder_of_documents_as_people_have_them() -> None:
    ledger = Ledger()
    texts = {
        document.path.rsplit("/")[-1]: document.text
        for document in read_source(Source(path="21-docs"), 0, FIELD, ledger)
    }
    assert {"guide.rst", "guide.adoc", "guide.tex", "notes.org", "walk.ipynb", "talk.srt", "mail.eml"} <= texts.keys()
    assert all(
        "berth" in text.lower()
        for name, text in texts.items()
        if "." in name and name.split(".")[1] in ("rst", "adoc", "tex", "org", "srt")
    )
    assert (
        "AAEC" not in texts["walk.ipynb"] and "toctree" not in texts["guide.rst"] and ":toc:" not in texts["guide.adoc"]
    )
    assert "usepackage" not in texts["guide.tex"] and "-->" not in texts["talk.srt"]
    assert {name.rsplit("/")[-1] for name in ledger.skipped} == {"NOTES", "old.doc", "sheet.xlsx"}
