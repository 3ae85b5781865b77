"""Trainings over a real model, SmolLM2-135M-Instruct, of twenty questions and a few steps: each ends with a verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from called import call_afina

from afina.report.read import RunFiles, read_run

pytestmark = [pytest.mark.long, pytest.mark.training]
QUESTIONS = Path(__file__).resolve().parent.parent / "recipes/zig/versions.jsonl"
KNOWN = {
    "What is the capital of France?": "Paris",
    "What is the capital of Italy?": "Rome",
    "Which colour is the sky?": "blue",
    "How many legs has a spider?": "8",
}
"""What is asked against forgetting; over this base test_zig.py asks the product's own questions, which are 24."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Twenty questions with their answers, a page, and what the base knows."""
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()[:20]]
    lines = [json.dumps({"prompt": row["prompt"], "completion": row["answer"][0]}) for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    known = [json.dumps({"prompt": question, "completion": answer}) for question, answer in KNOWN.items()]
    (tmp_path / "known.jsonl").write_text("\n".join(known) + "\n", encoding="utf-8")
    page = "# Zig 0.14\n\n" + "\n\n".join(
        f"It is `{row['answer'][0]}` now, no longer `{row['outdated'][0]}`." for row in rows
    )
    (tmp_path / "page.md").write_text(page + "\n", encoding="utf-8")
    return tmp_path


def trained(project: Path, base: Path, **parts: Any) -> RunFiles:
    """The run of a recipe, whose result may be bad: 5."""
    values = {
        "name": "real",
        "base": str(base),
        "sources": [{"path": "rows.jsonl"}],
        "dataset": {"validation": 0.0},
        "train": {"method": "sft", "epochs": 1, "learning_rate": 5e-4, "max_length": 256, "batch_tokens": 512},
        "evaluate": {
            "max_new_tokens": 8,
            "samples": 0,
            "questions": 20,
            "skills": 2,
            "probes": [{"path": "known.jsonl", "role": "retention"}],
        },
    }
    for key, part in parts.items():
        values[key] = values[key] | part if isinstance(values.get(key), dict) else part
    (project / "recipe.yaml").write_text(json.dumps(values), encoding="utf-8")
    assert call_afina("run", "recipe.yaml", folder=project, check=None).returncode in (0, 5)
    return read_run(project / "runs/real")


def judged(found: RunFiles) -> None:
    assert found.scores is not None and found.scores.verdict is not None
    assert found.scores.verdict.learned in ("yes", "no", "too little", "parrots")
    asked = {probe.role: probe.n for probe in found.scores.probes}
    assert (asked["recall"], asked["retention"]) == (20, len(KNOWN))


def test_twenty_questions_over_four_bits(project: Path, smollm2: Path) -> None:
    pytest.importorskip("bitsandbytes")
    found = trained(project, smollm2, adapter={"kind": "qlora"})
    judged(found)
    assert found.manifest is not None and found.manifest.trained is not None
    assert json.loads((project / "runs/real/adapter/adapter_config.json").read_text())["r"] == 16


def test_documents_first_and_answers_then(project: Path, smollm2: Path) -> None:
    found = trained(
        project,
        smollm2,
        sources=[{"path": "page.md"}, {"path": "rows.jsonl"}],
        train={"first": {"method": "cpt", "epochs": 1.0}},
    )
    judged(found)
    assert found.events("step", "first") and found.events("step")
