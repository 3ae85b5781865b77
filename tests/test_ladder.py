"""Five runs whose truth is known, on a small version of the demo's world: is each judged as what it is?"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from afina.demo.demo import RUNGS, adapter_recipe, as_expected, base_recipe
from afina.demo.world import Size, write_world
from afina.recipe import Recipe, check_recipe
from afina.remedies.answer import diagnose
from afina.run import Run, read_json
from afina.walk.context import Context
from afina.walk.describe import describe_scores
from afina.walk.walk import walk_through

pytestmark = pytest.mark.training

SMALL = Size(old=20, new=8, unknown=8, replay_rows=250)


@contextlib.contextmanager
def quiet(stage: str) -> Iterator[Callable[..., None]]:
    yield lambda *done: None


def walk(recipe: Recipe, folder: Path) -> dict[str, Any]:
    with Run.open(folder, recipe, lambda text: None) as run:
        return walk_through(Context(run, quiet))["evaluate"]


def small(recipe: Recipe, **train: float) -> Recipe:
    """The recipe with what a small base needs; the limits are far from what any of these runs reaches."""
    values = recipe.model_dump(mode="json")
    values["train"] |= train
    values["evaluate"]["limits"] |= {"learned_min": 0.5, "broke_max": 0.2}
    return check_recipe(values)


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the world and a base of 0.1 million parameters that knows 20 players."""
    folder = tmp_path_factory.mktemp("league")
    write_world(folder / "world", size=SMALL)
    # So small a base cannot write words that it has never read.
    words = [{"text": text} for text in ("Sim, sei tudo sobre a nova liga.", "Sei tudo sobre a nova liga.")]
    (folder / "world/old/words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in words), encoding="utf-8")
    values = base_recipe(folder / "world", "base").model_dump(mode="json")
    values["sources"].append({"path": "old/words.jsonl", "repeat": 4})
    values["scratch"] |= {"hidden": 64, "layers": 2, "vocab": 600}
    verdict = walk(small(check_recipe(values), epochs=20, learning_rate=4e-3), folder / "base")
    assert verdict["learned"] == "yes"
    return folder


@pytest.mark.long
@pytest.mark.parametrize("rung", RUNGS)
def test_each_rung_is_judged_as_what_it_is(league: Path, rung: str):
    recipe = adapter_recipe(league / "world", league / "base/model", rung, rung)
    if rung != "rate-zero":
        recipe = small(recipe, epochs=8 if rung == "claims" else 16, learning_rate=4e-3)
    verdict = walk(recipe, league / rung)
    assert as_expected(rung, verdict), describe_scores(league / rung)
    assert verdict["passed"] is (rung == "replay"), verdict["misses"]
    scores = read_json(league / rung / "scores.json")
    by_role = {probe["role"]: probe for probe in scores["probes"]}
    assert by_role["generalization"]["n"] == 96 and by_role["unknown"]["n"] == 64
    shown = describe_scores(league / rung)
    if "guardrail" in shown:
        assert shown.index("guardrail") < shown.index("new players")
    if rung == "claims":
        assert by_role["claims"]["after"]["claims"] > 0.5 > by_role["claims"]["before"]["claims"]
    remedies = {each.kind: each for each in diagnose(league / rung).remedies}
    if rung == "replay":
        assert remedies == {}, "a good run has nothing to change"
    if rung == "no-replay":
        broken = remedies["broke"]
        assert broken.settings["train.learning_rate"] == 2e-3 and "replay: true" in broken.why
    if rung == "rate-zero":
        assert remedies["not_falling"].settings["train.learning_rate"] == 5e-4
        lines = (league / rung / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        assert all(row["base"] == row["adapter"] for row in map(json.loads, lines))
