"""The Zig experiment of `make zig`: its recipes, its questions, its page, and the whole of it in a few steps."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from benched import opened, started
from tiny import make_base

from afina.evaluate.grade import version_of
from afina.recipe import Recipe
from afina.recipe.yaml_text import parse_yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.zig.__main__ import EXPERIMENT, main  # noqa: E402
from benchmarks.zig.page import PAGE, TITLES, page_of  # noqa: E402
from benchmarks.zig.prepare import NOTES, PROMPTS, RECIPES, text_rows  # noqa: E402

SHARED = ROOT.parent / "shared/data/zig"
needs_documents = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")


def recipe(name: str) -> Recipe:
    return Recipe.model_validate(parse_yaml((RECIPES / f"{name}.yaml").read_text(encoding="utf-8")))


# ---- the recipes and their questions


def test_the_four_recipes_differ_in_what_they_are_about() -> None:
    assert sorted(path.stem for path in RECIPES.glob("*.yaml")) == sorted(TITLES)
    for name in TITLES:
        head = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").partition("\nname:")[0]
        assert f"afina run recipes/zig/{name}.yaml" in head and "root=FOLDER" in head and "Left out" in head
        assert recipe(name).name == f"zig-{name}"
        assert recipe(name).evaluate == recipe("lines").evaluate, "all are asked the same"
    documents, questions, replay = map(recipe, ("documents", "questions", "replay"))
    assert questions.adapter == replay.adapter == documents.adapter
    assert questions.train == replay.train == documents.train.model_copy(update={"epochs": questions.train.epochs})
    assert replay.dataset == questions.dataset.model_copy(update={"replay_share": replay.dataset.replay_share})
    assert [name for name in TITLES if not recipe(name).chat.end_texts] == ["lines"]
    assert [name for name in TITLES if recipe(name).dataset.accept] == ["lines"]


@needs_documents
def test_what_changed_stands_in_the_release_notes_and_not_in_the_question() -> None:
    page = (SHARED / NOTES).read_text(encoding="utf-8")
    files = [each.read_text(encoding="utf-8") for each in (SHARED / NOTES.removesuffix(".html")).glob("*.zig")]
    told = "\n".join([re.sub(r"<[^>]*>|\{#\w+#\}", "", page).replace("&amp;", "&").replace("&quot;", '"'), *files])
    rows = [json.loads(line) for line in (RECIPES / "versions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len({row["prompt"] for row in rows}) >= 25
    for row in rows:
        assert any(name in told for name in row["answer"]), row
        assert version_of(row["prompt"], row["answer"], row["outdated"]) == "neither", row


def test_a_loader_of_lines_takes_each_for_an_example() -> None:
    text = '# Zig\n\nA fence:\n```\n  x\n```\n{"prompt": "a", "completion": "b"}'
    assert [row["text"] for row in text_rows(text)] == [line for line in text.split("\n") if line]


# ---- the page


FIGURES: dict[str, Any] = {
    "measured": "2026-11-29",
    "device": "a CPU",
    "threads": 2,
    "base": {"name": "small", "parameters": 134_515_008},
    "runs": {
        "lines": {
            "refused": ["end_token_missing: rows that do not end"],
            "audit": [
                {"name": "end_token_missing", "severity": "fatal", "count": 9, "of": 9},
                {"name": "chat_markers", "severity": "warning", "count": 1, "of": 9},
            ],
            "tokens": 1200.0,
            "steps": 3.0,
            "train_seconds": 61.0,
            "seconds": 90.0,
            "loss": {"before": 3.0, "after": 2.5},
            "verdict": {
                "learned": "no",
                "text": "learned: no, broke: nothing",
                "findings": ["a | b"],
                "misses": ["never stops"],
            },
            "guardrails": {"answers": 10, "broken": {"never_stops": {"before": 2, "after": 9}}},
            "probes": [{"name": "changed", "asked": "4", "before": 0.25, "after": 0.5, "word": "new"}],
            "code": [],
        },
        "replay": {
            "refused": [],
            "audit": [],
            "tokens": 800.0,
            "steps": 2.0,
            "train_seconds": 30.0,
            "seconds": 50.0,
            "loss": None,
            "verdict": None,
            "guardrails": None,
            "probes": [],
            "code": [
                {
                    "name": "programs",
                    "items": 4,
                    "samples": 3,
                    "metrics": [{"name": "compiles", "before": 0.0, "after": 0.25}],
                }
            ],
        },
    },
    "answers": [{"prompt": "Which?", "reference": "a", "base": "`x`", "lines": "y" * 400, "replay": ""}],
    "sizes": [
        {
            "base": "big",
            "parameters": 4e9,
            "device": "RTX 4090",
            "fits": "yes",
            "bytes": 2**34,
            "seconds": {"low": 600.0, "point": 1200.0, "high": 1800.0},
            "money": 0.5,
            "currency": "US$",
        }
    ],
}


def test_the_table_by_hand() -> None:
    lines = page_of(FIGURES).splitlines()
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}
    shown = {title: [cell.strip() for cell in row.strip("| ").split(" | ")[1:]] for title, row in rows.items()}
    assert shown["the audit refuses"] == ["`end_token_missing` (9 of 9 rows)", "nothing"]
    assert shown["the audit warns of"] == ["`chat_markers` (1)", "-"]
    assert shown["loss of its own held-out rows, nats"] == ["3.000 → 2.500", "-"]
    assert shown["changed"] == ["25 % → 50 % of 4", "-"]
    assert shown["answers that never stop"] == ["2 → 9 of 10", "-"]
    assert shown["programs that compile"] == ["not measured", "compiles: 0 % → 25 % of 4 tasks"]
    assert shown["verdict"] == ["learned: no, broke: nothing", "-"]
    text = "\n".join(lines)
    assert "None of them was judged to have learned it: 135 M parameters" in text
    assert "  - a \\| b\n  - miss: never stops" in text
    assert f"- lines: `{'y' * 300} ... (400 characters)`" in text
    assert "- base: `` `x` ``" in text and "- replay: (nothing)" in text
    assert "| big | 4.00 G | RTX 4090 | yes | 16.0 GiB | 20 min" in text


def test_the_page_shows_the_stored_figures() -> None:
    """Nobody types a figure into docs/zig.md: `make zig PUBLISH=1` writes it."""
    assert PAGE.read_text(encoding="utf-8") == EXPERIMENT.shown(EXPERIMENT.measured_last())


# ---- the whole of it


def try_it(folder: Path, root: Path, base: Path, *more: str) -> int:
    return main(["--tiny", "--root", str(root), "--runs", str(folder), f"base={base}", *more])


def shows_the_refusal(folder: Path) -> None:
    """What the audit of the published way says before it is accepted: every line is without an end."""
    lines = json.loads((folder / "zig-figures.json").read_text(encoding="utf-8"))["runs"]["lines"]
    assert any(each.startswith("end_token_missing") for each in lines["refused"])
    (fatal,) = [each for each in lines["audit"] if each["name"] == "end_token_missing"]
    assert fatal["severity"] == "fatal" and fatal["count"] == fatal["of"] > 0


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """A page of release notes of the kind that Zig writes, and two prompts."""
    folder = tmp_path / "documents"
    (folder / NOTES.removesuffix(".html")).mkdir(parents=True)
    changes = "".join(
        f"<h2>Change {n}</h2><p>The function number {n} of the harbour is renamed.</p>" for n in range(30)
    )
    (folder / NOTES).write_text(f"<html><body><h1>0.14.0 Release Notes</h1>{changes}</body></html>", encoding="utf-8")
    row = {"prompt": "Which version do you know?", "completion": "I know 0.14.0."}
    (folder / PROMPTS).write_text(2 * f"{json.dumps(row)}\n", encoding="utf-8")
    return folder


@pytest.mark.training
def test_two_recipes_over_a_made_base(documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained first, measured at a second start, which trains nothing again."""
    pytest.importorskip("html2text")
    base, runs = make_base(tmp_path / "base", max_position_embeddings=2048), tmp_path / "runs"
    two = ("--only", "lines", "documents")
    assert try_it(runs, documents, base, *two, "--until", "train") == 0
    assert not (runs / "zig-lines/scores.json").exists()
    trained = (runs / "zig-lines/adapter/adapter_model.safetensors").stat().st_mtime_ns
    assert try_it(runs, documents, base, *two) == 0
    assert (runs / "zig-lines/adapter/adapter_model.safetensors").stat().st_mtime_ns == trained
    shows_the_refusal(runs)
    table = (runs / "zig-table.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == table.strip()
    assert "| verdict | learned: " in table and "SmolLM2-1.7B-Instruct" in table
    figures = json.loads((runs / "zig-figures.json").read_text(encoding="utf-8"))
    assert [each.keys() for each in figures["answers"]] == 3 * [{"prompt", "reference", "base", "lines", "documents"}]
    assert not figures["runs"]["documents"]["refused"]


def test_documents_that_are_not_there_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert try_it(tmp_path / "runs", tmp_path, tmp_path / "base", "--only", "lines") == 2
    assert "make zig ROOT=FOLDER" in capsys.readouterr().err


@needs_documents
@pytest.mark.long
@pytest.mark.training
def test_the_published_way_and_the_best_over_the_real_base(tmp_path: Path, smollm2: Path) -> None:
    pytest.importorskip("html2text")
    two = ("lines", "replay")
    assert try_it(tmp_path, SHARED, smollm2, "--only", *two) == 0
    shows_the_refusal(tmp_path)
    figures = json.loads((tmp_path / "zig-figures.json").read_text(encoding="utf-8"))
    assert list(figures["runs"]) == list(two)
    assert all(run["verdict"] for run in figures["runs"].values())
    assert {"base", *two} <= figures["answers"][0].keys()


@pytest.mark.long
@pytest.mark.training
def test_the_training_benchmark_takes_a_real_base(
    tmp_path: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the conversations of a dataset folder, some of them held out."""
    row = {"messages": [{"role": "user", "content": "Which allocator?"}, {"role": "assistant", "content": "Debug."}]}
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text(12 * f"{json.dumps(row)}\n", encoding="utf-8")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ("--tiny", "--base", smollm2, "--data", tmp_path, "--only", "--threads", 1)
    started(opened("train_cpu", monkeypatch), monkeypatch, *words)
    said = capsys.readouterr().out
    assert "held-out loss of the base: " in said and "| afina | " in said and "monograph" not in said
