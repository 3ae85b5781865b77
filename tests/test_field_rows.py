"""Rows as people keep them: fields that decide what is learned, shapes, and what is wrong with single rows.

Each kind is tried on the input of ``../shared/field`` where it is here, and on siblings of it written below.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import times

from afina.dataset.audit.audit import audit_files
from afina.dataset.build.build import build_dataset
from afina.dataset.build.intake import Intake, document_chars
from afina.errors import DataError
from afina.recipe import Recipe, Source
from afina.sources import Document, Ledger, read_source
from afina.sources.files import SourceReading
from afina.sources.rows import row_documents
from afina.sources.tables import RowProblems
from afina.text.document import FileLedger
from afina.text.example import example_chars, has_answer, read_examples
from afina.text.masking import mask_example

FIELD = Path(__file__).parents[2] / "shared" / "field" / "data"
TIDE = {
    "name": "tide",
    "parameters": {
        "type": "object",
        "properties": {"port": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["port"],
    },
}
TOOL = {"type": "function", "function": TIDE}


def field(path: str) -> Path:
    if not (FIELD / path).exists():
        pytest.skip("needs ../shared/field, which is not here")
    return FIELD / path


def read(folder: Path, *rows: Any, **source: Any) -> list[Document]:
    """The documents of rows; of texts as they stand."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return read_file(folder / "a.jsonl", **source)


def read_file(file: Path, **source: Any) -> list[Document]:
    ledger = Ledger()
    documents = list(read_source(Source(path=file.name, **source), 0, file.parent, ledger))
    assert all(entry.balanced for entry in ledger.files)
    assert sum(entry.chars_out for entry in ledger.files) == sum(map(document_chars, documents))
    return documents


def refused(folder: Path, *rows: Any, **source: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, *rows, **source)
    return str(caught.value)


def findings(*files: Path) -> dict[str, Any]:
    return {each.name: each for each in audit_files(files).findings}


def audited(folder: Path, *rows: Any) -> dict[str, Any]:
    (folder / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return findings(folder / "a.jsonl")


def learned(documents: list[Document]) -> list[str]:
    return [
        message["content"]
        for document in documents
        for message in document.messages
        if message["role"] == "assistant" and message.get("learned", True)
    ]


def asks(*answers: Any, **more: Any) -> dict[str, Any]:
    """A conversation whose answers are these, each to a question."""
    turns = []
    for answer in answers:
        turns += [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "Here."} | answer]
    return {"messages": turns, **more}


# ---- what is learned


def test_answers_marked_as_not_learned_are_context() -> None:
    documents = read_file(field("01-weight/rows.jsonl"))
    assert learned(documents) == [
        "Port 7411, as in vela.toml.",
        "Run `vela stop`.",
        "In /var/log/vela.",
        "The harbour office of Olhão.",
    ]


@pytest.mark.parametrize("no", [{"weight": 0.0}, {"loss": "false"}, {"trainable": False}, {"learned": False}])
def test_every_way_to_say_that_an_answer_is_not_learned(tmp_path: Path, no: dict[str, Any]) -> None:
    (document,) = read(tmp_path, asks(no | {"content": "No."}, {"content": "Yes."}))
    assert learned([document]) == ["Yes."]
    (alone,) = read(tmp_path, asks(no))
    assert not has_answer(alone.messages)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (asks({"weight": 0.5}), "weight"),
        (asks({}, weights=[0, 1]), "weights"),
        (asks({"mask": True}), "mask"),
        (asks({}, images=["a.png"]), "images"),
        (asks({"audio": {"data": "x"}}), "audio"),
        (
            {"messages": [{"role": "user", "content": "a", "train": True}, {"role": "assistant", "content": "b"}]},
            "train",
        ),
        ({"prompt": "Which?", "completion": "This.", "context": "A or b."}, "context"),
        ({"prompt": "Which?", "completion": "This.", "input": "A or b."}, "input"),
        ({"question": "Which?", "choices": ["a", "b"], "answer": "b"}, "choices"),
        ({"prompt": "Who?", "completion": "Ana.", "label": 1}, "label"),
        ({"prompt": "Who?", "completion": "Ana.", "rejected": "Rui."}, "rejected"),
        ({"text": "A text.", "system": "Be kind."}, "system"),
        ({"text": "A text.", "label": "sports"}, "label"),
        ({"prompt": "Who?", "completion": "Ana.", "input_ids": [1, 2]}, "input_ids"),
        (asks({}, {}, reasoning="Hm."), "reasoning"),
    ],
)
def test_a_field_that_decides_what_is_learned_is_refused_by_its_name_all_rows_at_once(
    tmp_path: Path, row: dict[str, Any], name: str
) -> None:
    said = refused(tmp_path, row, {"prompt": "a", "completion": "b"}, row)
    assert f"`{name}`" in said and "(2 rows, first line 1)" in said and "leave_out" in said
    found = audited(tmp_path, row, {"prompt": "a", "completion": "b"}, row)["unlearned_field"]
    assert (found.severity, found.count) == ("fatal", 2) and f"`{name}`" in found.what
    if name not in ("chosen", "rejected"):
        assert len(read(tmp_path, row, leave_out=[name])) == 1


