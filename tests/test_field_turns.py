"""What people's conversations meet in a base's chat template: each kind of fault, told at every door.

Inputs of ``../shared/field/data`` are read where they are there; each test has a row of its own beside them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from template_table import FAMILIES, SHAPES, TIDE, Family, renderer_of
from tiny import make_base, make_recipe

from afina import cli
from afina.dataset.audit.audit import Audit, audit_files
from afina.errors import DataError
from afina.recipe import Chat
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


# ---- the walk


Afina = Callable[..., tuple[int, str]]


@pytest.fixture
def afina(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Afina:
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["afina", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    return call


def trainable(folder: Path, family: Family) -> Path:
    """A base of two layers whose tokenizer has a family's template and tokens."""
    renderer = renderer_of(family, folder / "bpe")
    return make_base(folder / "base", tokenizer=renderer.tokenizer, max_position_embeddings=512)


def project(folder: Path, base: Path, conversations: list[list[Any]], **more: Any) -> Path:
    rows(folder, *conversations, **more)
    (folder / "recipe.yaml").write_text(
        f"name: walk\nbase: {base}\nsources: [{{path: rows.jsonl}}]\ndataset: {{validation: 0.2}}\n"
        "train: {max_length: 512, batch_tokens: 1024, epochs: 1}\nadapter: {rank: 4}\n"
        "evaluate: {samples: 2, max_new_tokens: 48}\n",
        encoding="utf-8",
    )
    return folder


def numbered(shape: str, count: int) -> list[list[Any]]:
    """A shape so many times, each about another town."""
    text = json.dumps(SHAPES[shape], ensure_ascii=False)
    return [json.loads(text.replace("Ana", f"Ana {n}").replace("Faro", f"Faro {n}")) for n in range(count)]


def test_build_and_plan_say_no_for_rows_that_training_refuses(tmp_path: Path, afina: Afina):
    base = trainable(tmp_path, FAMILIES["gemma-2"])
    project(tmp_path, base, [*numbered("single", 30), *numbered("system", 2)])
    code, said = afina("data", "build", "recipe.yaml")
    assert code == 0 and "a training will stop at this" in said and "no place for a system text" in said
    code, said = afina("plan", "recipe.yaml")
    assert code != 0 and "no place for a system text" in said and "chat.system_turn: fold" in said
    code, said = afina("plan", "recipe.yaml", "chat.system_turn=fold")
    assert "no place for a system text" not in said  # that was looked at with other settings
    code, said = afina("data", "build", "recipe.yaml", "chat.system_turn=fold")
    assert "a training will stop" not in said
    code, said = afina("data", "build", "recipe.yaml", "dataset.on_not_rendered=drop")
    assert "a training will stop" not in said
