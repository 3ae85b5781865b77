"""The base itself as teacher: asked in this process, checked like any other, its answers kept."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import make_base

from afina.errors import RecipeError
from afina.model.generate.request import Finished, Produced, Request
from afina.recipe import Recipe, check_recipe
from afina.run import Run
from afina.text.example import read_examples
from afina.walk.base_teacher import BaseTeacher, taught_recipe
from afina.walk.context import Context
from afina.walk.walk import do_stages

PAGES = {
    "faro.md": "O clube Faro venceu o torneio de Lagos em 1910.",
    "beja.md": "O clube Beja perdeu em Silves em 1920.",
}


@contextlib.contextmanager
def quiet(stage: str) -> Iterator[Any]:
    yield lambda *done: None


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    for name, text in PAGES.items():
        (tmp_path / "docs" / name).write_text(f"{text}\n", encoding="utf-8")
    make_base(tmp_path / "base", max_position_embeddings=4096)
    return tmp_path


def recipe_of(project: Path, **teacher: Any) -> Recipe:
    asked = {"model": "base", "questions_per_section": 1, "paraphrases": 1, "max_tokens": 700, "retries": 0}
    return check_recipe(
        {
            "name": "taught",
            "root": str(project),
            "base": str(project / "base"),
            "sources": [{"path": "docs"}],
            "dataset": {"language": "pt-PT", "validation": 0.0, "teacher": asked | teacher},
        }
    )


def build(project: Path, recipe: Recipe, name: str = "taught") -> dict[str, Any]:
    with Run.open(project / "runs" / name, recipe, lambda text: None) as run:
        return do_stages(Context(run, quiet), "recipe", "dataset")


class Writes:
    """Stands for an engine over a base that does what the prompt asks for: one true question and one made up."""

    grammars = None

    def __init__(self) -> None:
        self.waiting: list[tuple[int, Request]] = []
        self.asked: list[Request] = []

    @property
    def busy(self) -> bool:
        return bool(self.waiting)

    def submit(self, request: Request) -> int:
        self.asked.append(request)
        self.waiting.append((len(self.asked), request))
        return len(self.asked)

    def step(self) -> list[Produced]:
        number, request = self.waiting.pop(0)
        text = next(page for page in PAGES.values() if list(page.encode())[:12] == list(request.prompt)[:12])
        town, year = text.split()[2], text.rstrip(".").split()[-1]
        true = {
            "question": f"Quando jogou o {town}?",
            "answer": year,
            "quote": text,
            "paraphrases": [f"{town}, quando?"],
        }
        false = {"question": f"Quem treinou o {town}?", "answer": "Zeferino Monteverde", "quote": text}
        done = Finished([], json.dumps({"questions": [true, false]}), "stop", len(request.prompt), 40)
        return [Produced(number, [], done=done)]


def test_what_the_base_writes_is_checked_and_kept(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sections, each with a question that it supports and one that it does not; a second build asks nothing."""
    engine = Writes()
    monkeypatch.setattr(BaseTeacher, "_open", lambda self: engine)
    # The prompt is the section alone, so that the stand-in can read it.
    section = lambda turns: list(turns[-1]["content"].partition("<<<\n")[2].encode())  # noqa: E731
    monkeypatch.setattr("afina.tokenizer.chat.Renderer.prompt", lambda self, turns, tools=(): section(turns))
    own = recipe_of(project, questions_per_section=2)
    summary = build(project, own)["teacher"]
    assert (summary["sections"], summary["answered"], summary["failed"]) == (2, 2, [])
    assert summary["questions"] == {"given": 4, "kept": 2} and summary["dropped"] == {"teacher_unsupported": 2}
    taught = [row for row in read_examples(project / "runs/taught/dataset/train.jsonl") if row.made == "teacher"]
    assert sorted(row.answer for row in taught) == ["1910", "1910", "1920", "1920"]
    assert all(row.teacher.startswith("base ") and len(row.teacher) == 17 for row in taught)
    assert all(request.grammar and request.temperature > 0 for request in engine.asked) and len(engine.asked) == 2
    build(project, own, "again")
    assert len(engine.asked) == 2, "its answers lie beside the runs"


def test_another_base_is_another_teacher(project: Path) -> None:
    names = []
    for seed in (0, 1):
        make_base(project / "base", seed, max_position_embeddings=4096)
        with Run.open(project / f"runs/{seed}", recipe_of(project), lambda text: None) as run:
            teacher = taught_recipe(Context(run, quiet)).dataset.teacher
            assert teacher is not None and teacher.is_base
            names.append(teacher.model)
    assert names[0] != names[1]


def test_a_base_that_knows_nothing_still_keeps_the_form(project: Path) -> None:
    """Random weights, held to the JSON asked for: each section is answered or runs out of room, and none is kept."""
    pytest.importorskip("llguidance")
    try:
        summary = build(project, recipe_of(project))["teacher"]
    except RecipeError as error:
        assert "the teacher answered none of 2 questions: cut_off x 2" in str(error)
    else:
        assert summary["answered"] + len(summary["failed"]) == 2 and summary["questions"]["kept"] == 0


def test_only_the_base_is_asked_without_an_address(project: Path) -> None:
    with pytest.raises(RecipeError, match="the teacher my-model needs `url`"):
        recipe_of(project, model="my-model")
    with pytest.raises(RecipeError, match="needs a `base`"):
        check_recipe(
            {"name": "x", "root": str(project), "sources": [{"path": "docs"}], "train": {"method": "scratch"}}
            | {"dataset": {"teacher": {"model": "base"}}}
        )