def test_fields_that_say_nothing_stop_nothing(tmp_path: Path) -> None:
    empty = {"images": [], "system": None, "history": [], "tools": "[]", "label": None, "input": " ", "weight": None}
    (document,) = read(tmp_path, {"instruction": "Who?", "output": "Ana."} | empty)
    assert [each["content"] for each in document.messages] == ["Who?", "Ana."] and document.tools == ()


def test_a_column_that_is_left_out_and_holds_much_of_the_text_is_a_warning(tmp_path: Path) -> None:
    rows = [{"prompt": "Who?", "completion": "Ana.", "essay": "x" * 40, "url": "u" * 90}] * 3
    found = audited(tmp_path, *rows)["large_column_left_out"]
    assert found.severity == "warning" and [each["text"][:7] for each in found.examples] == ["`essay`"]


def test_images_are_refused_by_kind_and_text_parts_are_one_text(tmp_path: Path) -> None:
    (document,) = read_file(field("23-parts/text.jsonl"))
    assert document.messages[0]["content"] == "Where is the mill?The tide mill I mean."
    with pytest.raises(DataError) as caught:
        read_file(field("23-parts/image.jsonl"))
    assert "type 'image_url'" in str(caught.value) and "`images` holds images" in str(caught.value)


# ---- calls and thoughts


@pytest.mark.parametrize("name", ["dict", "string", "toolsjson"])
def test_calls_have_one_form_however_they_are_encoded(name: str) -> None:
    (document,) = read_file(field(f"02-toolcalls/{name}.jsonl"))
    (call,) = next(each["tool_calls"] for each in document.messages if "tool_calls" in each)
    assert call["function"]["name"] == "tide" and call["function"]["arguments"]["port"] in ("Faro", "Lagos", "Tavira")
    assert document.tools[0]["function"]["parameters"]["required"] == ["port"]
    assert [each["role"] for each in document.messages][-3:] == ["assistant", "tool", "assistant"]


CALL = {"name": "tide", "arguments": {"port": "Faro"}}
RESULT = {"role": "tool", "content": "14:20"}
ASKED = {"role": "user", "content": "High water?"}
SAID = {"role": "assistant", "content": "At 14:20."}


