"""Tasks of a recipe and losses of rows: both models, the same items, several seeds."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lxml import html as lxml_html
from tiny import NAMES, TOWNS, examples, make_base, make_recipe, make_rows

from afina.errors import DataError, RecipeError
from afina.evaluate.loss import compare_losses, held_out_loss, row_losses
from afina.evaluate.scores import Scores, record_of
from afina.evaluate.task_table import describe_tasks
from afina.evaluate.tasks import measure_tasks, read_tasks
from afina.model.load_torch import attach_adapter, load_base
from afina.model.reader_torch import TorchReader
from afina.recipe import Recipe, Task, load_recipe
from afina.record import Record
from afina.report.page import write_report
from afina.score.columns import NamedColumns
from afina.score.metrics import exact_match
from afina.score.score import score_file

CPU = torch.device("cpu")
QUESTIONS = [(f"De onde é {name} {town}?", f"{town}") for name in NAMES for town in TOWNS]


def write(folder: Path, rows: list[dict], name: str = "qa.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def recipe_with(folder: Path, base: Path | str = "tiny", **task: object) -> Recipe:
    tasks = [Task(**({"name": "qa", "path": "qa.jsonl", "sample": 10} | task))]  # type: ignore[arg-type]
    recipe = make_recipe(base, root=str(folder))
    evaluate = recipe.evaluate.model_copy(update={"tasks": tasks, "max_new_tokens": 4})
    dataset = recipe.dataset.model_copy(update={"language": "pt-PT"})
    return recipe.model_copy(update={"evaluate": evaluate, "dataset": dataset})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def models(base: Path):
    """A base with a random adapter: (before, after), each to be opened."""
    recipe = make_recipe(base)
    model = attach_adapter(load_base(base, recipe, CPU), recipe.adapter, 0)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    model.eval()

    @contextlib.contextmanager
    def before():
        with model.disable_adapter():
            yield model

    return before, lambda: contextlib.nullcontext(model)


# ---- which rows are asked


def test_rows_of_the_training_data_are_left_out_and_counted(tmp_path: Path) -> None:
    trained = [example for example in examples() if example.messages]
    known = [{"instruction": f"  {each.prompt.upper()}", "input": "", "reference": each.answer} for each in trained[:5]]
    write(tmp_path, [*known, *({"instruction": q, "input": "", "reference": a} for q, a in QUESTIONS)])
    (task,) = read_tasks(recipe_with(tmp_path), trained)
    assert (task.rows, task.trained_on) == (41, 5)
    assert {len(drawn) for drawn in task.drawn.values()} == {10}
    assert task.drawn[123] != task.drawn[456]
    asked = {item.prompt[0] for item in task.items}
    assert asked <= {question for question, _ in QUESTIONS}
    assert task.notes == ["5 of 41 rows stand in the training data and are left out"]
    again = read_tasks(recipe_with(tmp_path), trained)
    assert again[0].drawn == task.drawn, "a seed draws the same rows every time"


def test_a_sample_larger_than_the_file_is_said(tmp_path: Path) -> None:
    write(tmp_path, [{"prompt": q, "completion": a} for q, a in QUESTIONS[:7]])
    (task,) = read_tasks(recipe_with(tmp_path), [])
    assert "a sample of 10 was asked for, and there are 7 rows" in task.notes
    assert any("standard deviation" in note for note in task.notes)


def test_what_is_wrong_with_all_tasks_is_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, [{"a": "x", "b": "y"}])
    write(tmp_path, [{"prompt": "", "reference": "y"}], "empty.jsonl")
    recipe = recipe_with(tmp_path)
    tasks = [
        *recipe.evaluate.tasks,
        Task(name="two", path="empty.jsonl"),
        Task(name="three", path="empty.jsonl", metrics=["accuracy"]),
    ]
    evaluate = recipe.evaluate.model_copy(update={"tasks": tasks})
    with pytest.raises((RecipeError, DataError)) as error:
        read_tasks(recipe.model_copy(update={"evaluate": evaluate}), [])
    assert len(error.value.problems) == 3


def test_recipes_of_tasks(tmp_path: Path, base: Path) -> None:
    write(tmp_path, [{"prompt": "x", "reference": "y"}])
    file = tmp_path / "recipe.yaml"
    head = f"name: x\nbase: {base}\nsources: [{{path: qa.jsonl}}]\nevaluate:\n  tasks:\n"
    file.write_text(head + "    - {name: a, path: qa.jsonl, seeds: [1, 1]}\n    - {name: a, path: no.jsonl}\n")
    with pytest.raises(RecipeError) as error:
        load_recipe(file)
    assert len(error.value.problems) == 2
    assert "evaluate.tasks.1.path" in str(error.value)
    file.write_text(head + "    - {name: a, path: qa.jsonl, metrics: [rouge_l]}\n")
    with pytest.raises(RecipeError, match="rougeL"):
        load_recipe(file)


# ---- both models


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, base: Path, models):
    folder = tmp_path_factory.mktemp("run")
    write(folder, [{"prompt": q, "reference": a} for q, a in QUESTIONS])
    recipe = recipe_with(folder, base)
    tasks = read_tasks(recipe, [])
    _, renderer = make_rows(base, recipe)
    (found,) = measure_tasks(tasks, *models, renderer, recipe, folder)
    return folder, tasks[0], found


def test_each_seed_is_scored_on_its_own_rows(measured) -> None:
    folder, task, found = measured
    rows = [json.loads(line) for line in (folder / "task_predictions.jsonl").open(encoding="utf-8")]
    assert len(rows) == found["items"] == len(task.items)
    metric = next(each for each in found["metrics"] if each["name"] == "rougeL")
    for side, model in (("before", "base"), ("after", "adapter")):
        for number, drawn in enumerate(task.drawn.values()):
            by_hand = sum(rows[place][f"{model}_scores"]["rougeL"] for place in drawn) / len(drawn)
            assert metric[side]["by_seed"][number] == pytest.approx(by_hand)
        assert metric[side]["mean"] == pytest.approx(sum(metric[side]["by_seed"]) / 3)
    assert metric["difference"]["mean"] == pytest.approx(metric["after"]["mean"] - metric["before"]["mean"])
    for row in rows:
        assert row["base_scores"]["exact_match"] == exact_match(row["base"], [row["reference"]], "pt")


def test_stored_answers_give_the_same_scores_again(measured) -> None:
    """`afina score` on the run's own answers."""
    folder, _, found = measured
    report = score_file(folder / "task_predictions.jsonl", NamedColumns(by="task"), language="pt")
    assert report.columns.predictions == ("base", "adapter")
    assert report.columns.ended == ("base_stopped", "adapter_stopped")
    again = {score.name: score for score in report.groups["qa"]}
    for metric in found["metrics"]:
        gain = again[metric["name"]].differences["adapter"]
        assert (gain.low, gain.high) == pytest.approx((metric["difference"]["low"], metric["difference"]["high"]))


