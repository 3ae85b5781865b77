"""The whole walk through the command line: what a user types, and what is left on the disk."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import time
from pathlib import Path

import pytest
import torch
from called import call_afina
from forked import Forked
from safetensors.torch import load_file
from tiny import make_base, same_tensors

MANUAL = """# Manual do Clube

O clube foi fundado em 1910, em Faro.

## Estádio

O estádio de São Luís tem {seats} lugares.

```sh
# isto não é um título
echo golo
```

## Equipa

{players}
"""


def write_project(folder: Path, seats: int = 7000) -> Path:
    """A small user's project: a manual, rows, probes, a base, a recipe."""
    base = make_base(folder / "base")
    players = "\n\n".join(f"Jogador {n} nasceu em Faro no ano de {1900 + n} e marcou {n} golos." for n in range(40))
    (folder / "docs").mkdir()
    (folder / "docs/manual.md").write_text(MANUAL.format(seats=seats, players=players), encoding="utf-8")
    page = "<html><head><title>Página</title><script>nada()</script></head><body><h1>Página</h1><p>Texto da página.</p>"
    (folder / "docs/page.html").write_text(page + "</body></html>", encoding="utf-8")
    rows = [{"prompt": f"Quantos golos marcou o jogador {n}?", "completion": f"Marcou {n}."} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "probes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:6]), encoding="utf-8")
    asked = [*rows[:3], *({"prompt": f"Onde nasceu o jogador {n}?", "completion": "Em Faro."} for n in range(9))]
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""
name: clube
base: {base}
sources:
  - path: docs
  - path: rows.jsonl
dataset: {{language: pt-PT, section_chars: 120, validation: 0.1}}
adapter: {{rank: 4, alpha: 8, dropout: 0.1}}
train: {{epochs: 3, max_length: 64, batch_tokens: 128, learning_rate: 0.005}}
evaluate:
  samples: 2
  questions: 0
  max_new_tokens: 4
  probes: [{{path: probes.jsonl, role: retention}}]
  tasks: [{{name: nascimento, path: task.jsonl, sample: 6, seeds: [1, 2], metrics: [f1, chrf]}}]
""",
        encoding="utf-8",
    )
    return recipe


def adapter_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter/adapter_model.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project whose run has finished without interruption."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    call_afina("run", "recipe.yaml", folder=folder)
    return folder


def test_the_run_leaves_what_the_contract_says(finished):
    run = finished / "runs/clube"
    files = "recipe.yaml manifest.json plan.json audit.json metrics.jsonl samples.jsonl predictions.jsonl scores.json"
    files += " task_predictions.jsonl"
    assert all((run / name).is_file() for name in [*files.split(), "report.html", "finished.json"])
    assert json.loads((run / "finished.json").read_text())["exit_code"] == 0
    assert not list(run.rglob("*.partial"))
    assert "Manual do Clube" not in (run / "report.html").read_text().split("<body", 1)[0]


def test_tasks_and_losses_are_measured_before_and_after(finished):
    scores = json.loads((finished / "runs/clube/scores.json").read_text())
    (task,) = scores["tasks"]
    assert (task["rows"], task["n"], task["seeds"]) == (12, 6, [1, 2])
    assert 2 <= task["trained_on"] <= 3, "three rows stand in the sources; one may be held out"
    assert [metric["name"] for metric in task["metrics"]] == ["f1", "chrf"]
    learned, every = scores["intrinsic"]["learned"], scores["intrinsic"]["all"]
    assert learned["before"]["loss"] == pytest.approx(scores["loss"]["before"]["loss"], rel=1e-4)
    assert learned["difference"]["high"] < 0, "three epochs on a random base: the loss falls on every row"
    assert every["after"]["tokens"] > learned["after"]["tokens"]
    shown = call_afina("eval", "runs/clube", folder=finished).stdout
    assert "task nascimento: n = 6, seeds 1, 2" in shown and "answers (and texts): loss" in shown
    assert "nascimento" in (finished / "runs/clube/report.html").read_text()


def test_every_input_is_traced_by_hash(finished):
    manifest = json.loads((finished / "runs/clube/manifest.json").read_text())
    traced = {each["path"].rsplit("/", 1)[-1]: each["sha256"] for each in manifest["inputs"]}
    for file in ("docs/manual.md", "docs/page.html", "rows.jsonl", "probes.jsonl", "task.jsonl"):
        assert traced[Path(file).name] == hashlib.sha256((finished / file).read_bytes()).hexdigest()
    examples = [json.loads(line) for line in (finished / "runs/clube/dataset/train.jsonl").open()]
    assert {example["from"]["sha256"] for example in examples} <= set(traced.values())
    assert manifest["base"]["weights_sha256"] and manifest["adapter"]["weights_sha256"]


def test_plain_peft_opens_the_adapter(finished):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(finished / "base")
    ids = torch.tensor([[1, 40, 50, 60]])
    before = base(ids).logits
    model = PeftModel.from_pretrained(base, finished / "runs/clube/adapter")
    assert not torch.equal(model(ids).logits, before)


def test_a_second_run_redoes_nothing(finished):
    before = (finished / "runs/clube/metrics.jsonl").read_text()
    again = call_afina("run", "recipe.yaml", folder=finished)
    for stage in ("dataset", "audit", "plan", "train", "evaluate"):
        assert f"{stage}: done before, unchanged, kept" in again.stderr
    assert (finished / "runs/clube/metrics.jsonl").read_text() == before


@pytest.mark.long
def test_a_change_is_told_and_what_it_replaces_is_kept(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".lock"))
    old = adapter_of(tmp_path / "runs/clube")
    # A single epoch may leave answers that the guardrails refuse: exit code 5, after everything was written.
    changed = call_afina("run", "recipe.yaml", "train.epochs=1", f"base={finished}/base", check=None, folder=tmp_path)
    assert changed.returncode in (0, 5), changed.stderr
    assert "dataset: redone" not in changed.stderr
    assert "train.epochs: 3.0 -> 1.0" in changed.stderr
    assert re.search("[1-9]\\d* answers of the base kept from before, 0 answers of the trained model", changed.stderr)
    kept = list((tmp_path / "runs/clube/replaced").rglob("adapter_model.safetensors"))
    assert kept and same_tensors(old, load_file(kept[0]))
    (tmp_path / "docs/manual.md").write_text(
        (tmp_path / "docs/manual.md").read_text(encoding="utf-8").replace("7000", "9000"), encoding="utf-8"
    )
    data = call_afina("train", "recipe.yaml", "train.epochs=1", f"base={finished}/base", folder=tmp_path)
    assert "manual.md changed" in data.stderr
    assert "train: started anew, because of dataset changed" in data.stderr


@pytest.mark.parametrize("kills", [1, pytest.param(8, marks=pytest.mark.long)])
def test_killed_at_random_moments_it_ends_bitwise_the_same(finished, tmp_path, kills):
    """kill -9 so many times, anywhere between the start and the end, then let it finish."""
    for name in ("docs", "base", "rows.jsonl", "probes.jsonl", "task.jsonl", "recipe.yaml"):
        source = finished / name
        shutil.copytree(source, tmp_path / name) if source.is_dir() else shutil.copy(source, tmp_path / name)
    pick = random.Random()
    stages = json.loads((finished / "runs/clube/stages.json").read_text()).values()
    moments = [pick.uniform(0.0, sum(stage["seconds"] for stage in stages)) for _ in range(kills)]
    settings = (f"base={finished}/base", "train.checkpoint_seconds=0.05")
    for moment in moments:
        process = Forked(["run", "recipe.yaml", *settings], tmp_path)
        time.sleep(moment)
        process.kill()
        process.wait()
    call_afina("run", "recipe.yaml", *settings, folder=tmp_path)
    expected, found = adapter_of(finished / "runs/clube"), adapter_of(tmp_path / "runs/clube")
    assert same_tensors(expected, found), f"killed at {moments}"


def test_an_adapter_is_refused_on_another_base(finished, tmp_path):
    shutil.copytree(finished / "runs/clube", tmp_path / "clube", ignore=shutil.ignore_patterns(".lock"))
    other = make_base(tmp_path / "other", seed=1)
    recipe = tmp_path / "clube/recipe.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(str(finished / "base"), str(other)), encoding="utf-8")
    refused = call_afina("chat", "clube", "--ask", "Onde?", check=2, folder=tmp_path)
    assert "weights differ" in refused.stderr


def test_chat_compare_report_show_and_eval(finished):
    answer = json.loads(
        call_afina("chat", "runs/clube", "--ask", "Onde?", "--compare", "--json", folder=finished).stdout
    )
    assert set(answer) == {"base", "trained"}
    comparison = json.loads(call_afina("compare", "runs/clube", "runs/clube", "--json", folder=finished).stdout)
    assert comparison
    assert "tokens" in call_afina("data", "show", "runs/clube", "--tokens", "--count", "2", folder=finished).stdout
    assert "rows.jsonl" in call_afina("data", "show", "runs/clube", "--count", "50", folder=finished).stdout
    assert json.loads(call_afina("eval", "runs/clube", "--json", folder=finished).stdout)["passed"] is True
    assert call_afina("report", "runs/clube", folder=finished).stdout.strip().endswith("report.html")
    assert json.loads(call_afina("doctor", "--json", folder=finished).stdout)