@pytest.mark.parametrize(
    "turns",
    [
        [ASKED, {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]}],
        [ASKED, {"role": "assistant", "tool_calls": json.dumps([{"function": CALL}])}],
        [ASKED, {"role": "assistant", "content": "", "function_call": {**CALL, "arguments": '{"port": "Faro"}'}}],
        [
            ASKED,
            {"role": "assistant", "content": "", "tool_calls": [{**CALL, "arguments": '"{\\"port\\": \\"Faro\\"}"'}]},
        ],
        [ASKED, {"role": "assistant", "tool_calls": [{**CALL, "arguments": {"port": "Faro", "days": None}}]}],
        [{"from": "human", "value": "High water?"}, {"from": "function_call", "value": json.dumps(CALL)}],
        [
            {"from": "human", "value": "High water?"},
            {"from": "gpt", "value": f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>"},
        ],
        [{"from": "human", "value": "High water?"}, {"from": "gpt", "value": f"<tool_call>{CALL}</tool_call>"}],
    ],
)
@pytest.mark.parametrize(
    "tools", [[TOOL], json.dumps([TOOL]), [TIDE], [json.dumps(TIDE)], {"type": "function", "function": TIDE}]
)
def test_every_form_of_a_call_and_of_its_functions(tmp_path: Path, turns: list[Any], tools: Any) -> None:
    (document,) = read(tmp_path, {"messages": turns, "tools": tools})
    call = {"type": "function", "function": CALL}
    assert document.messages == (ASKED, {"role": "assistant", "content": "", "tool_calls": [call]})
    assert document.tools == (TOOL,) and has_answer(document.messages)


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "tool", "content": {"time": "14:20"}},
        {"role": "ipython", "content": '{"time": "14:20"}'},
        {"from": "observation", "value": '{"time": "14:20"}'},
        {"from": "tool", "value": '<tool_response>\n{"time": "14:20"}\n</tool_response>'},
    ],
)
def test_every_form_of_a_result(tmp_path: Path, turn: dict[str, Any]) -> None:
    calling = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    (document,) = read(tmp_path, {"messages": [ASKED, calling, turn, SAID]})
    assert document.messages[2] == {"role": "tool", "content": '{"time": "14:20"}'}


def test_calls_that_are_none_are_refused_with_their_place_or_dropped(tmp_path: Path) -> None:
    turns = [ASKED, {"role": "assistant", "tool_calls": [{**CALL, "arguments": "port=Faro"}]}]
    assert "`messages[1].tool_calls[0]` calls tide with arguments that are no JSON" in refused(
        tmp_path, {"messages": turns}
    )
    assert audited(tmp_path, {"messages": turns})["broken_call"].count == 1


def calling(*calls: Any, after: Any = (), tools: Any = (TOOL,)) -> dict[str, Any]:
    return {"messages": [ASKED, {"role": "assistant", "tool_calls": list(calls)}, *after], "tools": list(tools)}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (calling({"name": "tides", "arguments": {}}), "tool_unknown"),
        (calling(CALL, tools=()), "tool_unknown"),
        (calling({"name": "tide", "arguments": {"days": 2}}), "tool_missing_argument"),
        (calling({"name": "tide", "arguments": {"port": 3}}), "tool_wrong_argument"),
        (calling({"name": "tide", "arguments": {"port": "Faro", "days": True}}), "tool_wrong_argument"),
        (calling({"name": "tide", "arguments": {"port": "Faro", "hour": 1}}), "tool_wrong_argument"),
        (calling(CALL, after=[RESULT, RESULT, SAID]), "tool_result_without_call"),
        (calling({**CALL, "id": "a"}, after=[{**RESULT, "tool_call_id": "b"}, SAID]), "tool_result_without_call"),
        (calling(CALL, after=[ASKED, SAID]), "tool_call_without_result"),
        (calling({**CALL, "id": "a"}, {**CALL, "id": "a"}), "tool_id_twice"),
        (calling(CALL, tools=[TOOL, TOOL]), "tool_definition"),
        (calling(CALL, tools=[{"name": "tide"}]), "tool_definition"),
    ],
)
def test_what_is_wrong_with_calls_is_found(tmp_path: Path, row: dict[str, Any], name: str) -> None:
    found = audited(tmp_path, row)
    assert {each for each in found if each.startswith("tool_")} == {name} and found[name].count == 1


@pytest.mark.parametrize(
    "schema", ["text", True, {"type": [["a"]]}, {"type": "object", "required": [["a"]], "properties": 3}]
)
def test_schemas_that_are_none_stop_no_check(tmp_path: Path, schema: Any) -> None:
    assert "tool_unknown" not in audited(tmp_path, calling(CALL, tools=[{"name": "tide", "parameters": schema}]))


def test_calls_that_are_right_are_no_finding(tmp_path: Path) -> None:
    both = calling({**CALL, "id": "a"}, {**CALL, "id": "b"}, after=[RESULT, RESULT, SAID])
    assert not {each for each in audited(tmp_path, both, calling(CALL)) if each.startswith("tool_")}


