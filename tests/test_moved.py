"""A run that was moved, or whose documents are gone: its result and the base are all that is needed to use it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import test_stages
from called import call_afina
from test_stages import write
from tiny import make_base
from transformers import AutoTokenizer

from afina.recipe import read_saved_recipe

base = test_stages.base  # a fixture


KINDS = [pytest.param("rank: 4", id="adapter"), pytest.param("kind: none", id="whole", marks=pytest.mark.long)]


@pytest.fixture(scope="module", params=KINDS)
def moved(request: Any, tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A finished run whose project is gone: documents, probes, template and the base's old place."""
    folder = tmp_path_factory.mktemp("moved")
    project = folder / "project"
    project.mkdir()
    shutil.copytree(base, project / "base")
    (project / "own.jinja").write_text(AutoTokenizer.from_pretrained(base).chat_template + "{# own #}\n")
    rows = [{"prompt": f"Onde joga o {n}?", "completion": f"Em {test_stages.TOWNS[n % 6]}."} for n in range(40)]
    write(project / "rows.jsonl", rows)
    write(project / "asked.jsonl", rows[:3])
    (project / "recipe.yaml").write_text(
        "name: two\nbase: base\nsources: [{path: rows.jsonl}]\ndataset: {language: pt-PT, validation: 0.2}\n"
        f"chat: {{template: own.jinja}}\nadapter: {{{request.param}}}\n"
        "train: {max_length: 64, batch_tokens: 256, learning_rate: 0.005, epochs: 1}\n"
        "evaluate: {samples: 4, max_new_tokens: 8, probes: [{path: asked.jsonl, role: generalization}]}\n",
        encoding="utf-8",
    )
    assert call_afina("run", "recipe.yaml", "--yes", folder=project, check=None).returncode in (0, 5)
    (folder / "new/place").mkdir(parents=True)
    shutil.move(project / "runs/two", folder / "new/place/two")
    shutil.move(project / "base", folder / "new/model")
    shutil.rmtree(project)
    return folder / "new"


@pytest.fixture
def elsewhere(moved: Path, tmp_path: Path, monkeypatch: Any) -> Path:
    """The same for one test, which may change it: the current folder holds the base as `model`."""
    shutil.copytree(moved, tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    return Path("place/two")


def test_a_moved_run_needs_its_result_and_the_base_and_nothing_else(elsewhere: Path, tmp_path: Path):
    run_folder, whole = str(elsewhere), (elsewhere / "model").is_dir()
    before = (elsewhere / "recipe.yaml").read_text(encoding="utf-8"), (elsewhere / "scores.json").read_text()
    said = call_afina("chat", run_folder, "--ask", "Onde joga o 3?", check=2).stderr
    assert "there is no such folder" in said and "base=PATH" in said
    assert call_afina("chat", run_folder, "base=model", "--ask", "Onde joga o 3?", "--max-new-tokens", 4).stdout
    call_afina("serve", run_folder, "base=model", "--dry-run", "--engine", "local")
    call_afina("export", run_folder, "base=model", "--to", "merged", "--no-check")
    call_afina("report", run_folder)
    assert (elsewhere / "report.html").is_file()
    err = call_afina("eval", run_folder, "base=model", check=None).stderr
    assert "tokens: done before" in err and "evaluate: done before" in err, "what was measured stands"
    assert (elsewhere / "recipe.yaml").read_text(encoding="utf-8") == before[0]
    assert (elsewhere / "scores.json").read_text() == before[1]

    (elsewhere / "scores.json").unlink()  # it has to be measured again: without the questions that are gone
    verdict = json.loads(call_afina("eval", run_folder, "base=model", "--json", check=5).stdout)
    assert not verdict["passed"], "the recipe asks for a probe that nobody can ask"
    assert any("the probe generalization could not be asked: asked.jsonl" in each for each in verdict["misses"])
    asked = {json.loads(line)["role"] for line in (elsewhere / "predictions.jsonl").open(encoding="utf-8")}
    assert {"recall", "retention"} <= asked and "generalization" not in asked, "what lies in dataset/ is asked again"

    make_base(tmp_path / "new/other", seed=7)
    words = ("eval", run_folder, "base=other") if whole else ("chat", run_folder, "base=other", "--ask", "Onde?")
    done = call_afina(*words, check=None)
    assert (done.returncode == 2 and "another base" in done.stderr) or (
        "was trained on" in done.stderr and "differ" in done.stderr
    )
    said = call_afina("chat", run_folder, "train.epochs=3", "--ask", "Onde?", check=2).stderr
    assert "only base, root and device may be another" in said


def test_a_base_named_beside_the_run_is_found_from_every_folder(elsewhere: Path, tmp_path: Path):
    """`base: ../../model` in a run's recipe.yaml counts from that file, for every verb alike."""
    file = elsewhere / "recipe.yaml"
    moved = read_saved_recipe(elsewhere).model_copy(update={"base": "../../model"})
    file.write_text(moved.to_yaml(), encoding="utf-8")
    there = str(elsewhere.resolve())
    for words in (("chat", there, "--ask", "Onde?", "--max-new-tokens", "2"), ("serve", there, "--dry-run"),
                  ("export", there, "--to", "merged", "--no-check")):  # fmt: skip
        call_afina(*words, folder=tmp_path)


def test_a_result_that_was_copied_alone_is_asked_served_and_written_and_eval_says_what_is_missing(
    elsewhere: Path,
):
    alone = Path("alone")
    alone.mkdir()
    shutil.copy(elsewhere / "recipe.yaml", alone)
    kind = "model" if (elsewhere / "model").is_dir() else "adapter"
    shutil.copytree(elsewhere / kind, alone / kind)
    for words in (("chat", "--ask", "Onde?", "--max-new-tokens", "2"), ("serve", "--dry-run"),
                  ("export", "--to", "merged", "--no-check")):  # fmt: skip
        call_afina(words[0], "alone", "base=model", *words[1:])
    said = call_afina("eval", "alone", "base=model", check=2).stderr
    assert "has no dataset" in said and "export --no-check" in said
