"""What people's conversations meet in a base's chat template: each kind of fault, told at every door.

Inputs of ``../shared/field/data`` are read where they are there; each test has a row of its own beside them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from called import call_afina
from template_table import CALL, FAMILIES, SHAPES, TIDE, Family, renderer_of
from test_serve import run_server, url_of
from tiny import make_base, make_recipe

from afina.dataset.audit.audit import Audit, audit_files
from afina.errors import DataError
from afina.recipe import Chat
from afina.serve.identity import ask_over_http, check_identity
from afina.serve.opened import find_target, open_models
from afina.text.example import Example
from afina.tokenizer.encode import encode_examples
from afina.tokenizer.show import show_tokens
from afina.train.measure import token_view

FIELD = Path(__file__).parent.parent.parent / "shared/field/data"


def field(name: str) -> Path:
    if not (FIELD / name).is_file():
        pytest.skip("needs ../shared/field/data")
    return FIELD / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def base_of(family: str, folder: Path) -> Path:
    """A tokenizer with a family's template, as a folder."""
    place = folder / f"tokenizer-{family}"
    if not place.is_dir():
        renderer_of(FAMILIES[family], folder / f"bpe-{family}").tokenizer.save_pretrained(place)
    return place


def audited(file: Path, family: str, folder: Path, **chat: Any) -> Audit:
    base = base_of(family, folder)
    recipe = make_recipe(base, chat=Chat(**chat), train={"max_length": 2048})
    return audit_files([file], tokens=token_view(base, recipe))


def found(audit: Audit, name: str) -> list[Any]:
    return [each for each in audit.findings if each.name == name]


def rows(folder: Path, *conversations: list[Any], name: str = "rows.jsonl", **more: Any) -> Path:
    file = folder / name
    lines = [json.dumps({"messages": turns} | more, ensure_ascii=False) for turns in conversations]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def example(shape: str, line: int = 1) -> Example:
    tools = (TIDE,) if shape == "tools" else ()
    return Example(messages=tuple(SHAPES[shape]), tools=tools, path="rows.jsonl", line=line)


# ---- thoughts


def test_thoughts_without_a_place_in_the_template_are_counted(folder: Path, tmp_path: Path):
    (lost,) = found(audited(rows(tmp_path, SHAPES["thoughts"]), "qwen2.5", folder), "thoughts_not_learned")
    assert lost.severity == "warning" and lost.what.startswith("2 of 2 thoughts (24 characters) are not learned")
    assert not found(audited(rows(tmp_path, SHAPES["thoughts"]), "qwen3", folder), "thoughts_not_learned")


def test_thoughts_that_a_template_takes_out_are_learned_in_a_row_for_each_answer(folder: Path, tmp_path: Path):
    audit = audited(rows(tmp_path, SHAPES["thoughts"], SHAPES["single"]), "qwen3", folder)
    (split,) = found(audit, "row_for_each_answer")
    assert split.what == (
        "1 conversations become 2 rows, one for each answer: the chat template takes thoughts out of earlier turns"
    )
    forced = audited(rows(tmp_path, SHAPES["thoughts"]), "qwen3", folder, turns="all")
    assert found(forced, "thoughts_not_learned")[0].what.startswith("1 of 2 thoughts")


def test_the_fields_thoughts_are_learned_or_counted(folder: Path):
    """Two rows of three think, of 29 and 11 characters."""
    file = field("04-reasoning/rows.jsonl")
    assert not found(audited(file, "qwen3", folder), "thoughts_not_learned")
    (lost,) = found(audited(file, "llama-3.1", folder), "thoughts_not_learned")
    assert lost.what.startswith("2 of 2 thoughts"), lost.what


# ---- what a template refuses


REFUSED = [SHAPES["system"], SHAPES["single"], SHAPES["two users in a row"], SHAPES["starts with assistant"]]


def test_refusals_are_of_all_rows_at_once_by_reason(folder: Path, tmp_path: Path):
    audit = audited(rows(tmp_path, *REFUSED, SHAPES["system"]), "gemma-2", folder)
    refused = {each.what: (each.count, [shown["where"].rpartition(":")[2] for shown in each.examples])
               for each in found(audit, "not_rendered")}  # fmt: skip
    assert sorted(refused.values()) == [(1, ["3"]), (1, ["4"]), (2, ["1", "5"])]
    assert all(each.severity == "fatal" for each in found(audit, "not_rendered"))
    (system,) = [each for each in found(audit, "not_rendered") if "system" in each.what]
    assert "chat.system_turn: fold" in system.fix