def test_thoughts_are_read_under_every_name_and_counted_where_only_some_answers_have_them() -> None:
    documents = read_file(field("04-reasoning/rows.jsonl"))
    thoughts = [document.messages[-1].get("reasoning_content") for document in documents]
    assert thoughts == ["3 rows of 14 make 3 * 14 = 42.", "5 * 9 = 45.", None]
    assert "2 of 3 answers think" in findings(field("04-reasoning/rows.jsonl"))["think_on_some"].what


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning", "Complex_CoT"])
def test_a_thought_in_a_column_of_its_own_is_the_answers(tmp_path: Path, name: str) -> None:
    (document,) = read(tmp_path, {"Question": "Who?", name: "It was Ana.", "Response": "Ana."})
    assert document.messages[-1] == {"role": "assistant", "content": "Ana.", "reasoning_content": "It was Ana."}


def test_thoughts_that_are_opened_and_never_closed_or_the_other_way_round(tmp_path: Path) -> None:
    assert findings(field("06-orphan-think/rows.jsonl"))["think_unbalanced"].count == 3
    fine = "<think>\na < b\n</think>\n\nYes; `</think>` ends a thought.\n```\n<think>\n```"
    assert "think_unbalanced" not in audited(tmp_path, {"prompt": "Is it so?", "completion": fine})


# ---- shapes


def test_rows_of_one_file_each_by_its_own_shape() -> None:
    with pytest.raises(DataError) as caught:
        read_file(field("18-mixed/rows.jsonl"))
    (problem,) = caught.value.problems
    assert problem.where.endswith(":11") and "columns: {prompt: title" not in problem.fix


@pytest.mark.parametrize(
    "row",
    [
        {"Instruction": "Who?", "Response": "Ana."},
        {"input": "Who?", "output": "Ana."},
        {"query": "Who?", "response": "Ana.", "id": 7},
        {"prompt": [{"role": "user", "content": "Who?"}], "completion": [{"role": "assistant", "content": "Ana."}]},
        {"prompt": [{"role": "user", "content": "Who?"}], "completion": "Ana."},
        {"conversation": [{"human": "Who?", "assistant": "Ana."}]},
        {"conversation": [{"input": "Who?", "output": "Ana.", "system": ""}]},
        {"messages": json.dumps([{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ana."}])},
        {"messages": None, "prompt": "Who?", "completion": "Ana.", "text": None},
        {"messages": [{"role": "human", "content": "Who?"}, {"role": "model", "content": "Ana."}], "prompt": "Who?"},
        {
            "problem": "Who?",
            "messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ana."}],
        },
    ],
)
def test_shapes_that_need_no_columns(tmp_path: Path, row: dict[str, Any]) -> None:
    (document,) = read(tmp_path, row)
    assert document.messages == ({"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ana."})


def test_earlier_turns_and_the_system_text_of_a_column_come_first() -> None:
    documents = read_file(field("11-history/rows.jsonl"))
    assert [len(document.messages) for document in documents] == [7, 2]
    assert documents[0].messages[0] == {"role": "system", "content": "You are the museum's desk."}
    assert documents[0].messages[-2]["content"] == "And on Sundays?" and len(learned(documents)) == 4
    (document,) = read_file(field("03b-system-column/rows.jsonl"))
    assert [each["role"] for each in document.messages] == ["system", "user", "assistant"] and not document.tools


def test_a_system_text_in_parts_is_a_system_turn(tmp_path: Path) -> None:
    said = [{"role": "user", "parts": [{"text": "Who?"}]}, {"role": "model", "parts": [{"text": "Ana."}]}]
    (document,) = read(
        tmp_path, {"systemInstruction": {"role": "user", "parts": [{"text": "Be kind."}]}, "contents": said}
    )
    assert [(each["role"], each["content"]) for each in document.messages][:2] == [
        ("system", "Be kind."),
        ("user", "Who?"),
    ]


def test_results_and_calls_that_are_parts(tmp_path: Path) -> None:
    calls = [{"type": "tool_use", "id": "1", "name": "tide", "input": {"port": "Faro"}}]
    result = [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "14:20"}]}]
    turns = [ASKED, {"role": "assistant", "content": calls}, {"role": "user", "content": result}, SAID]
    (document,) = read(tmp_path, {"messages": turns, "tools": [{"name": "tide", "input_schema": TIDE["parameters"]}]})
    assert document.messages[1]["tool_calls"][0]["function"] == CALL and document.tools == (TOOL,)
    assert document.messages[2] == {"role": "tool", "content": "14:20", "tool_call_id": "1"}