def test_answers_cut_at_the_limit_are_found(measured) -> None:
    _, _, found = measured
    assert found["findings"], "a random model with four tokens does not end by itself"
    assert list(found).index("findings") < list(found).index("metrics")


def test_tasks_are_shown_with_findings_above(measured, tmp_path: Path) -> None:
    _, _, found = measured
    scores = {"verdict": {"learned": "no", "broke": "nothing", "passed": True}, "tasks": [found], "intrinsic": None}
    text = "\n".join(describe_tasks(Scores.of(Record(scores, "scores.json"))))
    assert text.index("of") < text.index("exact_match")
    assert "seeds 123, 456, 789" in text and "±" in text
    (tmp_path / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    page = lxml_html.fromstring(write_report(tmp_path).read_text(encoding="utf-8"))
    shown = " ".join(page.get_element_by_id("tasks").text_content().split())
    assert "n = 10, seeds 123, 456, 789" in shown
    assert f"{found['metrics'][1]['after']['mean']:.3f} ±" in shown
    assert shown.index(found["findings"][0]["what"]) < shown.index("exact match")


# ---- losses


def test_losses_of_rows_are_the_models_own(base: Path, models) -> None:
    recipe = make_recipe(base)
    rows, renderer = make_rows(base, recipe)
    pad = renderer.tokenizer.pad_token_id
    with models[1]() as model:
        found = row_losses(TorchReader(model), rows, pad_id=pad, batch_tokens=200)
        whole = held_out_loss(TorchReader(model), rows, pad_id=pad, batch_tokens=128)
        for row, loss in list(zip(rows, found, strict=True))[::9]:
            ids = torch.tensor([row.ids])
            labels = torch.where(torch.tensor([row.mask]), ids, -100)
            with torch.no_grad():
                learned = model(input_ids=ids, labels=labels).loss.item()
                every = model(input_ids=ids, labels=ids).loss.item()
            assert loss.learned / loss.learned_tokens == pytest.approx(learned, rel=1e-4)
            assert loss.all / loss.all_tokens == pytest.approx(every, rel=1e-4)
    assert sum(each.learned for each in found) / whole.tokens == pytest.approx(whole.loss, rel=1e-5)
    assert sum(each.learned_tokens for each in found) == whole.tokens


def test_two_models_losses_side_by_side(base: Path, models) -> None:
    recipe = make_recipe(base)
    rows, renderer = make_rows(base, recipe)
    losses = []
    for opened in models:
        with opened() as model:
            losses.append(
                row_losses(TorchReader(model), rows, pad_id=renderer.tokenizer.pad_token_id, batch_tokens=256)
            )
    found = compare_losses(rows, *losses)
    for name in ("learned", "all"):
        before, after, gain = (found[name][side] for side in ("before", "after", "difference"))
        assert gain["value"] == pytest.approx(after["loss"] - before["loss"])
        assert gain["low"] < gain["value"] < gain["high"]
        assert before["bits_per_byte"] == pytest.approx(
            before["loss"] * before["tokens"] / before["utf8_bytes"] / 0.6931471805599453
        )
    assert found["learned"]["after"]["tokens"] < found["all"]["after"]["tokens"]
    same = compare_losses(rows, losses[0], [replace(each) for each in losses[0]])
    assert same["all"]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": len(rows)}
    assert "nats per token" in "\n".join(describe_tasks(Scores(intrinsic=record_of(found))))
