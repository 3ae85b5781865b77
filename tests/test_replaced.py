"""A run's folder after a change of the recipe: what an earlier one left is set aside, never taken for the result."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import test_stages
from test_stages import recipe, result, walk
from tiny import same_tensors

from afina.cli.opened import reopened
from afina.errors import RecipeError
from afina.export.origin import open_origin
from afina.outcome import find_outcome
from afina.recipe import read_saved_recipe
from afina.run import Run, read_json, read_metrics
from afina.serve.opened import find_target
from afina.walk.models import open_trained
from afina.walk.walk import WALK

base, project = test_stages.base, test_stages.project  # fixtures
RUN = Path("runs/two")
ADAPTER, WHOLE = "rank: 4", "kind: none"


def replaced() -> set[str]:
    """Files and folders below ``replaced/``, without their numbers."""
    return {"/".join(place.parts[4:]) for place in RUN.glob("replaced/*/**/*")}


def top() -> set[str]:
    return {place.name for place in RUN.iterdir() if not place.name.startswith(".")}


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [(ADAPTER, WHOLE, "model"), pytest.param(WHOLE, ADAPTER, "adapter", marks=pytest.mark.long)],
    ids=["whole", "adapter"],
)
def test_the_result_of_another_recipe_is_set_aside_and_not_taken(
    project: Path,
    base: Path,
    before: str,
    after: str,
    kind: str,
):
    """`adapter/` and `model/` side by side: whoever looks for one of them by name takes the older."""
    recipe(project, base, "rows.jsonl", train="epochs: 1", adapter=before)
    walk()
    for name in ("predictions.jsonl", "scores.json", "report.html", "finished.json", "benchmarks.json"):
        (RUN / name).write_text("{}", encoding="utf-8")
    old = result()
    recipe(project, base, "rows.jsonl", train="epochs: 1", adapter=after)
    said = walk()
    other = "adapter" if kind == "model" else "model"
    assert kind in top() and other not in top()
    assert {other, "checkpoints", "predictions.jsonl", "scores.json", "report.html", "benchmarks.json"} <= replaced()
    assert not top() & {"predictions.jsonl", "scores.json", "report.html", "finished.json", "benchmarks.json"}
    assert any("what was there is kept in" in line for line in said)
    assert not same_tensors(result(), old)
    assert find_target(str(RUN)).adapter == (RUN / "adapter" if kind == "adapter" else None)
    assert open_origin(RUN).adapter == (RUN / "adapter" if kind == "adapter" else None)
    with reopened(RUN) as context:
        model, _ = open_trained(context)
        assert hasattr(model, "peft_config") == (kind == "adapter")


def test_a_changed_training_that_is_interrupted_goes_on_from_its_own_states(project: Path, base: Path):
    """What is set aside is the earlier recipe's, once: not the new one's checkpoints on its second start."""
    recipe(project, base, "rows.jsonl", train="epochs: 1")
    walk()
    with pytest.raises(test_stages.Killed):
        walk("train.learning_rate=0.01", kill_at=(None, 2))
    said = walk("train.learning_rate=0.01")
    assert any("train: goes on from step 2" in line for line in said), said
    assert len(list(RUN.glob("replaced/*"))) == 1


@pytest.mark.long
def test_two_results_that_lie_there_already_are_told_apart_and_the_older_set_aside(project: Path, base: Path):
    """As earlier versions left them: the recipe says which is its own."""
    recipe(project, base, "rows.jsonl", train="epochs: 1", adapter=ADAPTER)
    walk()
    shutil.copytree(RUN / "adapter", "older")
    shutil.rmtree("runs")
    recipe(project, base, "rows.jsonl", train="epochs: 1", adapter=WHOLE)
    walk()
    shutil.copytree("older", RUN / "adapter")
    assert find_target(str(RUN)).adapter is None and open_origin(RUN).adapter is None
    said = walk()
    assert any("train: done before, unchanged, kept" in line for line in said)
    assert "adapter" not in top() and "adapter" in replaced()


def test_before_the_new_recipe_has_trained_nothing_is_taken_for_its_result(project: Path, base: Path):
    recipe(project, base, "rows.jsonl", train="epochs: 1", adapter=ADAPTER)
    walk()
    saved = (RUN / "recipe.yaml").read_text(encoding="utf-8")
    (RUN / "recipe.yaml").write_text(saved.replace("kind: lora", "kind: none"), encoding="utf-8")
    for look in (lambda: find_target(str(RUN)), lambda: open_origin(RUN), open_again):
        with pytest.raises(RecipeError, match="has no model/, which its recipe trains; adapter/ is an earlier"):
            look()
    (RUN / "recipe.yaml").write_text(saved.replace("kind: lora", "kind: qlora"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"trained by an earlier recipe of this run: adapter\.kind changed since"):
        find_outcome(RUN, read_saved_recipe(RUN))
    recipe_there = read_saved_recipe(RUN)  # a walk that was stopped before its training leaves the new one
    chat = recipe_there.chat.model_copy(update={"system": "Seja breve.", "end_texts": False})
    (RUN / "recipe.yaml").write_text(recipe_there.model_copy(update={"chat": chat}).to_yaml(), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"chat\.system changed since"):
        find_target(str(RUN))
    (RUN / "recipe.yaml").write_text(saved, encoding="utf-8")
    assert find_outcome(RUN, read_saved_recipe(RUN)).folder == RUN / "adapter"
    shutil.rmtree(RUN / "adapter")
    with pytest.raises(RecipeError, match="holds neither adapter/ nor model/"):
        find_outcome(RUN, read_saved_recipe(RUN))


def open_again() -> None:
    with reopened(RUN) as context:
        open_trained(context)


@pytest.mark.long
def test_a_first_training_that_the_recipe_has_no_more_is_set_aside(project: Path, base: Path):
    recipe(project, base, "docs", "rows.jsonl")
    walk()
    assert any(event.get("stage") == "first" for event in read_metrics(RUN))
    recipe(project, base, "docs", "rows.jsonl", train="epochs: 1")
    walk()
    assert "first" not in top() and {"first/adapter", "first/checkpoints", "adapter"} <= replaced()
    assert "first" not in read_json(RUN / "stages.json"), "its seconds are none of this run's"
    assert not any(event.get("stage") == "first" for event in read_metrics(RUN)), "its curve is none of this run's"
    assert any(event["event"] == "step" for event in read_metrics(RUN))
    recipe(project, base, "docs", "rows.jsonl")
    walk()
    assert (RUN / "first/adapter").is_dir() and any(event.get("stage") == "first" for event in read_metrics(RUN))


def test_a_tokenizer_and_a_model_from_scratch_are_set_aside(project: Path, base: Path):
    recipe(project, base, "docs", train="method: scratch, epochs: 1")
    text = Path("recipe.yaml").read_text(encoding="utf-8").replace(f"base: {base}\n", "")
    small = "scratch: {hidden: 16, layers: 1, heads: 2, vocab: 300}"
    text = "\n".join(small if line.startswith("adapter:") else line for line in text.splitlines())
    Path("recipe.yaml").write_text(text, encoding="utf-8")
    walk()
    assert {"tokenizer", "model"} <= top()
    recipe(project, base, "docs", train="method: cpt, epochs: 1", adapter=WHOLE)
    walk()
    assert "tokenizer" not in top() and {"tokenizer", "model"} <= replaced()
    assert find_target(str(RUN)).base == str(RUN / "model")


def test_judgements_of_a_method_that_is_gone_are_set_aside(project: Path, base: Path):
    recipe(project, base, "pairs.jsonl", train="method: dpo, epochs: 1")
    walk()
    assert "reference.jsonl" in top()
    recipe(project, base, "pairs.jsonl", train="method: orpo, epochs: 1")
    walk()
    assert "reference.jsonl" not in top() and "reference.jsonl" in replaced()


def test_every_file_of_the_evaluation_is_written_by_its_stage_alone():
    """What the list of stages names is what the rooms write."""
    from afina.evaluate.tasks import PREDICTIONS_FILE

    [stage] = [stage for stage in WALK if stage.name == "evaluate"]
    assert PREDICTIONS_FILE in stage.writes
    order = "recipe dataset audit tokenizer tokens plan skills first reference train evaluate manifest report"
    assert " ".join(stage.name for stage in WALK) == order


def test_a_clock_that_is_set_back_changes_no_duration(project: Path, base: Path, monkeypatch):
    """An hour back at every look: no stage takes minus an hour, and the budget counts what was spent."""
    now = [1.8e9]

    def set_back() -> float:
        now[0] -= 3600
        return now[0]

    recipe(project, base, "rows.jsonl", train="epochs: 1")
    began = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", set_back)
        walk()
    took = time.monotonic() - began
    stages = json.loads((RUN / "stages.json").read_text(encoding="utf-8"))
    assert now[0] < 1.8e9 - 4 * 3600, "the clock was read"
    assert all(0 <= stage["seconds"] <= took for stage in stages.values()), stages
    assert 0 < stages["train"]["result"]["wall_seconds"] <= took


def test_what_is_set_aside_is_forgotten_and_keeps_its_place(tmp_path: Path, project: Path, base: Path):
    recipe(project, base, "rows.jsonl")
    from afina.recipe import load_recipe

    with Run.open(tmp_path / "run", load_recipe(Path("recipe.yaml")), lambda _: None) as run:
        for name, wrote in (("first", "first/adapter"), ("evaluate", "scores.json")):
            (run.folder / wrote).parent.mkdir(exist_ok=True)
            run.stage(name, {}, [wrote], lambda wrote=wrote: (run.folder / wrote).write_text("{}") and {})
        run.set_aside("first", ["first/checkpoints", "first/adapter", "scores.json"])
        assert set(run.stages) == {"first"} == set(read_json(run.folder / "stages.json"))
        assert not (run.folder / "first").exists()
        assert (run.folder / "replaced/1-first/first/adapter").read_text() == "{}"
        run.set_aside("first", ["first/adapter"])
        assert not (run.folder / "replaced/2-first").exists(), "there was nothing"


def test_what_is_set_aside_finds_a_place_where_earlier_ones_were_removed(tmp_path: Path, project: Path, base: Path):
    """Whoever needs room removes the oldest: the number of those that are left may be taken."""
    recipe(project, base, "rows.jsonl")
    from afina.recipe import load_recipe

    with Run.open(tmp_path / "run", load_recipe(Path("recipe.yaml")), lambda _: None) as run:
        for number in (1, 2, 3):
            (run.folder / "adapter").mkdir()
            (run.folder / "adapter/a").write_text(str(number))
            run.set_aside("train", ["adapter"])
            if number == 2:
                shutil.rmtree(run.folder / "replaced/1-train")
        left = {place.parent.parent.name: place.read_text() for place in run.folder.glob("replaced/*/adapter/a")}
        assert left == {"2-train": "2", "3-train": "3"}