def test_two_shapes_that_say_different_things_are_refused(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ana."}]
    other = {"messages": turns, "question": "Where?", "answer": "Faro."}
    assert "fit several shapes: messages; question/answer" in refused(tmp_path, other)
    better = {"prompt": "Who?", "chosen": "Rui.", "rejected": "I."}
    assert "several shapes" in refused(tmp_path, better | {"messages": turns})
    assert read(tmp_path, better | {"messages": turns}, columns={"messages": "messages"})[0].rejected is None


@pytest.mark.parametrize(
    ("name", "rows"), [("a-implicit", 2), ("b-ultra", 1), ("c-hh", 1), ("d-lf", 1), ("f-alpaca", 1), ("g-orca", 1)]
)
def test_preferences_in_the_forms_that_people_keep_them_in(name: str, rows: int) -> None:
    documents = read_file(field(f"13-preference/{name}.jsonl"))
    assert len(documents) == rows and all(each.rejected and each.messages[-2]["role"] == "user" for each in documents)


@pytest.mark.parametrize("name", ["e-list", "h-output"])
def test_lists_of_answers_say_what_to_write(name: str) -> None:
    with pytest.raises(DataError, match=r"list of texts.*\n.*`chosen` and `rejected`"):
        read_file(field(f"13-preference/{name}.jsonl"))


def test_a_preference_whose_better_answer_is_the_conversations_own(tmp_path: Path) -> None:
    (document,) = read(tmp_path, asks({"content": "Good."}, rejected_response="Bad."))
    assert (document.messages[-1]["content"], document.rejected) == ("Good.", "Bad.")


def test_rated_rows_of_conversations_are_rated(tmp_path: Path) -> None:
    assert [each.label for each in read(tmp_path, asks({}, kto_tag=0), asks({}, label=True))] == [False, True]
    rows = [{"prompt": f"Who {n}?", "completion": "Ana.", "label": n % 2} for n in range(2)]
    assert [each.label for each in read(tmp_path, *rows, columns={"label": "label"})] == [False, True]


def test_conversations_that_cannot_be_learned_are_refused_by_row_and_others_read(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_file(field("08-alternate/rows.jsonl"))
    assert [problem.where.rpartition(":")[2] for problem in caught.value.problems] == ["3", "6", "7"]
    assert "(2 rows, first line 3)" in caught.value.problems[0].what


def test_rows_that_cannot_be_used_are_dropped_and_counted_where_the_recipe_says_so(tmp_path: Path) -> None:
    good = [{"prompt": f"Who is number {n}?", "completion": f"Ana {n}."} for n in range(12)]
    bad = ['{"prompt": nope}', json.dumps(asks({"weight": 0.5})), json.dumps({"messages": [ASKED]}), '{"a": 1}']
    (tmp_path / "a.jsonl").write_text("\n".join([*map(json.dumps, good), *bad]))
    settings = {"on_unreadable": "drop", "validation": 0.25}
    recipe = Recipe(name="x", base="b", root=str(tmp_path), sources=[{"path": "a.jsonl"}], dataset=settings)  # type: ignore[list-item, arg-type]
    summary = build_dataset(recipe, tmp_path / "dataset")
    assert summary["dropped"] == {"unreadable": 4} and summary["balanced"]
    rows = [json.loads(line) for line in (tmp_path / "dataset" / "dropped.jsonl").read_text().splitlines()]
    assert [row["where"] for row in rows] == [f"a.jsonl:{line}" for line in (13, 14, 15, 16)]
    assert "not JSON" in rows[0]["what"] and "`weight` is 0.5" in rows[1]["what"]


def test_a_file_that_breaks_off_stops_whatever_the_policy(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"prompt": "a", "completion": "b"}, {"prompt"')
    recipe = Recipe(name="x", base="b", root=str(tmp_path), sources=[{"path": "a.json"}],
                    dataset={"on_unreadable": "drop"})  # type: ignore[list-item, arg-type]  # fmt: skip
    with pytest.raises(DataError, match="what follows was not read"):
        build_dataset(recipe, tmp_path / "dataset")


# ---- lines that are no rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n  "prompt": "a",\n  "completion": "b"\n}\n', "an object over several lines"),
        ("{'prompt': 'One?', 'completion': None}", "a Python dictionary"),
        (
            '{"prompt": "a", "completion": "b"},\n{"prompt": "c", "completion": "d"},',
            "a comma behind the object (2 rows",
        ),
        ('{"prompt": "a", "completion": "b",}', "a comma behind the last key"),
        ('{"prompt": "a", "completion": "b"} {"prompt": "c", "completion": "d"}', "several objects on one line"),
        ('{"prompt": "a", "completion": "b", "completion": "c"}', "'completion' stands twice"),
        ('{"prompt": "a", "completion": NaN}', "is NaN, an empty cell"),
        ('{"prompt": "a", "completion": 3}', "is the number 3"),
        (
            '{"prompt": "a", "completion": "b"}\n{"prompt": {"0": "a"}, "completion": {"0": "b"}}',
            "is a whole column",
        ),
        ("{\"messages\": \"[{'role': 'user'}]\"}", "a Python list written as text"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, *text.split("\n"))


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("a-trailing.json", 4, "a comma behind the last item"),
        ("b-pretty.jsonl", 1, "over several lines"),
        ("e-python.jsonl", 1, "single quotes"),
        ("f-commas.jsonl", 1, "a comma behind the object (2 rows"),
        ("k-dup.jsonl", 1, "stands twice"),
        ("r-cut.jsonl", 2, "Unterminated string"),
    ],
)
def test_mistakes_of_whole_files_are_named(name: str, line: int, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read_file(field(f"24-json/{name}"))
    assert said in str(caught.value) and caught.value.problems[0].where.endswith(f":{line}")


def test_every_answer_that_is_no_text_is_an_error_of_its_row() -> None:
    with pytest.raises(DataError) as caught:
        read_file(field("24-json/j-nan.jsonl"))
    assert Counter(problem.where[-1] for problem in caught.value.problems) == Counter("1345")


def test_a_table_without_names_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the first line looks like a row"):
        read_file(field("15-csv/noheader.csv"))


def test_cells_that_were_written_as_nan_are_found(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Say it.", "input": "nan", "output": "Yes."},
        {"prompt": "Say it again.", "completion": "None"},
        {"prompt": "Say it.", "completion": "None of them."},
    ]
    assert audited(tmp_path, *rows)["stringified_null"].count == 2


def test_texts_that_are_conversations_are_found(tmp_path: Path) -> None:
    """Guanaco's, Vicuna's and Anthropic's marks are no tokens of any base."""
    texts = ["### Human: Who?\n### Assistant: Ana.", "USER: Who? ASSISTANT: Ana.", "\n\nHuman: Who?\n\nAssistant: Ana."]
    rows = [{"text": text} for text in (*texts, "A: is the first letter.\nQ: is another.")]
    assert audited(tmp_path, *rows)["transcript_in_text"].count == 3


def test_texts_that_a_template_wrote_already_are_found() -> None:
    assert findings(field("26-templated-text/rows.jsonl"))["chat_markers"].count == 2
    assert findings(field("26-templated-text/inst.jsonl"))["chat_markers"].count == 2
    assert findings(field("26-templated-text/eos-in-answer.jsonl"))["end_mark_in_answer"].count == 2


# ---- nothing is lost

words = st.text(alphabet="abç \n\u200b", max_size=8)
values = st.none() | st.booleans() | st.integers(0, 9) | words | st.floats(allow_nan=True, width=16)
arguments = st.dictionaries(st.sampled_from(["port", "days"]), values | st.lists(values, max_size=2), max_size=2)
calls = st.builds(
    lambda given, encoded, identity: {"id": identity, "type": "function", "function": {
        "name": "tide", "arguments": json.dumps(given) if encoded else given}},
    arguments, st.booleans(), words,
)  # fmt: skip
turn_keys = {
    "tool_calls": st.none() | st.lists(calls, max_size=2),
    "reasoning_content": words,
    "weight": st.sampled_from([0, 1, None]),
    "name": words,
    "id": values,
}
answers = st.fixed_dictionaries({"role": st.just("assistant"), "content": words}, optional=turn_keys)
others = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "tool"]), "content": words},
                               optional={"name": words, "id": values})  # fmt: skip