def test_encoding_refuses_them_all_at_once_or_drops_them_counted(folder: Path):
    renderer = renderer_of(FAMILIES["gemma-2"], folder / "encode")
    examples = [example("single"), example("system", 2), example("two users in a row", 3), example("system", 4)]
    with pytest.raises(DataError) as raised:
        encode_examples(examples, renderer, make_recipe())
    first, second = raised.value.problems
    assert first.what == (
        "2 conversations: the chat template has no place for a system text (at rows.jsonl:2, rows.jsonl:4)"
    )
    assert second.where == "rows.jsonl:3" and "must alternate" in second.what
    assert all("dataset.on_not_rendered: drop" in each.fix for each in (first, second))
    kept = encode_examples(examples, renderer, make_recipe(dataset={"on_not_rendered": "drop"}))
    assert len(kept.rows) == 1 and kept.dropped_examples == {
        "not_rendered": ["rows.jsonl:2", "rows.jsonl:3", "rows.jsonl:4"]
    }


def test_the_fields_system_turns_are_refused_or_folded(folder: Path):
    file = field("07-gemma-system/rows.jsonl")
    (refused,) = found(audited(file, "gemma-2", folder), "not_rendered")
    assert refused.count == 2 and "no place for a system text" in refused.what
    assert not found(audited(file, "gemma-2", folder, system_turn="fold"), "not_rendered")
    assert not found(audited(file, "gemma-3", folder), "not_rendered")


def test_a_templates_own_system_text_is_said_once(folder: Path, tmp_path: Path):
    audit = audited(rows(tmp_path, SHAPES["single"], SHAPES["multi-turn"], SHAPES["system"]), "qwen2.5", folder)
    (own,) = found(audit, "template_system")
    assert own.severity == "note" and own.count == 2 and "You are Qwen" in own.what
    assert not found(audited(rows(tmp_path, SHAPES["system"]), "qwen2.5", folder), "template_system")


def test_calls_on_a_template_without_a_place_are_refused(folder: Path, tmp_path: Path):
    audit = audited(rows(tmp_path, SHAPES["tools"], tools=[TIDE]), "gemma-3", folder)
    (refused,) = found(audit, "not_rendered")
    assert refused.severity == "fatal" and "no place for functions" in refused.what


@pytest.mark.parametrize("name", ["dict", "string", "toolsjson"])
def test_the_fields_calls_are_learned_and_results_are_not(folder: Path, name: str):
    audit = audited(field(f"02-toolcalls/{name}.jsonl"), "qwen2.5", folder)
    assert not [each.name for each in audit.findings if each.severity == "fatal" and each.name == "not_rendered"]


def test_held_out_rows_that_training_would_refuse_are_found(folder: Path, tmp_path: Path):
    base = base_of("gemma-2", folder)
    train = rows(tmp_path, SHAPES["single"])
    held_out = rows(tmp_path, SHAPES["system"], name="validation.jsonl")
    audit = audit_files([train], held_out, tokens=token_view(base, make_recipe(base)))
    (refused,) = found(audit, "not_rendered")
    assert refused.split == "validation" and refused.severity == "fatal"
    assert not [each for each in audit.findings if each.split == "validation" and each.name == "token_lengths"]


def test_show_says_why_there_are_several_rows(folder: Path):
    renderer = renderer_of(FAMILIES["qwen3"], folder / "show")
    shown = show_tokens(example("thoughts"), renderer, color=False)
    assert shown.startswith("2 rows: the chat template takes thoughts out of earlier turns\n")
    calls = show_tokens(example("tools"), renderer_of(FAMILIES["qwen2.5"], folder / "show2"), color=False)
    assert "High water" in calls.replace("[", "").replace("]", "") and "tide" in calls


def test_show_goes_on_behind_a_row_that_is_refused(folder: Path):
    renderer = renderer_of(FAMILIES["gemma-2"], folder / "show3")
    shown = show_tokens(example("system", 7), renderer, color=False)
    assert shown.startswith("rows.jsonl:7  (no tokens)\n") and "no place for a system text" in shown


def test_a_base_without_a_template_is_one_problem_and_nothing_to_drop(folder: Path, tmp_path: Path):
    place = folder / "bare"
    tokenizer = renderer_of(FAMILIES["gemma-2"], folder / "bare-bpe").tokenizer
    tokenizer.chat_template = None
    tokenizer.save_pretrained(place)
    recipe = make_recipe(place, dataset={"on_not_rendered": "drop"})
    audit = audit_files([rows(tmp_path, SHAPES["single"])], tokens=token_view(place, recipe))
    (refused,) = found(audit, "not_rendered")
    assert refused.severity == "fatal" and "chat.template: chatml" in refused.fix and "drop" not in refused.fix


# ---- the walk


def trainable(folder: Path, family: Family) -> Path:
    """A base of two layers whose tokenizer has a family's template and tokens."""
    renderer = renderer_of(family, folder / "bpe")
    return make_base(folder / "base", tokenizer=renderer.tokenizer, max_position_embeddings=512, hidden_size=64)


