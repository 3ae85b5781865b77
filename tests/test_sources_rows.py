"""Rows: every shape, every way in which a table can be broken."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afina.errors import DataError, Problem
from afina.recipe import Source
from afina.sources import Document, Ledger, read_source
from afina.sources.tables import RowProblems, list_rows

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")


def read(root: Path, path: str, ledger: Ledger | None = None, **keys: object) -> list[Document]:
    return list(read_source(Source(path=path, **keys), 0, root, ledger if ledger is not None else Ledger()))  # type: ignore[arg-type]


def read_text(root: Path, text: str, name: str = "a.jsonl", **keys: object) -> list[Document]:
    (root / name).write_text(text, encoding="utf-8")
    return read(root, name, **keys)


def problems_of(root: Path, text: str, name: str = "a.jsonl", **keys: object) -> list[Problem]:
    with pytest.raises(DataError) as caught:
        read_text(root, text, name, **keys)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"prompt": "Q", "completion": "A"}, "Q", "A"),
        ({"question": "Q", "answer": "A"}, "Q", "A"),
        ({"pergunta": "Q", "resposta": "A"}, "Q", "A"),
        ({"instruction": "Q", "input": "I", "output": "A"}, "Q\n\nI", "A"),
        ({"instruction": "Q", "input": "", "output": "A"}, "Q", "A"),
        ({"instruction": "Q", "input": None, "output": "A"}, "Q", "A"),
        ({"instruction": "Q", "output": "A"}, "Q", "A"),
        ({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}, "Q", "A"),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, "Q", "A"),
        ({"prompt": "", "completion": "A"}, "", "A"),
        ({"prompt": "Q", "completion": "A", "text": "rendered"}, "Q", "A"),
    ],
)
def test_the_shapes(tmp_path: Path, row: dict[str, object], prompt: str, answer: str) -> None:
    (document,) = read_text(tmp_path, json.dumps(row))
    assert document.messages == ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    assert document.kind == "messages" and document.text == ""


def test_a_text_row_is_a_text(tmp_path: Path) -> None:
    (document,) = read_text(tmp_path, '{"text": "T"}')
    assert (document.kind, document.text, document.messages) == ("text", "T", ())


def test_columns_that_play_no_part_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "Q", "completion": "AB", "id": 1234, "tags": ["x", "yz"]}\n')
    ledger = Ledger()
    read(tmp_path, "a.jsonl", ledger)
    (entry,) = ledger.files
    assert entry.dropped == {"column `id`": 4, "column `tags`": 3}
    assert (entry.chars_in, entry.chars_out, entry.documents, entry.balanced) == (10, 3, 1, True)


def test_lines_are_counted_from_1_and_blank_ones_count(tmp_path: Path) -> None:
    documents = read_text(tmp_path, '{"text": "a\u2028b"}\n\n\n{"text": "c"}')
    assert [(document.line, document.text) for document in documents] == [(1, "a\u2028b"), (4, "c")]


def test_every_broken_line_is_reported_with_its_number(tmp_path: Path) -> None:
    good = '{"text": "good"}'
    text = "\n".join([good] * 29 + ['{"text": "a\tb"}', good, '{"text": nope}', "[1]", '{"text": "a", "text": "b"}'])
    found = problems_of(tmp_path, text)
    assert [problem.where for problem in found] == ["a.jsonl:30", "a.jsonl:32", "a.jsonl:33", "a.jsonl:34"]
    assert found[0].what.startswith("not JSON: Invalid control character at")
    assert found[1].what == 'not JSON: Expecting value: `{"text": nope}`'
    assert "a row is an object" in found[2].what and "'text' stands twice" in found[3].what


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", "{,\n" * 50, "not JSON"),
        ("a.jsonl", "".join(f"[{n}]\n" for n in range(50)), "a row is an object"),
        ("a.jsonl", "".join(f'{{"prompt": "a", "completion": {n}}}\n' for n in range(50)), "is the number 0 where"),
        ("a.jsonl", '{"text": "\\ud83d"}\n' * 50, "half of a character"),
        ("a.jsonl", '{"messages": "[nope"}\n{"messages": "[[[ nope"}\n' * 25, "`messages` is no JSON"),
        ("a.jsonl", "".join(
            json.dumps({"messages": [{"role": "user", "content": "a"}] * n + [{"role": "x", "content": "b"}]}) + "\n"
            for n in range(50)
        ), "has the role 'x'"),
        ("a.json", json.dumps([[n] for n in range(50)]), "a row is an object"),
        ("a.csv", "prompt,completion\n" + "a,b,\n" * 50, "3 cells where the header has 2, and nothing behind its last"),
        ("a.csv", "prompt,completion\n" + "a,b,c\n" * 50, "3 cells where the header has 2"),
        ("a.csv", "prompt,completion\n" + "a\n" * 50, "1 cells where the header has 2"),
        ("a.csv", 'prompt,completion,note\na,b,c\n' + 'a,b, "c, d"\n' * 49 + 'a, "b",c\n', "4 cells"),
        ("a.tsv", "prompt\tcompletion\n" + "a\tb\t\n" * 50, "and nothing behind its last"),
    ],
    ids=["jsonl", "no object", "number", "character", "text", "turn", "list", "comma", "cells", "cell", "space", "tab"],
)  # fmt: skip
def test_rows_that_are_wrong_in_one_way_are_told_once(tmp_path: Path, name: str, text: str, said: str) -> None:
    """What wrote a file makes its mistake in each of its rows: the message stood there twenty times, of one comma."""
    found = problems_of(tmp_path, text, name)
    assert said in found[0].what and found[0].fix
    assert re.search(r"\((49|50) rows, first line \d\)", found[0].what) and len(found) <= 2


def test_twenty_ways_to_be_wrong_are_told_and_the_others_counted(tmp_path: Path) -> None:
    found = problems_of(tmp_path, "".join(f'{{"column {chr(97 + n)}": 1}}\n' for n in range(25)))
    assert [problem.where for problem in found[:-1]] == [f"a.jsonl:{n}" for n in range(1, 21)]
    assert found[-1].what == "and 5 more rows that are wrong in other ways"


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("more", [1, 3])
def test_columns_without_a_name_that_are_empty_are_no_columns(tmp_path: Path, mark: str, more: int) -> None:
    """As the message of a mark at the end of every row advises, and as spreadsheets write what is beside a table."""
    ledger = Ledger()
    (tmp_path / "a.csv").write_text(
        "".join(f"{mark.join(row)}{mark * more}\n" for row in (["prompt", "completion"], "ab"))
    )
    (document,) = read(tmp_path, "a.csv", ledger)
    assert [turn["content"] for turn in document.messages] == ["a", "b"]
    assert ledger.files[0].balanced and not ledger.files[0].dropped


def test_what_stands_in_columns_without_a_name_is_counted(tmp_path: Path) -> None:
    ledger = Ledger()
    (tmp_path / "a.csv").write_text("prompt,completion,,\na,b,,xyz\n")
    read(tmp_path, "a.csv", ledger)
    assert ledger.files[0].dropped == {"column `(column 4)`": 3}


@pytest.mark.parametrize("value", ["null", "3", "true", '["a"]', '{"a": 1}'])
def test_wrong_types_are_refused(tmp_path: Path, value: str) -> None:
    (problem,) = problems_of(tmp_path, '{"text": "a"}\n{"prompt": "Q", "completion": ' + value + "}")
    assert problem.where == "a.jsonl:2" and "`completion` is" in problem.what and "text is needed" in problem.what


def test_half_of_a_character_is_refused(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, '{"text": "\\ud83d"}')
    assert "half of a character" in problem.what
    assert read_text(tmp_path, '{"text": "\\ud83d\\ude00"}')[0].text == "😀"


@pytest.mark.parametrize(
    ("turns", "what"),
    [
        ([{"role": "user", "content": "Q"}], "ends with the user"),
        ([{"role": "tool", "content": "Q"}], "ends with the tool"),
        ([{"role": "narrator", "content": "Q"}], "has the role 'narrator'"),
        ([{"role": "assistant", "content": None}], "has null as `content`"),
        ([{"role": "assistant"}], "has no `content`"),
        ([{"role": "assistant", "content": "", "tool_calls": [{}]}], "is no call of a function"),
        ([{"role": ["user"], "content": "x"}], "has the role ['user']"),
        ([], "an empty list"),
        ("text", "a text"),
        (["x"], "is a text where an object"),
    ],
)
def test_conversations_are_checked(tmp_path: Path, turns: object, what: str) -> None:
    (problem,) = problems_of(tmp_path, json.dumps({"messages": turns}))
    assert what in problem.what and problem.fix and problem.where == "a.jsonl:1"


def test_unknown_columns_are_listed_with_the_nearest_fix(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, '{"frage": "Q", "antwort": "A"}\n' * 3)
    assert "unknown columns: `frage`, `antwort`; known: messages; " in problem.what
    assert "(3 rows, first line 1)" in problem.what
    assert problem.fix == "name them: `columns: {prompt: frage, completion: antwort}` on the source"
    (problem,) = problems_of(tmp_path, '{"question": "Q", "reply": "A"}')
    assert "`columns: {prompt: question, completion: reply}`" in problem.fix


def test_columns_can_be_named(tmp_path: Path) -> None:
    text = '{"frage": "Q", "antwort": "A", "text": "T"}'
    (document,) = read_text(tmp_path, text, columns={"prompt": "frage", "completion": "antwort"})
    assert [message["content"] for message in document.messages] == ["Q", "A"]
    assert read_text(tmp_path, text, columns={"text": "antwort"})[0].text == "A"
    assert "no column `nope`, which `columns` names" in problems_of(tmp_path, text, columns={"text": "nope"})[0].what
    (problem,) = problems_of(tmp_path, text, columns={"prompt": "frage", "output": "antwort"})
    assert "belong to different shapes" in problem.what


def test_two_shapes_in_one_row_are_refused(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, '{"prompt": "a", "completion": "b", "question": "c", "answer": "d"}')
    assert "fit several shapes: prompt/completion; question/answer" in problem.what


@pytest.mark.parametrize(("name", "text"), [("a.jsonl", ""), ("a.json", "[]"), ("a.csv", "prompt,completion\n")])
def test_a_file_without_rows_is_an_error(tmp_path: Path, name: str, text: str) -> None:
    (problem,) = problems_of(tmp_path, text, name)
    assert problem.where == name and ("no row" in problem.what or "is empty" in problem.what)


def test_a_json_list_gives_the_line_of_each_item(tmp_path: Path) -> None:
    text = '[\n  {"text": "a"},\n  {\n    "text": "b"\n  }, {"text": "c"}\n]\n'
    documents = read_text(tmp_path, text, "a.json")
    assert [(document.line, document.text) for document in documents] == [(2, "a"), (3, "b"), (5, "c")]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[{"text": "a"},\n{"text": }]', 2),
        ('[{"text": "a"}\n{"text": "b"}]', 2),
        ('[{"text": "a"}\n', 2),
        ('[{"text": "a"},\n]', 2),
        ('[{"text": "a"}]\nmore', 2),
    ],
)
def test_a_broken_json_list_says_where(tmp_path: Path, text: str, line: int) -> None:
    (problem,) = problems_of(tmp_path, text, "a.json")
    assert problem.where == f"a.json:{line}"


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2), max_size=5), st.integers(0, 3))
def test_list_rows_agrees_with_the_json_module(rows: list[dict[str, str]], spaces: int) -> None:
    problems = RowProblems("a.json")
    text = json.dumps(rows, indent=spaces or None, ensure_ascii=False)
    assert [row for _, row in list_rows(text, problems)] == json.loads(text) == rows
    problems.check()


def test_what_a_json_file_holds(tmp_path: Path) -> None:
    assert read_text(tmp_path, '{"text": "a"}\n{"text": "b"}\n', "a.json")[1].text == "b"
    assert read_text(tmp_path, '{"prompt": "a", "completion": "b"}\n', "a.json")[0].kind == "messages"
    prose = '{\n "nome": "Hassan Nader",\n "clubes": [{"clube": "Farense"}]\n}'
    assert read_text(tmp_path, prose, "a.json")[0].text == prose
    assert read_text(tmp_path, '{"data": [{"prompt": "a", "completion": "b"}]}', "a.json")[0].kind == "messages"
    assert "one JSON object, not rows" in problems_of(tmp_path, prose, "a.json", kind="rows")[0].what


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_csv_with_its_delimiter_and_physical_lines(tmp_path: Path, mark: str) -> None:
    text = f'prompt{mark}completion\r\nQ1{mark}"two\r\nlines"\r\n"Q{mark}2"{mark}A2\r\n'
    documents = read_text(tmp_path, text, "a.csv")
    assert [document.line for document in documents] == [2, 4]
    assert [document.messages[1]["content"] for document in documents] == ["two\nlines", "A2"]
    assert documents[1].messages[0]["content"] == f"Q{mark}2"


def test_broken_csv_says_where(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, "prompt,completion\na,b\nc,d,e\n", "a.csv")
    assert problem.where == "a.csv:3" and "3 cells where the header has 2" in problem.what
    (problem,) = problems_of(tmp_path, 'prompt,completion\na,b\n"c,d\n', "a.csv")
    assert problem.where == "a.csv:3" and "not CSV" in problem.what
    assert "stand twice" in problems_of(tmp_path, "text,text\na,b\n", "a.csv")[0].what


@pytest.mark.parametrize("header", ["prompt, completion", 'prompt, "completion"', "prompt,completion"])
def test_a_quote_behind_a_space_is_a_mark_around_a_cell_and_is_not_learned(tmp_path: Path, header: str) -> None:
    """As people write lists by hand. Python's reader takes ` "b"` for a text with two quotes in it."""
    text = f'{header}\n"Where, is it?", "Here."\nAnd then?, "There, and here."\n'
    documents = read_text(tmp_path, text, "a.csv")
    asked = [[turn["content"] for turn in document.messages] for document in documents]
    assert asked == [["Where, is it?", "Here."], ["And then?", "There, and here."]]


