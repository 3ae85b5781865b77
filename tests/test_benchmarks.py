"""Benchmarks through lm-eval on a local task file and a tiny model, without network."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from called import call_afina
from test_walk import write_project
from tiny import NAMES, TOWNS, make_base, make_recipe

from afina.errors import RecipeError
from afina.evaluate.benchmarks import describe_benchmarks, run_benchmarks

installed = importlib.util.find_spec("lm_eval") is not None
needs_lm_eval = pytest.mark.skipif(not installed, reason="needs the extra lm-eval, which is not installed")

TASK = """task: towns
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata: {{version: 1.0}}
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    rows = [
        {"question": f"Onde nasceu {name} {town}?", "choices": [f"{town} de {name}", "Olhão, Faro"], "answer": 0}
        for name in NAMES
        for town in TOWNS
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    file = tmp_path / "towns.yaml"
    file.write_text(TASK.format(file=data), encoding="utf-8")
    return file


@needs_lm_eval
def test_a_local_task_is_that_of_the_loglikelihoods(task: Path, tmp_path: Path, monkeypatch) -> None:
    """acc counts the rows where the right choice is the likelier one; we ask the model itself."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from afina.model.load_torch import attach_adapter, load_base
    from afina.tokenizer.load import load_tokenizer

    base = make_base(tmp_path / "base")
    recipe = make_recipe(base)
    model = attach_adapter(load_base(base, recipe, torch.device("cpu")), recipe.adapter, 0).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)

    @contextlib.contextmanager
    def before():
        with model.disable_adapter():
            yield model

    tokenizer = load_tokenizer(str(base), recipe.chat)
    (row,) = run_benchmarks([str(task)], before, lambda: contextlib.nullcontext(model), tokenizer)
    assert (row["task"], row["metric"], row["n"], row["higher_is_better"]) == ("towns", "acc", 36, True)

    def accuracy() -> float:
        right = 0
        for line in (tmp_path / "rows.jsonl").open(encoding="utf-8"):
            doc = json.loads(line)
            right += _likelihood(model, tokenizer, doc, 0) > _likelihood(model, tokenizer, doc, 1)
        return right / 36

    assert row["after"] == pytest.approx(accuracy())
    with model.disable_adapter():
        assert row["before"] == pytest.approx(accuracy())
    assert row["difference"]["value"] == pytest.approx(row["after"] - row["before"])
    assert row["difference"]["low"] <= row["difference"]["value"] <= row["difference"]["high"]
    assert "towns acc" in describe_benchmarks([row])


@torch.no_grad()
def _likelihood(model, tokenizer, doc: dict, choice: int) -> float:
    start = tokenizer(doc["question"], add_special_tokens=False)["input_ids"]
    whole = tokenizer(doc["question"] + " " + doc["choices"][choice], add_special_tokens=False)["input_ids"]
    logits = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(logits[place - 1, whole[place]].item() for place in range(len(start), len(whole)))


@needs_lm_eval
def test_a_run_is_measured_through_the_command_line(task: Path, tmp_path: Path, monkeypatch) -> None:
    """A run whose recipe and adapter are there; the rows are kept in it and shown in its report."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    project = tmp_path / "project"
    project.mkdir()
    write_project(project)
    call_afina("train", "recipe.yaml", "train.epochs=0.1", folder=project)
    done = call_afina("eval", "runs/clube", "--lm-eval", task, "--limit", 10, "--json", folder=project)
    (row,) = json.loads(done.stdout)
    assert (row["task"], row["n"], row["limit"]) == ("towns", 10, 10)
    kept = json.loads((project / "runs/clube/benchmarks.json").read_text(encoding="utf-8"))
    assert kept == {"benchmarks": [row]}
    call_afina("report", "runs/clube", folder=project)
    assert "towns acc" in (project / "runs/clube/report.html").read_text(encoding="utf-8")


@needs_lm_eval
def test_unknown_tasks_are_told_at_once(tmp_path: Path) -> None:
    no_name = tmp_path / "x.yaml"
    no_name.write_text("dataset_path: json\n")
    with pytest.raises(RecipeError) as error:
        run_benchmarks([str(tmp_path / "absent.yaml"), str(no_name)], None, None, None)  # type: ignore[arg-type]
    assert len(error.value.problems) == 2


@pytest.mark.skipif(installed, reason="lm-eval is installed")
def test_without_lm_eval_the_extra_is_named() -> None:
    with pytest.raises(RecipeError, match=r"afina\[lm-eval\]"):
        run_benchmarks(["hellaswag"], None, None, None)  # type: ignore[arg-type]