turns = st.builds(lambda before, last: [*before, last], st.lists(answers | others, max_size=3), answers | others)
beside = {
    "system": words,
    "history": st.lists(st.lists(words, min_size=2, max_size=2), max_size=2),
    "tools": st.sampled_from([[TOOL], [TIDE], json.dumps([TIDE]), "[]"]),
    "id": values,
    "other": words,
}
made_rows = st.one_of(
    st.fixed_dictionaries({"messages": turns}, optional=beside | {"label": st.booleans()}),
    st.fixed_dictionaries({"prompt": words | turns, "completion": words | turns}, optional=beside | {"input": values}),
    st.fixed_dictionaries({"prompt": words, "chosen": words | turns, "rejected": words | turns}, optional=beside),
    st.fixed_dictionaries({"text": words | values}, optional=beside),
)


@given(st.lists(made_rows, min_size=1, max_size=4), st.sampled_from(["keep", "mask"]))
@settings(max_examples=times(50, 150), deadline=None)
def test_no_character_of_any_row_is_lost(rows: list[dict[str, Any]], personal: str) -> None:
    recipe = Recipe(name="x", base="b", root=".", sources=[{"path": "a"}],
                    dataset={"personal_data": personal, "on_empty_prompt": "text", "on_empty_answer": "drop",
                             "clean": {"preset": "monograph", "min_line_chars": 1, "min_document_chars": 1}},
                    )  # type: ignore[list-item, arg-type]  # fmt: skip
    entry = FileLedger("a", "")
    reading = SourceReading(recipe.sources[0], 0, Path(), Ledger([entry]), drop_unreadable=True)
    intake = Intake(recipe)
    for document in row_documents(enumerate(rows, 1), reading, entry, RowProblems("a", drop_rows=True)):
        intake.take(document)
    assert entry.balanced and entry.documents == len(rows) and intake.chars_read == entry.chars_out
    if not intake.problems():
        kept = sum(map(example_chars, intake.examples)) + sum(item.chars for item in intake.dropped)
        assert intake.chars_read + intake.added.total() == kept