def project(folder: Path, base: Path, conversations: list[list[Any]], **more: Any) -> Path:
    rows(folder, *conversations, **more)
    (folder / "recipe.yaml").write_text(
        f"name: walk\nbase: {base}\nsources: [{{path: rows.jsonl}}]\ndataset: {{validation: 0.1}}\n"
        "train: {max_length: 512, batch_tokens: 1024, epochs: 1}\nadapter: {rank: 4}\n"
        "evaluate: {samples: 2, max_new_tokens: 90}\n",
        encoding="utf-8",
    )
    return folder


def numbered(shape: str, count: int) -> list[list[Any]]:
    """A shape so many times, each about another town."""
    text = json.dumps(SHAPES[shape], ensure_ascii=False)
    return [json.loads(text.replace("Ana", f"Ana {n}").replace("Faro", f"Faro {n}")) for n in range(count)]


def test_build_and_plan_say_no_for_rows_that_training_refuses(tmp_path: Path):
    base = trainable(tmp_path, FAMILIES["gemma-2"])
    project(tmp_path, base, [*numbered("single", 30), *numbered("system", 2)])
    said = call_afina("data", "build", "recipe.yaml", folder=tmp_path).stderr
    assert "a training will stop at this" in said and "no place for a system text" in said
    said = call_afina("plan", "recipe.yaml", folder=tmp_path, check=3).stderr
    assert "no place for a system text" in said and "chat.system_turn: fold" in said
    looked = call_afina("plan", "recipe.yaml", "chat.system_turn=fold", folder=tmp_path, check=None)
    assert "no place for a system text" not in looked.stderr  # that was looked at with other settings
    for choice in ("chat.system_turn=fold", "dataset.on_not_rendered=drop"):
        said = call_afina("data", "build", "recipe.yaml", choice, folder=tmp_path).stderr
        assert "a training will stop" not in said


# ---- from rows to a served answer


TOWNS = ("Faro", "Lagos", "Tavira", "Silves")


def tool_rows(count: int) -> list[list[Any]]:
    """Conversations that end with a call, and with an answer from its result."""
    made = []
    for number in range(count):
        town = TOWNS[number % len(TOWNS)]
        call = CALL | {"function": {"name": "tide", "arguments": {"port": town}}}
        asked = [{"role": "user", "content": f"{number} {town}?"}, {"role": "assistant", "tool_calls": [call]}]
        result = {"role": "tool", "tool_call_id": CALL["id"], "content": "3"}
        made.append([*asked, result, {"role": "assistant", "content": "Alta."}] if number % 2 else asked)
    return made


def thinking_rows(count: int) -> list[list[Any]]:
    made = []
    for number in range(count):
        town = TOWNS[number % len(TOWNS)]
        answer = {"role": "assistant", "content": f"{town}.", "reasoning_content": f"Ana é de {town}"}
        made.append([{"role": "user", "content": f"{number} {town}?"}, answer])
    return made


@contextmanager
def served_run(run: Path) -> Iterator[openai.OpenAI]:
    """A run behind the real server, asked by the official client."""
    models, _ = open_models(find_target(str(run)), {})
    server, _ = run_server(models)
    try:
        yield openai.OpenAI(base_url=f"{url_of(server)}/v1", api_key="key", max_retries=0)
    finally:
        server.should_exit = True


def run(folder: Path, *settings: str) -> str:
    """What the whole walk said; of a model so small the verdict may be any."""
    learn = ("adapter.kind=none", "train.learning_rate=0.005")
    return call_afina("run", "recipe.yaml", *learn, *settings, folder=folder, check=None).stdout


@pytest.mark.long
def test_a_run_on_tool_calls_is_judged_and_its_call_is_read_by_the_official_client(tmp_path: Path):
    base = trainable(tmp_path, FAMILIES["qwen3"])
    project(tmp_path, base, tool_rows(24), tools=[TIDE])
    said = run(tmp_path, "train.epochs=20")
    verdict = json.loads((tmp_path / "runs/walk/scores.json").read_text())["verdict"]
    assert verdict["text"] in said and verdict["findings"][0].startswith("questions trained: 0 % -> "), said
    predicted = [json.loads(line) for line in (tmp_path / "runs/walk/predictions.jsonl").read_text().splitlines()]
    calls = [row for row in predicted if "<tool_call>" in row["reference"]]
    assert calls and all(row["tools"] == [TIDE] for row in calls)
    assert any(row["adapter_correct"] for row in calls) and not any(row["base_correct"] for row in calls)
    with served_run(tmp_path / "runs/walk") as client:
        asked: Any = {"model": "walk", "messages": [{"role": "user", "content": "0 Faro?"}], "tools": [TIDE]}
        choice = client.chat.completions.create(**asked, temperature=0).choices[0]
        (call,) = choice.message.tool_calls or []
        assert choice.finish_reason == "tool_calls" and call.function.name == "tide"  # type: ignore[union-attr]
        assert json.loads(call.function.arguments).keys() == {"port"}  # type: ignore[union-attr]
        turns = [*asked["messages"], choice.message, {"role": "tool", "tool_call_id": call.id, "content": "3"}]
        last = client.chat.completions.create(**asked | {"messages": turns}, temperature=0).choices[0]
        assert last.message.content == "Alta." and last.finish_reason == "stop"