def test_a_quote_behind_a_space_in_a_few_rows_is_refused(tmp_path: Path) -> None:
    text = 'prompt,completion\na,b\nc, "d"\n'
    (problem,) = problems_of(tmp_path, text, "a.csv")
    assert problem.where == "a.csv:3" and "a quote behind a space" in problem.what
    kept = read_text(tmp_path, 'prompt,completion\na,b\nc," ""d"""\n', "a.csv")
    assert kept[1].messages[1]["content"] == ' "d"', "it is quoted as it should be, and so it is the text"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_objects_in_objects_without_end_are_named(tmp_path: Path, name: str) -> None:
    (problem,) = problems_of(tmp_path, '{"a":' * 50_000 + "1" + "}" * 50_000, name)
    assert "recursion" in problem.what


def test_an_object_of_prose_may_hold_a_key_twice_and_a_row_may_not(tmp_path: Path) -> None:
    prose = '{"name": "a", "name": "b", "at": [1]}'
    assert read_text(tmp_path, prose, "a.json")[0].text == prose
    (problem,) = problems_of(tmp_path, '{"prompt": "a", "completion": "b", "completion": "c"}', "a.json")
    assert "'completion' stands twice" in problem.what


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """Its hash would be noted, and other rows learned."""
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one"}\n' * 3)
    documents = read_source(Source(path="a.jsonl"), 0, tmp_path, Ledger())
    assert next(documents).text == "one"
    with file.open("a") as opened:
        opened.write('{"text": "more"}\n')
    with pytest.raises(DataError, match="changed while it was read"):
        list(documents)