def test_personal_data_is_masked_in_thoughts_calls_and_results(tmp_path: Path) -> None:
    secret = "rui@farol-olhao.pt"
    row = asks({"reasoning_content": f"Ask {secret}.", "tool_calls": [{"name": "mail", "arguments": {"to": [secret]}}]})
    row["messages"] += [{"role": "tool", "content": f"sent to {secret}"}, {"role": "assistant", "content": "Sent."}]
    rows = [row, *({"prompt": f"Who is {n}?", "completion": f"Ana {n}."} for n in range(12))]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = Recipe(name="x", base="b", root=str(tmp_path), sources=[{"path": "a.jsonl"}],
                    dataset={"personal_data": "mask", "validation": 0.25})  # type: ignore[list-item, arg-type]  # fmt: skip
    summary = build_dataset(recipe, tmp_path / "dataset")
    written = "".join((tmp_path / "dataset" / f"{split}.jsonl").read_text() for split in ("train", "validation"))
    assert secret not in written and summary["personal_data"] == {"E-MAIL": 3} and summary["balanced"]
    for split in ("train", "validation"):
        assert all(mask_example(example) is None for example in read_examples(tmp_path / "dataset" / f"{split}.jsonl"))


def test_rows_that_say_what_is_not_to_be_learned_are_told(tmp_path: Path) -> None:
    rated = [{"prompt": "Where is the key?", "completion": "In the box.", "label": True}]
    rated += [{"prompt": "Where is the key?", "completion": "Go away.", "label": False}]
    (tmp_path / "rated.jsonl").write_text("\n".join(map(json.dumps, rated)))
    (tmp_path / "turns.jsonl").write_text(json.dumps(asks({"weight": 0})))
    found = findings(tmp_path / "rated.jsonl")["said_to_be_bad"]
    assert (found.count, found.examples[0]["where"][-13:]) == (1, "rated.jsonl:2")
    assert findings(tmp_path / "turns.jsonl")["answer_not_learned"].count == 1
    if FIELD.exists():
        assert findings(field("12-kto/rows.jsonl"))["said_to_be_bad"].count == 3
        assert findings(field("01-weight/rows.jsonl"))["answer_not_learned"].count == 4