@pytest.mark.long
def test_a_run_on_thoughts_is_judged_by_what_it_says_and_serves_them_apart(tmp_path: Path):
    base = trainable(tmp_path, FAMILIES["qwen3"])
    project(tmp_path, base, thinking_rows(24))
    said = run(tmp_path, "train.epochs=60", "train.batch_tokens=256")
    predicted = [json.loads(line) for line in (tmp_path / "runs/walk/predictions.jsonl").read_text().splitlines()]
    right = [row for row in predicted if row["adapter_correct"]]
    assert right and all("<think>" in row["adapter"] and "<think>" not in row["reference"] for row in right), said
    verdict = json.loads((tmp_path / "runs/walk/scores.json").read_text())["verdict"]
    assert verdict["text"] in said and verdict["text"].startswith("learned: yes"), said
    assert verdict["findings"][0].startswith("questions trained: 0 % -> ")
    with served_run(tmp_path / "runs/walk") as client:
        asked: Any = {"model": "walk", "messages": [{"role": "user", "content": "0 Faro?"}], "temperature": 0}
        message = client.chat.completions.create(**asked).choices[0].message
        thought = message.model_extra["reasoning_content"]  # type: ignore[index]
        assert thought.startswith("Ana é de ") and message.content in {f"{town}." for town in TOWNS}
        pieces = [piece.choices[0].delta for piece in client.chat.completions.create(**asked, stream=True)]
        assert "".join(piece.content or "" for piece in pieces) == message.content
        assert "".join((piece.model_extra or {}).get("reasoning_content", "") for piece in pieces) == thought
        url = str(client.base_url)
        assert not check_identity(ask_over_http(url, "key"), tmp_path / "runs/walk", "walk", None).problems


# ---- the field's other files


def test_the_fields_turns_that_do_not_alternate(folder: Path):
    """Rows 3, 4, 6 and 7 hold no answer to learn, for any template; 1, 2 and 5 are what some templates take."""
    file = field("08-alternate/rows.jsonl")
    for family in ("smollm2", "gemma-2"):
        (unreadable,) = found(audited(file, family, folder), "unreadable")
        places = [each["where"].rpartition(":")[2] for each in unreadable.examples]
        assert sorted(places) == ["3", "4", "6", "7"], family
    refused = found(audited(file, "gemma-2", folder), "not_rendered")
    told = [each["where"].rpartition(":")[2] for finding in refused for each in finding.examples]
    assert sorted(told) == ["1", "2", "5"]
    taken = audited(file, "smollm2", folder, template="chatml")
    assert taken.train == 3 and not found(taken, "not_rendered")


def test_the_fields_answers_of_two_turns_are_rows_of_their_own_for_qwen3(folder: Path):
    (split,) = found(audited(field("31-multiturn-qwen3/rows.jsonl"), "qwen3", folder), "row_for_each_answer")
    assert split.what.startswith("1 conversations become 2 rows")


def test_one_begin_token_and_one_end_token(folder: Path):
    """Of a template that writes `<bos>` itself, over a tokenizer that would put one before every text."""
    renderer = renderer_of(FAMILIES["gemma-2"], folder / "bpe-gemma-2")
    row = renderer.conversation(example("single").messages)
    assert row.ids.count(renderer.tokenizer.bos_token_id) == 1 and row.ids[0] == renderer.tokenizer.bos_token_id
    ends = [number for number in row.ids if number in renderer.stop_ids()]
    assert ends[-1] == row.ids[[n for n, learned in enumerate(row.mask) if learned][-1]]
    assert [row.ids[n] for n, learned in enumerate(row.mask) if learned].count(ends[-1]) == 1


def test_a_conversation_that_is_too_long_stops_and_is_not_cut(folder: Path, tmp_path: Path):
    long = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b c d " * 2000}]
    (over,) = found(audited(rows(tmp_path, SHAPES["single"], long), "smollm2", folder), "over_length")
    assert over.severity == "fatal" and over.count == 1 and over.examples[0]["where"].endswith(":2")