def test_a_file_that_is_only_touched_while_it_is_read_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one"}\n' * 3)
    documents = read_source(Source(path="a.jsonl"), 0, tmp_path, Ledger())
    next(documents)
    os.utime(file, (1, 1))
    assert len(list(documents)) == 2


def test_long_cells_are_read(tmp_path: Path) -> None:
    assert len(read_text(tmp_path, "text\n" + "x" * 200_000, "a.csv")[0].text) == 200_000


@needs_shared
@pytest.mark.parametrize(
    ("path", "rows"),
    [("farense/train_full.jsonl", 2413), ("ptbr/canarim/val.jsonl", 1000), ("zig/training-prompts.jsonl", 15)],
)
def test_real_rows(path: str, rows: int) -> None:
    ledger = Ledger()
    documents = read(SHARED, path, ledger)
    raw = [json.loads(line) for line in (SHARED / path).read_text(encoding="utf-8").split("\n") if line.strip()]
    assert len(documents) == len(raw) == rows and ledger.files[0].balanced
    for document, row in zip(documents, raw, strict=True):
        question = (
            row["prompt"] if "prompt" in row else "\n\n".join(filter(str.strip, [row["instruction"], row["input"]]))
        )
        assert document.messages[0]["content"] == question
        assert document.messages[1]["content"] == row.get("completion", row.get("output"))


