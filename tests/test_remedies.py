"""`afina doctor RUN`: each remedy by a tiny run that shows it, and silence where a run is good (test_ladder.py too)."""

from __future__ import annotations

import json
import random
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from called import call_afina
from test_walk import write_project
from tiny import make_base

import afina.train.methods.answers_torch as answers
from afina.errors import AfinaError, Problem, RecipeError
from afina.evaluate.scores import Scores, Verdict
from afina.recipe import METHODS, Recipe, Train, load_recipe, read_saved_recipe
from afina.record import Record
from afina.remedies.answer import Diagnosis, apply, diagnose
from afina.remedies.reading import Remedy, RunReading
from afina.remedies.rules import RULES
from afina.watch.view import COLUMNS, RunView, RunWarning, Steps, TrainingView


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project, where the test then is."""
    monkeypatch.chdir(project)
    return project


@pytest.fixture(scope="module")
def flat(project: Path) -> Path:
    """A run whose loss does not fall: a rate that moves nothing."""
    settings = ("train.learning_rate=1e-9", "train.epochs=3", "train.batch_tokens=48")
    call_afina("train", "recipe.yaml", "name=flat", *settings, folder=project)
    return project / "runs/flat"


def kinds(found: Diagnosis) -> list[str]:
    return [each.kind for each in found.remedies]


def remedy(found: Diagnosis, kind: str) -> Remedy:
    return next(each for each in found.remedies if each.kind == kind)


# ---- runs that show it


def test_a_rate_that_gives_nan_is_lowered_and_its_warm_up_doubled(here: Path) -> None:
    settings = ("train.learning_rate=1e8", "train.clip=1e30", "train.epochs=1", "train.warmup=0.05")
    call_afina("train", "recipe.yaml", "name=nan", *settings, check=5)
    found = diagnose(Path("runs/nan"))
    shown = remedy(found, "unstable")
    assert "NaN or infinite after step" in shown.seen and "went back 3 times and gave up" in shown.seen
    assert shown.settings == {"train.learning_rate": 2e-4, "train.warmup": 0.1}, "half of 1e8 would be too much as well"
    said = call_afina("doctor", "runs/nan").stdout
    assert "-> train.learning_rate=0.0002 train.warmup=0.1" in said
    assert "afina run runs/nan/recipe.yaml train.learning_rate=0.0002 train.warmup=0.1" in said


@pytest.mark.long
def test_nan_is_gone_with_what_is_advised(here: Path) -> None:
    settings = ("train.learning_rate=1e8", "train.clip=1e30", "train.epochs=1", "train.tries=0")
    call_afina("train", "recipe.yaml", "name=nan0", *settings, check=5)
    found = diagnose(Path("runs/nan0"))
    assert "unstable" in kinds(found)
    assert call_afina(*shlex.split(found.command)[1:], check=None).returncode in (0, 5)
    assert "unstable" not in kinds(diagnose(Path("runs/nan0")))


def test_micro_batches_that_do_not_fit_are_halved_and_accumulated(here: Path, monkeypatch: Any) -> None:
    own = answers.target_loss

    def loss(model: Any, batch: Any, **options: Any) -> Any:
        if len(batch.ids_BL) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return own(model, batch, **options)

    monkeypatch.setattr(answers, "target_loss", loss)
    call_afina("train", "recipe.yaml", "name=memory", "train.epochs=0.5", "train.accumulate=2")
    shown = remedy(diagnose(Path("runs/memory")), "out_of_memory")
    batch, accumulate = shown.settings["train.batch_tokens"], shown.settings["train.accumulate"]
    assert batch < 128 and batch * accumulate == 128 * 2, "as many tokens in a step"
    assert "micro-batches of 128 tokens did not fit" in shown.seen


@pytest.mark.long
def test_a_row_that_does_not_fit_alone_needs_less_of_itself(here: Path, monkeypatch: Any) -> None:
    def loss(model: Any, batch: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(answers, "target_loss", loss)
    call_afina("train", "recipe.yaml", "name=row", check=4)
    shown = remedy(diagnose(Path("runs/row")), "out_of_memory")
    assert shown.settings.pop("train.checkpoint_activations") is True  # type: ignore[attr-defined]
    assert (
        set(shown.settings) <= {"train.batch_tokens", "train.accumulate"} and "a single row did not fit" in shown.seen
    )


def test_a_loss_that_does_not_fall_gets_a_rate_that_moves_it(flat: Path) -> None:
    shown = remedy(diagnose(flat), "not_falling")
    assert shown.settings == {"train.learning_rate": 5e-4, "train.epochs": 4.0}
    assert "at a rate of 1e-09" in shown.seen


@pytest.mark.long
def test_many_passes_over_few_rows_are_too_many(here: Path) -> None:
    """Rows whose answers follow from nothing can be learned by heart, and nothing of them holds for others."""
    pick = random.Random(0)
    rows = [{"prompt": f"Golos {n}?", "completion": f"{pick.randrange(10**6)}"} for n in range(24)]
    (here / "noise.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    make_base(here / "wide", hidden_size=96, intermediate_size=256)
    settings = ["sources=[{path: noise.jsonl}]", "dataset.validation=0.3", "base=./wide", "adapter.kind=none"]
    call_afina("train", "recipe.yaml", "name=over", *settings, "train.batch_tokens=512", "train.epochs=60")
    shown = remedy(diagnose(Path("runs/over")), "overfitting")
    assert 1 <= shown.settings["train.epochs"] < 60
    assert (shown.settings["train.patience"], shown.settings["train.validate_per_epoch"]) == (2, 2)
    assert "held-out loss was lowest at step" in shown.seen
    call_afina("train", *shlex.split(diagnose(Path("runs/over")).command)[2:])
    assert "overfitting" not in kinds(diagnose(Path("runs/over"))), "with patience the best weights are kept"


def test_a_budget_that_is_spent_buys_larger_batches(here: Path) -> None:
    settings = ("train.epochs=1", "budget.hours=1e-7", "budget.anyway=true", "train.accumulate=4")
    call_afina("train", "recipe.yaml", "name=slow", *settings, check=4)
    shown = remedy(diagnose(Path("runs/slow")), "too_slow")
    assert shown.settings == {"train.batch_tokens": 256, "train.accumulate": 2}, "a tiny base leaves room"


# ---- rules by what they are given


def steps_of(count: int, tokens: float = 100.0, speed: float = 100.0) -> Steps:
    steps = Steps()
    for name in COLUMNS:
        steps[name].extend([{"tokens": tokens, "tokens_per_second": speed}.get(name, 1.0)] * count)
    return steps


def reading(
    recipe: Recipe,
    *warnings: RunWarning,
    view: Mapping[str, Any] = {},
    training: Mapping[str, Any] = {},
    **rest: Any,
) -> RunReading:
    of = TrainingView("train", steps_of(10), step=10, planned_steps=30)
    of = replace(of, **training)
    seen = RunView(Path("runs/x"), "x", "finished", "", stage="train", trainings=(of,), warnings=warnings)
    return RunReading(replace(seen, **view), of, recipe, **rest)


@pytest.fixture
def recipe(project: Path) -> Recipe:
    return load_recipe(project / "recipe.yaml")


PLAN = Record({"memory": {"usable": 1e9}, "time": {"parts": {"training": {"high": 1.0}}}}, "plan.json")
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # what it shows -> the rule, what it is given, what it sets
    "killed with full memory": (
        "out_of_memory",
        {
            "warnings": [RunWarning("memory_nearly_full", "", figures={"memory_bytes": 9e8, "usable_bytes": 1e9})],
            "view": {"state": "killed"},
        },
        {"train.batch_tokens": 64, "train.accumulate": 2},
    ),
    "full memory and a good end": (
        "out_of_memory",
        {"warnings": [RunWarning("memory_nearly_full", "", figures={"memory_bytes": 9e8, "usable_bytes": 1e9})]},
        {},
    ),
    "went back once and learned on": (
        "unstable",
        {"training": {"went_back": [{"step": 7, "to": 4, "rate_factor": 0.5}]}},
        {"train.learning_rate": 2e-4, "train.warmup": 0.06},
    ),
    "the base computes NaN": (
        "broken_base",
        {"view": {"error": "TrainingDiverged", "state": "stopped"}, "training": {"step": 0, "precision": "bf16"}},
        {"train.precision": "fp32"},
    ),
    "nothing left to learn": (
        "nothing_left",
        {"view": {"error": "TrainingDiverged", "state": "stopped"}},
        {"train.epochs": 0.5, "train.learning_rate": 0.0025},
    ),
    "slower than planned, with room": (
        "too_slow",
        {"training": {"peak_memory_bytes": 1e8}, "plan": PLAN},
        {"train.batch_tokens": 256},
    ),
    "slower than planned, without room": (
        "too_slow",
        {"training": {"peak_memory_bytes": 9e8}, "plan": PLAN},
        {"train.max_length": 32, "dataset.on_too_long": "drop"},
    ),
    "as fast as planned": ("too_slow", {"training": {"steps": steps_of(1)}, "plan": PLAN}, {}),
    "still falling, and rows too long": (
        "more_to_learn",
        {
            "warnings": [RunWarning("still_falling", "", figures={"fell_by": 0.1, "held_out_loss": 1.0})],
            "dropped": {"too_long": 99},
        },
        {"train.epochs": 5.0, "train.max_length": 768},
    ),
    "still falling, and good enough": (
        "more_to_learn",
        {
            "warnings": [RunWarning("still_falling", "", figures={"fell_by": 0.1, "held_out_loss": 1.0})],
            "scores": Scores(verdict=Verdict("yes", "nothing", True, "")),
        },
        {},
    ),
    "learned too little": (
        "more_to_learn",
        {"scores": Scores(verdict=Verdict("too little", "nothing", False, ""))},
        {"train.epochs": 5.0},
    ),
    "broke something": (
        "broke",
        {"scores": Scores(verdict=Verdict("yes", "30 % of what it knew (capitals)", False, ""))},
        {"train.learning_rate": 0.0025},
    ),
    "broke nothing": ("broke", {"scores": Scores(verdict=Verdict("yes", "nothing", True, ""))}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_rule_sets_what_its_case_asks_for(recipe: Recipe, project: Path, case: str) -> None:
    rule, given, expected = CASES[case]
    if case == "went back once and learned on":  # half of a rate that is an adapter's
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"learning_rate": 4e-4})})
    run = reading(recipe, *given.get("warnings", ()), **{key: each for key, each in given.items() if key != "warnings"})
    found = RULES[rule](run)
    assert dict(found.settings if found else {}) == expected
    load_recipe(project / "recipe.yaml", [f"{key}={value}" for key, value in expected.items()])


def test_a_good_run_moves_no_rule(recipe: Recipe) -> None:
    good = reading(recipe, scores=Scores(verdict=Verdict("yes", "nothing", True, "")))
    assert [kind for kind, rule in RULES.items() if rule(good)] == []


def test_of_two_trainings_each_has_its_own_keys(recipe: Recipe) -> None:
    train = Train.model_validate(
        {**recipe.train.model_dump(), "first": {"method": "cpt", "learning_rate": 4e-4, "warmup": 0.1}}
    )
    run = reading(
        recipe.model_copy(update={"train": train}),
        training={"name": "first", "went_back": [{"step": 7, "to": 4, "rate_factor": 0.5}]},
    )
    found = RULES["unstable"](run)
    assert found and found.settings == {"train.first.learning_rate": 2e-4, "train.first.warmup": 0.2}


def test_the_usual_rate_is_the_recipes_own() -> None:
    assert METHODS["sft"].usual_rate == Train.model_fields["learning_rate"].default


# ---- the answer


def test_two_remedies_for_one_key_are_tried_in_turn(flat: Path, monkeypatch: Any) -> None:
    faster, slower = Remedy("a", "b", {"train.epochs": 5.0}), Remedy("c", "d", {"train.epochs": 1.0})
    monkeypatch.setattr("afina.remedies.answer.RULES", {"first": lambda _: faster, "second": lambda _: slower})
    found = diagnose(flat)
    assert [(each.kind, each.after) for each in found.remedies] == [("first", ""), ("second", "first")]
    assert (
        found.settings == {"train.epochs": 5.0} and "(after first, which sets the same otherwise)" in found.describe()
    )


def test_settings_go_into_the_recipe_and_nothing_else_changes(here: Path, flat: Path) -> None:
    file = here / "mine.yaml"
    before = (here / "recipe.yaml").read_text(encoding="utf-8").lstrip().replace("name: clube", "# mine\nname: flat")
    file.write_text(before, encoding="utf-8")
    call_afina("doctor", "runs/flat", "--apply", "mine.yaml")
    after = file.read_text(encoding="utf-8")
    assert load_recipe(file).train.learning_rate == 5e-4 and load_recipe(file).train.epochs == 4
    changed = [(old, new) for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert len(changed) == 1 and changed[0][0].startswith("train:") and "# mine" in after
    assert read_saved_recipe(flat).train.learning_rate == 1e-9, "the run's own says what was trained"
    with pytest.raises(RecipeError, match="the recipe is of the run clube, and this is flat"):
        apply(diagnose(flat), here / "recipe.yaml")


def test_for_machines(here: Path, flat: Path) -> None:
    said = json.loads(call_afina("doctor", "runs/flat", "--json").stdout)
    (shown,) = (each for each in said["remedies"] if each["kind"] != "too_slow")  # as it is beside other programs
    assert (said["state"], shown["kind"]) == ("trained", "not_falling")
    assert shown["settings"] == {"train.learning_rate": 5e-4, "train.epochs": 4.0}
    assert shown["settings"].items() <= said["settings"].items()
    assert {"train.learning_rate=0.0005", "train.epochs=4.0"} <= set(shlex.split(said["command"]))


def test_no_run_and_a_damaged_one_are_refused(here: Path, flat: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    call_afina("doctor", str(tmp_path / "photos"), check=2)
    call_afina("doctor", "--apply", "recipe.yaml", check=2)
    shutil.copytree(flat, tmp_path / "damaged")
    (tmp_path / "damaged/stages.json").write_text("{", encoding="utf-8")
    with pytest.raises(AfinaError, match=r"stages\.json"):
        diagnose(tmp_path / "damaged")


def test_how_a_run_ended_is_told(recipe: Recipe) -> None:
    view = reading(
        recipe, view={"problems": (Problem("the disk is full", "make room", "runs/x"),), "state": "stopped"}
    ).view
    assert "runs/x: the disk is full\n    -> make room" in Diagnosis(view, ()).describe()
