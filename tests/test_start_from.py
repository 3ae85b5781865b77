"""Training on from an earlier run or adapter: its weights, its settings, its base, and a word in the manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import test_stages
from test_stages import Killed, recipe, result, walk
from tiny import make_base, same_tensors

from afina.cli.opened import walk_of
from afina.errors import BaseError, RecipeError
from afina.recipe import load_recipe
from afina.run import read_json, read_metrics
from afina.walk.models import model_to_train
from afina.walk.trainings import trainings_of
from afina.walk.walk import do_stages, walk_through

base, project = test_stages.base, test_stages.project  # fixtures
OLD, NEW = Path("runs/two"), Path("runs/next")


def begin(project: Path, base: Path, adapter: str = "rank: 4") -> None:
    recipe(project, base, "rows.jsonl", train="epochs: 1", adapter=adapter)
    walk()
    recipe(project, base, "rows.jsonl", train="epochs: 1", adapter="")


def first_weights(*overrides: str) -> dict[str, object]:
    """What the new training holds before its first step, by the names in a saved result."""
    with walk_of(Path("recipe.yaml"), list(overrides), Path("runs")) as context:
        do_stages(context, "recipe", "dataset", "tokens", "plan")
        model, _ = model_to_train(context, trainings_of(context.recipe)[0])
        if not hasattr(model, "peft_config"):
            return dict(model.state_dict())
        from peft import get_peft_model_state_dict

        return dict(get_peft_model_state_dict(model))


OTHER_KINDS = ("kind: none", "variant: pissa, rank: 4")


@pytest.mark.parametrize(
    "adapter", ["rank: 4, alpha: 8", *(pytest.param(each, marks=pytest.mark.long) for each in OTHER_KINDS)]
)
def test_a_training_starts_from_the_weights_of_the_run_that_it_names(project: Path, base: Path, adapter: str):
    begin(project, base, adapter)
    old = result(OLD)
    begun = first_weights("name=next", "start_from=runs/two")
    assert all(same_tensors({"w": old[name]}, {"w": begun[name]}) for name in old), "not one step of it is lost"
    with walk_of(Path("recipe.yaml"), ["name=next", "start_from=runs/two"], Path("runs")) as context:
        walk_through(context)
    assert not same_tensors(result(NEW), old) and result(NEW).keys() == old.keys()
    losses = [
        next(event["loss"] for event in read_metrics(folder) if event["event"] == "step") for folder in (OLD, NEW)
    ]
    assert losses[1] < losses[0], "what was learned is there at the first step"
    lineage = read_json(NEW / "manifest.json")["started_from"]
    assert lineage["path"].endswith("runs/two/" + lineage["kind"]) and len(lineage["sha256"]) == 64
    assert "Treinado a partir de" in (NEW / "report.html").read_text(encoding="utf-8")
    said = walk("name=next", "start_from=runs/two")
    assert any("train: done before, unchanged, kept" in line for line in said), said


@pytest.mark.long
def test_one_that_is_killed_goes_on_and_ends_as_if_it_had_not_been(project: Path, base: Path):
    begin(project, base)
    more = ("name=next", "start_from=runs/two", "train.epochs=2")
    walk(*more)
    right = result(NEW)
    shutil.rmtree(NEW)
    with pytest.raises(Killed):
        walk(*more, kill_at=(None, 2))
    said = walk(*more)
    assert any("goes on from step 2" in line for line in said) and same_tensors(result(NEW), right)


@pytest.mark.long
def test_other_weights_under_the_same_name_are_another_training(project: Path, base: Path):
    begin(project, base)
    walk("name=next", "start_from=runs/two")
    walk("seed=3")  # the run that it started from is trained again
    said = walk("name=next", "start_from=runs/two")
    assert any("train: started anew, because of" in line and "start_from" in line for line in said), said


def test_more_epochs_of_a_finished_run_are_offered_its_weights_and_the_offer_leads_on(project: Path, base: Path):
    begin(project, base, "rank: 4")
    recipe(project, base, "rows.jsonl", train="epochs: 1", adapter="rank: 4")
    old = result(OLD)
    said = walk("train.epochs=2")
    offer = next(line for line in said if "start_from=" in line)
    assert "train.epochs: 1.0 -> 2.0" in next(line for line in said if "started anew" in line)
    begun = first_weights("train.epochs=2", "start_from=" + offer.partition("start_from=")[2])
    assert same_tensors(old, {name: begun[name] for name in old})
    said = walk("adapter.rank=2")
    assert not any("start_from=" in line for line in said), "weights of another shape are no start"


def test_an_adapter_whose_targets_are_a_pattern_is_trained_on_where_it_matched(
    project: Path, base: Path, tmp_path: Path
):
    """As Unsloth writes them: a recipe has names only, and could not have said the same."""
    begin(project, base, "rank: 4, targets: [q_proj, v_proj]")
    old, adapter = result(OLD), shutil.copytree(OLD / "adapter", tmp_path / "theirs")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(read_json(file) | {"target_modules": r".*\.(q_proj|v_proj)"}))
    begun = first_weights("name=next", f"start_from={adapter}")
    assert same_tensors(old, {name: begun[name] for name in old})
    assert sorted(load_recipe(Path("recipe.yaml"), [f"start_from={adapter}"]).adapter.targets) == ["q_proj", "v_proj"]
    file.write_text(json.dumps({"peft_type": "IA3", "target_modules": ["k_proj"]}))
    with pytest.raises(RecipeError, match="an adapter of kind IA3, and LoRA alone is trained here"):
        load_recipe(Path("recipe.yaml"), [f"start_from={adapter}"])


def test_what_does_not_fit_is_said_before_a_dataset_is_built(project: Path, base: Path, tmp_path: Path):
    begin(project, base)
    other = make_base(tmp_path / "other", seed=7)
    cases = [
        (["start_from=runs/two"], RecipeError, "this run would start from itself.*name=two-2"),
        (["start_from=runs/two", "adapter.rank=8"], RecipeError, "adapter.rank is 8; what start_from names .* has 4"),
        (["start_from=runs/two", "adapter.kind=none"], RecipeError, "adapter.kind is none; .* has lora"),
        (["start_from=runs/two/adapter", "adapter.kind=none"], RecipeError, "is an adapter, and this recipe trains a "),
        (["start_from=runs/no"], RecipeError, "there is no folder .*/runs/no"),
        (["start_from=docs"], RecipeError, "docs is neither a run nor an adapter"),
        ([f"start_from={base}"], RecipeError, f"go on from a whole model with `base: {base}`"),
        (["start_from=runs/two", f"base={other}"], BaseError, "was trained on .*, whose weights differ"),
    ]
    for words, error, said in cases:
        own = [] if "itself" in said else ["name=next"]
        with pytest.raises(error, match="(?s)" + said):
            walk(*own, *words)
        assert not (NEW / "dataset").exists(), words
    assert (OLD / "adapter").is_dir()


def test_settings_that_are_left_out_are_the_adapters_own(project: Path, base: Path):
    begin(project, base, "rank: 4, alpha: 6, dropout: 0.1, targets: [q_proj, v_proj], variant: rslora")
    for start in ("runs/two", "runs/two/adapter"):
        found = load_recipe("recipe.yaml", [f"start_from={start}"]).adapter
        assert (found.rank, found.alpha, found.dropout, found.variant) == (4, 6, 0.1, "rslora")
        assert sorted(found.targets) == ["q_proj", "v_proj"]
    written = load_recipe("recipe.yaml", ["start_from=runs/two"]).to_yaml()
    Path("again.yaml").write_text(written, encoding="utf-8")
    assert load_recipe("again.yaml").adapter == found, "the resolved recipe says it all, and is read again"
    assert json.loads((OLD / "adapter/adapter_config.json").read_text())["r"] == 4