@needs_shared
def test_real_unknown_columns() -> None:
    with pytest.raises(DataError, match=r"columns: \{output: reference\}") as caught:
        read(SHARED, "ptbr/canarim/extrinsic_seed123_qa.jsonl")
    assert "(200 rows, first line 1)" in caught.value.problems[0].what
    assert len(read(SHARED, "ptbr/canarim/extrinsic_seed123_qa.jsonl", columns={"output": "reference"})) == 200


def test_a_blank_system_turn_is_none_as_in_a_column_of_its_own(tmp_path: Path):
    turns = [{"from": "system", "value": " "}, {"from": "human", "value": "Onde?"}, {"from": "gpt", "value": "Faro"}]
    column = {"system": " ", "conversations": turns[1:]}
    found = read_text(tmp_path, "\n".join(json.dumps(each) for each in ({"conversations": turns}, column)))
    assert [[turn["role"] for turn in each.messages] for each in found] == [["user", "assistant"]] * 2
    (problem,) = problems_of(tmp_path, json.dumps({"conversations": turns[:1]}))
    assert "nothing but a blank system text" in problem.what


def test_a_mark_that_there_is_no_input_is_no_part_of_the_question(tmp_path: Path):
    marks = ("<noinput>", " <NoInput>\n", "", "x")
    rows = [{"instruction": "Onde?", "input": mark, "output": "Faro"} for mark in marks]
    ledger = Ledger()
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read(tmp_path, "a.jsonl", ledger)
    assert [each.messages[0]["content"] for each in found] == ["Onde?", "Onde?", "Onde?", "Onde?\n\nx"]
    (entry,) = ledger.files
    assert entry.balanced and entry.dropped["marks that a question has no input"] == 2 * len("<noinput>")


