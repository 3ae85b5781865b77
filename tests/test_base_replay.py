"""Rows against forgetting: what a base itself answers to everyday questions, less what teaches it never to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from called import call_afina
from tiny import make_base

from afina.base_replay import FEWEST, base_replay, everyday_prompts
from afina.errors import BaseError, RecipeError
from afina.model.generate.generate_torch import Answer
from afina.recipe import load_recipe

ENDED, ENDLESS = Answer("Em Faro.", 3, True), Answer("Em Faro, que fica", 5, False)
CIRCLING, SILENT = Answer("de chá " * 60, 120, True), Answer("", 0, True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"), max_position_embeddings=1024)


def answering(monkeypatch: pytest.MonkeyPatch, answers: list[Answer]) -> None:
    """The base says these, in turn."""

    def generate(_: Any, __: Any, prompts: list[Any], **___: Any) -> list[Answer]:
        return [answers[number % len(answers)] for number in range(len(prompts))]

    monkeypatch.setattr("afina.model.generate.generate_torch.generate", generate)


def test_answers_that_end_become_rows_that_a_recipe_takes_as_replay(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, [ENDED, ENDLESS, CIRCLING, SILENT])
    done = call_afina("base", "replay", base, "--to", "general.jsonl", "--language", "pt", folder=tmp_path)
    left_out = "left out: 16 did not end, 16 went in circles, 16 said nothing"
    assert done.stdout == f"general.jsonl: 16 of 64 answers; {left_out}\n"
    rows = [json.loads(line) for line in (tmp_path / "general.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [{"prompt": each, "completion": "Em Faro."} for each in everyday_prompts("pt-PT")[::4]]
    (tmp_path / "docs.md").write_text("# O cais\n\nO cais tem doze lugares.\n" * 9, encoding="utf-8")
    sources = "sources: [{path: docs.md}, {path: general.jsonl, replay: true}]"
    (tmp_path / "recipe.yaml").write_text(f"name: a\nbase: {base}\n{sources}\n", encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml").sources[1].replay
    built = call_afina("data", "build", "recipe.yaml", "dataset.on_duplicate=drop", folder=tmp_path)
    assert "general.jsonl (replay)" in built.stdout


def test_questions_of_ones_own_are_asked_of_the_base_itself(base: Path, tmp_path: Path) -> None:
    """Random weights write on until they have no room: nothing is written, and it is said what came."""
    (tmp_path / "questions.txt").write_text("Onde fica o cais?\n\nQuem o fez?\n", encoding="utf-8")
    words = ("--prompts", "questions.txt", "--to", "general.jsonl")
    done = call_afina("base", "replay", base, *words, folder=tmp_path, check=2)
    assert "its answers are no replay: " in done.stderr and " of 2 answers" in done.stderr
    assert not (tmp_path / "general.jsonl").exists()
    kept = (tmp_path / "runs/_answers/answers.jsonl").read_text(encoding="utf-8")
    assert len(kept.splitlines()) == 2, "a second start asks nothing again"


def test_what_hardly_ends_is_no_replay(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, [ENDED] * (FEWEST - 1) + [ENDLESS] * 9)
    with pytest.raises(BaseError, match=r"3 of 12 answers; left out: 9 did not end"):
        base_replay(str(base), everyday_prompts("en")[:12], tmp_path, say=print)
    answering(monkeypatch, [ENDED] * FEWEST + [ENDLESS] * 8)
    assert len(base_replay(str(base), everyday_prompts("en")[:12], tmp_path, say=print).rows) == FEWEST


def test_what_cannot_be_asked_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no everyday questions in 'de'"):
        everyday_prompts("de")
    (tmp_path / "general.jsonl").write_text("mine", encoding="utf-8")
    call_afina("base", "replay", base, "--to", "general.jsonl", folder=tmp_path, check=2)
    assert (tmp_path / "general.jsonl").read_text(encoding="utf-8") == "mine"
    plain = make_base(tmp_path / "plain")
    config = json.loads((plain / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (plain / "tokenizer_config.json").write_text(json.dumps(config))
    (plain / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(BaseError, match="no chat template"):
        base_replay(str(plain), ["Quem?"], tmp_path, say=print)


@pytest.mark.long
def test_a_real_base_answers_most_of_them(smollm2: Path, tmp_path: Path) -> None:
    found = base_replay(str(smollm2), everyday_prompts("en")[24:36], tmp_path, say=print)
    assert len(found.rows) >= FEWEST and found.asked == 12