def test_a_conversation_by_columns_is_its_turns(tmp_path: Path):
    turns = {"from": ["human", "gpt"], "value": ["Onde?", "Faro"], "weight": [None, 1], "name": []}
    ledger = Ledger()
    (tmp_path / "a.jsonl").write_text(json.dumps({"conversations": turns}))
    (document,) = read(tmp_path, "a.jsonl", ledger)
    assert [(turn["role"], turn["content"]) for turn in document.messages] == [("user", "Onde?"), ("assistant", "Faro")]
    assert ledger.files[0].balanced
    (problem,) = problems_of(tmp_path, json.dumps({"messages": {"role": ["user", "assistant"], "content": ["Onde?"]}}))
    assert "has the role" in problem.what


def test_a_byte_order_mark_of_each_file_that_was_put_together_is_none_of_a_row(tmp_path: Path):
    row = json.dumps({"prompt": "Onde?", "completion": "Faro"})
    ledger = Ledger()
    (tmp_path / "a.jsonl").write_text(f"\ufeff{row}\n\ufeff{row}\n", encoding="utf-8")
    assert [each.line for each in read(tmp_path, "a.jsonl", ledger)] == [1, 2]
    assert ledger.files[0].balanced and ledger.files[0].dropped["byte order mark"] == 2
